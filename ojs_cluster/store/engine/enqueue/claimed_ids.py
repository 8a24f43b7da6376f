"""Handle client-chosen ids that another request has claimed first.

The alias of an id points to the shard where the first request stores its job. It does not prove
that the job exists: the first request may still be running, or its process may have died. If this
request were answered ``duplicate`` although no job exists, the client would believe that its job is
stored. So a request that finds an alias to another shard checks that shard:

* The shard has a job with the id: the request is answered ``duplicate``.
* A transaction has reserved the id there: the request waits for the transaction for
  ``unique.GRACE_MS``, then resolves it, and checks the shard again.
* The shard has no such job, and holds a partition of the job's queue: the request stores its job in
  the same shard. Both requests then write the same Redis key, and one of them is refused. This also
  happens when two processes know different numbers of partitions.
* The shard has no such job, and holds no partition of the queue, because the first request named
  another queue: the request waits until the claim is ``unique.GRACE_MS`` old. Then it writes a
  tombstone in that shard, which keeps the first request out, drops the alias and claims the id. No
  clock is compared with another. A repetition of the first request that has read the tombstone
  claims the id again before it stores its job, so the alias is dropped only if its claim is still
  the one that was read before the tombstone was written.

A tombstone in the owner shard of the id keeps out a request that stores its job there. An alias may
take its place, because it keeps such a request out, too. When the alias is removed, the tombstone
is back (``remove_alias.lua``).

A request whose job belongs into the owner shard of its id claims no alias. If another request has
claimed the id, the script that stores the job finds the alias, and the same rules apply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import (
    AliasClaims,
    ClaimedElsewhere,
    ForeignAlias,
    drop_claimed,
    duplicate_id,
    read_claim,
)
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import replace_tombstone
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently

RETRY_S = 10.0
"""Value of the Retry-After header, in seconds, while an earlier request has claimed the id for
another queue."""


def foreign_target(store: Store, shard: Shard, existing: Mapping[bytes, bytes]) -> Shard | None:
    """Return the shard to which an alias points, None unless that is another shard.

    Args:
        store: the store.
        shard: the shard in which a script found the id in use.
        existing: fields that are stored under the id.
    """
    alias = existing.get(f.ALIAS)
    target = shard if alias is None else store.keys.shard(int(alias))
    return None if target is shard else target


async def find_foreign_aliases(
    store: Store, shard: Shard, ids: Sequence[tuple[str, int]]
) -> list[ForeignAlias]:
    """Return the ids of ``shard`` whose aliases point to other shards.

    Args:
        store: the store.
        shard: the owner shard of the ids.
        ids: the ids, each with its position in the request.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: list[ForeignAlias] = []

    async def check(pair: tuple[str, int]) -> None:
        job_id, index = pair
        alias: Any = await store.redis.call(
            shard.slot, "HGET", shard.job(job_id), f.ALIAS, idempotent=True
        )
        if alias is not None and int(alias) != shard.index:
            found.append(ForeignAlias(job_id, index, store.keys.shard(int(alias))))

    await run_concurrently(ids, check)
    return found


async def first_shards(
    store: Store, claims: AliasClaims, jobs: Sequence[NewJob], claimed: Sequence[ForeignAlias]
) -> dict[str, Shard]:
    """Return by id the shards in which the first requests store their jobs.

    The request stores its jobs with these ids there, too. Ids that are not in the result may be
    claimed again: they are free, or the transactions that had reserved them have ended.

    Args:
        store: the store.
        claims: claims of this request. The function releases them when it raises.
        jobs: all jobs of the request.
        claimed: ids of the request whose aliases point elsewhere.

    Raises:
        Duplicate: there is a job with one of the ids. The error names the first such id of the
            request.
        BackendUnavailable: an earlier request has claimed an id for another queue, or Redis did not
            answer in time.
    """
    await ensure_task()
    deadline = trio.current_time() + 2 * unique.GRACE_MS / 1000
    shards: dict[str, Shard] = {}
    refused: dict[int, OJSError] = {}  # by position of the job in the request
    reserved: dict[tuple[Shard, str], list[str]] = {}  # ids by shard and transaction

    async def check(claim: ForeignAlias) -> None:
        try:
            transaction = await _reserved_by(store, claim, len(jobs))
            if transaction is not None:
                reserved.setdefault((claim.target, transaction), []).append(claim.job_id)
            elif await _can_store_in_target(store, jobs, claim, deadline):
                shards[claim.job_id] = claim.target
        except OJSError as error:
            refused[claim.index] = error

    await run_concurrently(claimed, check)
    try:
        if refused:
            raise refused[min(refused)]
        for (shard, transaction), ids in reserved.items():
            await wait_for_transaction(store, shard, ids, transaction)
    except OJSError:
        await claims.release()
        raise
    return shards


