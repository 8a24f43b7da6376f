"""Ids that another request has claimed: what the next request for the same id does.

The alias of an id says where the first request wants its job. It proves no job: that request may
still be under way, or its process is dead. A client repeats a request after an error. If it were
told ``duplicate`` without a job, it would take its job for stored. So a request that meets an alias
which leads elsewhere looks there:

* There is a job: the id is taken.
* A transaction has reserved the id: wait for it, end it when that takes too long, and look again.
* There is nothing, or a fence: the first choice stays. Where that shard holds a partition of the
  job's queue, this job goes there as well. Both requests then meet at one key, where one of them
  is refused. So requests that know different numbers of partitions agree.
* That shard holds no partition of the queue, because the first request named another queue: this
  request waits for a moment, then it is refused with a 503 while the other can still store its job.
  After that the alias is dropped (``aliases.drop_if_unused``), and this request claims the id.
  Where the
  alias leads to a fence, the janitor drops both, ten minutes after the fence was set.

A request whose own shard is the one that the id names claims nothing. It meets the alias when it
stores its job, and does the same.
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
from ojs_cluster.store.enqueue.aliases import (
    AliasClaims,
    Claimed,
    ClaimedElsewhere,
    drop_if_unused,
    duplicate_id,
)
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique import unique

RETRY_S = 10.0
"""What a client is told to wait while an earlier request for another queue has the id."""


def leads_to(store: Store, shard: Shard, there: Mapping[bytes, bytes]) -> Shard | None:
    """Return where an alias leads that a script of ``shard`` has met; None for anything else."""
    alias = there.get(f.ALIAS)
    target = shard if alias is None else store.keys.shard(int(alias))
    return None if target is shard else target


async def find_foreign_aliases(
    store: Store, shard: Shard, ids: Sequence[tuple[str, int]]
) -> list[Claimed]:
    """Return the ids of ``shard`` whose aliases lead to other shards.

    Args:
        store: the store.
        shard: the shard that the ids name.
        ids: with the position of each in its request.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: list[Claimed] = []

    async def one(pair: tuple[str, int]) -> None:
        job_id, index = pair
        alias: Any = await store.redis.call(
            shard.slot, "HGET", shard.job(job_id), f.ALIAS, idempotent=True
        )
        if alias is not None and int(alias) != shard.index:
            found.append(Claimed(job_id, index, store.keys.shard(int(alias))))

    await over_shards(ids, one)
    return found


async def first_shards(
    store: Store, claims: AliasClaims, jobs: Sequence[NewJob], claimed: Sequence[Claimed]
) -> dict[str, Shard]:
    """Return the shard of each job whose first request has chosen one. Workers look there.

    Ids that are left out may be claimed again: they are free by now, or others have settled them.

    Args:
        store: the store.
        claims: what this request has claimed; it is given back when an id cannot be used.
        jobs: all of the request.
        claimed: its ids whose aliases lead elsewhere.

    Raises:
        Duplicate: there is a job with an id; of several, the first of the request.
        BackendUnavailable: an earlier request for another queue has an id, or Redis did not
            answer in time.
    """
    await ensure_task()
    patience = trio.current_time() + unique.GRACE_MS / 1000
    shards: dict[str, Shard] = {}
    refused: dict[int, OJSError] = {}
    reserved: dict[tuple[Shard, str], list[str]] = {}

    async def one(claim: Claimed) -> None:
        job = jobs[claim.index]
        try:
            transaction = await _reserved_by(store, claim, len(jobs))
            if transaction is not None:
                reserved.setdefault((claim.target, transaction), []).append(claim.job_id)
            elif await _is_partition(store, job, claim.target):
                await store.partitions.ensure_open(store, claim.target, [job.queue])
                shards[claim.job_id] = claim.target
            elif not await _is_settled(store, claim, len(jobs), patience):
                raise BackendUnavailable(
                    f"an earlier request for another queue has the id '{claim.job_id}'",
                    outcome="not_applied",
                    retry_after_s=RETRY_S,
                )
        except OJSError as error:
            refused[claim.index] = error

    await over_shards(claimed, one)
    try:
        if refused:
            raise refused[min(refused)]
        for (shard, transaction), ids in reserved.items():
            await wait_for_transaction(store, shard, ids, transaction)
    except OJSError:
        await claims.give_back()
        raise
    return shards


async def first_shard(
    store: Store, claims: AliasClaims, job: NewJob, met: ClaimedElsewhere, wanted: Shard
) -> Shard:
    """Return where one job goes whose id another request has claimed: ``first_shards`` for one."""
    shards = await first_shards(store, claims, [job], met.ids)
    return next(iter(shards.values()), wanted)


async def wait_for_transaction(
    store: Store, shard: Shard, job_ids: Sequence[str], transaction_id: str
) -> None:
    """Wait for the transaction that has reserved ids, and end it when it takes too long.

    Args:
        store: the store.
        shard: where the ids are reserved.
        job_ids: those that are in the way; the first is the one that is waited for.
        transaction_id: the transaction.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    with trio.move_on_after(unique.GRACE_MS / 1000):
        while await _reserving_transaction(store, shard, job_ids[0]) == transaction_id:
            await unique.pause()
        return
    await transactions.clear(store, shard, transaction_id, job_ids)


async def _is_settled(store: Store, claim: Claimed, of: int, patience: float) -> bool:
    """Wait for the request that has claimed an id; return whether the id may be claimed again.

    Raises:
        Duplicate: there is its job by now.
        BackendUnavailable: Redis did not answer in time.
    """
    home = store.keys.shard_of_id(claim.job_id)
    while not await drop_if_unused(store, claim.target, claim.job_id):
        found: Any = await store.redis.call(
            home.slot, "HGET", home.job(claim.job_id), f.ALIAS, idempotent=True
        )
        if found is None or int(found) != claim.target.index:
            return True
        if trio.current_time() >= patience:
            return False
        await unique.pause()
        if await _reserved_by(store, claim, of) is not None:
            return True
    return True


async def _reserving_transaction(store: Store, shard: Shard, job_id: str) -> str | None:
    found = await store.redis.call(
        shard.slot, "HGET", shard.job(job_id), f.TRANSACTION, idempotent=True
    )
    return found.decode() if isinstance(found, bytes) else None


async def _reserved_by(store: Store, claim: Claimed, of: int) -> str | None:
    """Return the transaction that has reserved the id where its alias leads, None for nothing.

    Raises:
        Duplicate: there is a job, or the id was fenced for good.
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
    transaction, alias, fence, *job = found
    if transaction is not None:
        return str(transaction.decode())
    for_good = alias is not None and int(alias) == shard.index and fence is None
    if any(job) or for_good:  # a malformed job may lack one of its fields
        raise duplicate_id(job_id, claim.index, of)
    return None


async def _is_partition(store: Store, job: NewJob, shard: Shard) -> bool:
    """Return whether a job may live in ``shard``, by the newest table where that matters."""
    number = store.keys.partition_of(job.queue, shard)
    if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
        return number == 0  # jobs that count together stay together
    if number < store.partitions.layout(job.queue).occupied_count:
        return True
    await store.partitions.try_read(store)
    return number < store.partitions.layout(job.queue).occupied_count