async def _can_store_in_target(
    store: Store, jobs: Sequence[NewJob], claim: ForeignAlias, deadline: float
) -> bool:
    """Return whether to store a job where its alias points; otherwise its id may be claimed again.

    Args:
        store: the store.
        jobs: all jobs of the request.
        claim: the alias of the job's id.
        deadline: end of the wait for the first request, in seconds of trio's clock.

    Raises:
        BackendUnavailable: the first request has claimed the id for another queue, and may still
            store its job.
    """
    job = jobs[claim.index]
    if await _is_partition(store, job, claim.target):
        await ensure_open(store, claim.target, [job.queue])
        return True
    if not await _should_claim_again(store, claim, len(jobs), deadline):
        raise BackendUnavailable(
            f"an earlier request has claimed the id '{claim.job_id}'",
            outcome="not_applied",
            retry_after_s=RETRY_S,
        )
    return False


async def first_shard(
    store: Store, claims: AliasClaims, job: NewJob, conflict: ClaimedElsewhere, default: Shard
) -> Shard:
    """Return the shard in which to store one job whose id another request has claimed.

    Args:
        store: the store.
        claims: claims of this request. The function releases them when it raises.
        job: the job.
        conflict: the alias of the job's id.
        default: the shard to return when the id may be claimed again.

    Raises:
        Duplicate: there is a job with the id.
        BackendUnavailable: an earlier request has claimed the id for another queue, or Redis did
            not answer in time.
    """
    shards = await first_shards(store, claims, [job], conflict.ids)
    return next(iter(shards.values()), default)


async def wait_for_transaction(
    store: Store, shard: Shard, job_ids: Sequence[str], transaction_id: str
) -> None:
    """Wait for the transaction that has reserved ids, and resolve it when it takes too long.

    Args:
        store: the store.
        shard: where the ids are reserved.
        job_ids: the reserved ids; the function waits for the first.
        transaction_id: id of the transaction.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    with trio.move_on_after(unique.GRACE_MS / 1000):
        while await _reserving_transaction(store, shard, job_ids[0]) == transaction_id:
            await unique.pause()
        return
    await transactions.resolve_and_release(store, shard, transaction_id, job_ids)


async def _should_claim_again(
    store: Store, claim: ForeignAlias, total: int, deadline: float
) -> bool:
    """Wait for the request that has claimed an id; return whether to try to claim it again.

    The answer is also yes when a transaction has reserved the id in the meantime. The next claim
    then waits for that transaction.

    Raises:
        Duplicate: the job of that request is stored.
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(claim.job_id)
    if claim.target is owner:
        return True  # a tombstone, or a reservation that has ended: no alias
    while not await _take_over(store, claim.target, claim.job_id):
        found: Any = await store.redis.call(
            owner.slot, "HGET", owner.job(claim.job_id), f.ALIAS, idempotent=True
        )
        if found is None or int(found) != claim.target.index:
            return True
        if trio.current_time() >= deadline:
            return False
        await unique.pause()
        if await _reserved_by(store, claim, total) is not None:
            return True
    return True


async def _take_over(store: Store, target: Shard, job_id: str) -> bool:
    """Remove an alias to ``target`` whose request stalls or has died.

    Returns:
        Whether the alias is removed. Otherwise the claim is young, or was renewed, or the shard has
        a job with the id or a reservation of it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    claim, age_ms = await read_claim(store, job_id)
    # The age also proves that no later claim has the same time in ms as this one.
    if age_ms < max(unique.GRACE_MS, 1) or not await replace_tombstone(store, target, job_id):
        return False
    return await drop_claimed(store, target, job_id, claim)


async def _reserving_transaction(store: Store, shard: Shard, job_id: str) -> str | None:
    found = await store.redis.call(
        shard.slot, "HGET", shard.job(job_id), f.TRANSACTION, idempotent=True
    )
    return found.decode() if isinstance(found, bytes) else None


async def _reserved_by(store: Store, claim: ForeignAlias, total: int) -> str | None:
    """Return the transaction that has reserved the id in the shard to which its alias points.

    Returns:
        None when no transaction has reserved the id.

    Raises:
        Duplicate: there is a job, or a final tombstone, which must not be replaced.
    """
    shard, job_id = claim.target, claim.job_id
    found: Any = await store.redis.call(
        shard.slot,
        *(
            "HMGET",
            shard.job(job_id),
            f.TRANSACTION,
            f.ALIAS,
            f.TOMBSTONE,
            f.STATE,
            f.QUEUE,
            f.TYPE,
        ),
        idempotent=True,
    )
    transaction, alias, tombstone, *job = found
    if transaction is not None:
        return str(transaction.decode())
    # An alias that points to its own shard is a tombstone. Without the field ``TOMBSTONE`` no later
    # request may replace it: a workflow step was refused under this id.
    is_final_tombstone = alias is not None and int(alias) == shard.index and tombstone is None
    if any(job) or is_final_tombstone:  # a malformed job may lack one of its fields
        raise duplicate_id(job_id, claim.index, total)
    return None


async def _is_partition(store: Store, job: NewJob, shard: Shard) -> bool:
    """Return whether a job may live in ``shard``.

    If the cached partition table says no, the newest table is read.
    """
    number = store.keys.partition_of(job.queue, shard)
    if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
        return number == 0  # all jobs of a queue with a rate limit live in its first partition
    if number < store.partitions.layout(job.queue).occupied_count:
        return True
    await store.partitions.try_read(store)
    return number < store.partitions.layout(job.queue).occupied_count
