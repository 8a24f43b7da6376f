"""Cross-shard transactions: atomic writes to several shards.

Redis Cluster has no transaction over slots. A cross-shard transaction has these steps:

1. Reserve what other requests could take: ids that clients chose, and unique locks.
2. Commit. One script on one shard stores everything that is to be written, and an outbox entry.
   From this moment the transaction will be applied. A record that is too large for one script is
   stored in portions before the commit.
3. Apply. Each step is idempotent. If the process dies, the outbox drainer repeats all steps. First
   the jobs of each shard are stored, then jobs are replaced or retried, then locks are settled.

A transaction that was not committed leaves reservations. A process that needs a reserved id or lock
first makes the commit impossible (``resolve``), and then releases the reservation.

Jobs are stored in portions, so that no script blocks its node for long. The shard keeps a note of
each stored portion, so a repetition stores no job twice, even when the jobs have run and were
removed since. The note is kept until ten minutes after the transaction was applied
(``purge_notes``). During the apply step, readers may see only some of the jobs. They never see a
job of an uncommitted transaction.

A job that replaces another is first *prepared*: stored, but in no index, so no worker can fetch it.
If both jobs live in one shard, one script cancels the old job and publishes the new job. Otherwise
two scripts do this, and between them the old job has ended and the new job is still prepared. So
both jobs are never live at the same time. A process that reads a prepared job by its id applies the
transaction first, and then returns the published job.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ojs_cluster.core.errors import BackendUnavailable, OJSError, WriteOutcome
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.durability import has_unconfirmed_writes
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import PlacedJob
from ojs_cluster.store.engine.transactions.apply_steps import Application
from ojs_cluster.store.engine.transactions.contents import Plan, Replacement, Transaction
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.portions import PORTION_BYTES, PORTION_KEYS
from ojs_cluster.store.ground.runtime import Arg


async def commit(store: Store, transaction: Transaction, commit_before_ms: int) -> int | None:
    """Commit a transaction.

    The apply step writes even when a master is at ``maxmemory``. So nothing is committed while a
    master that will store some of the jobs is full.

    Args:
        store: the store.
        transaction: what to write.
        commit_before_ms: Unix time in ms, by the clock of the transaction's owner shard, from which
            on the commit is too late; 0 for never.

    Returns:
        Unix time of the commit in ms. None when the commit came too late, or another process has
        aborted the transaction.

    Raises:
        BackendUnavailable: Redis did not answer in time. With an unknown outcome the transaction
            may have been committed; a failure before the commit is never unknown.
    """
    owner = store.keys.shard_of_id(transaction.id)
    await _check_memory(store, owner, list(transaction.parts))
    indexes = [shard.index for shard, _ in transaction.portions()]
    plan = Plan(
        list(transaction.replacements),
        list(transaction.locks),
        indexes,
        list(transaction.retries),
    )
    encode = msgspec.msgpack.encode
    portions = [encode(list(portion)) for _, portion in transaction.portions()]
    large = sum(map(len, portions)) > PORTION_BYTES
    in_commit = [] if large else portions
    is_sent = False
    try:
        committed = not large or await _store_portions(store, owner, transaction.id, portions)
        if committed:
            args: list[Arg] = [commit_before_ms, transaction.id, encode(plan)]
            args += (len(portions) - len(in_commit), *in_commit)
            keys = _commit_keys(owner, transaction.id)
            is_sent = True
            reply = await store.run(owner, "transaction_commit", keys, args, idempotent=True)
            committed = reply[0] == b"ok"
    except BackendUnavailable as error:
        if large and (not is_sent or error.outcome == "not_applied"):
            await _remove_uncommitted_record(store, owner, transaction.id)
        if is_sent or error.outcome == "not_applied":
            raise
        raise BackendUnavailable(str(error), outcome="not_applied") from error
    if committed:
        return int(reply[1])
    if large:
        await _remove_uncommitted_record(store, owner, transaction.id)
    return None


def _commit_keys(owner: Shard, transaction_id: str) -> list[bytes]:
    """Return KEYS of ``transaction_commit.lua``."""
    return [
        owner.transaction(transaction_id),
        owner.outbox_due,
        owner.outbox,
        owner.applied_transactions,
        owner.aborted_transactions,
    ]


async def _store_portions(
    store: Store, owner: Shard, transaction_id: str, portions: Sequence[bytes]
) -> bool:
    """Store a large record before the commit; return whether the commit is still possible."""
    keys = [
        owner.transaction(transaction_id),
        owner.aborted_transactions,
        owner.applied_transactions,
    ]
    for position, portion in enumerate(portions):
        args: list[Arg] = [transaction_id, position, portion]
        if await store.run(owner, "transaction_record", keys, args, idempotent=True) != b"ok":
            return False
    return True


async def _remove_uncommitted_record(store: Store, owner: Shard, transaction_id: str) -> None:
    """Remove a large record that was not committed. If this fails, the janitor removes it."""
    with suppress(OJSError), cleaning_up():
        await _abort_unless_committed(store, owner, transaction_id)


async def _abort_unless_committed(store: Store, owner: Shard, transaction_id: str) -> bool:
    """Make the commit of a transaction impossible; return False when it was committed before."""
    keys = [
        owner.transaction(transaction_id),
        owner.aborted_transactions,
        owner.applied_transactions,
    ]
    args: list[Arg] = [transaction_id]
    reply = await store.run(owner, "transaction_abort", keys, args, idempotent=True)
    return bool(reply != b"committed")


async def _check_memory(store: Store, owner: Shard, shards: Sequence[Shard]) -> None:
    """Check that every master that will store some of the jobs accepts writes.

    The master of ``owner`` is left out, because the commit itself checks it.

    Raises:
        WritesRefused: a master refuses writes; nothing has been committed.
    """
    master_of = store.redis.topology.owner
    masters = {master_of(shard.slot): shard for shard in shards}
    masters.pop(master_of(owner.slot), None)

    async def check(shard: Shard) -> None:
        # This command writes nothing, but a full master refuses it like every write.
        await store.redis.call(shard.slot, "SETRANGE", shard.wal_probe, 0, "", idempotent=True)

    await run_concurrently(list(masters.values()), check)


async def apply(store: Store, transaction: Transaction, now_ms: int) -> dict[str, JobRecord]:
    """Apply a committed transaction; return its jobs by id. Repeated, it changes nothing.

    Args:
        store: the store.
        transaction: what was committed.
        now_ms: Unix time in ms of the commit, or when the record was read.

    Raises:
        OJSError: a step failed. The outbox entry stays, so the drainer repeats the steps.
    """
    application = Application(store, transaction, now_ms)
    shards = {job.job_id: shard for shard, portion in transaction.portions() for job in portion}

    async def replace(replacement: Replacement) -> None:
        await application.replace(replacement, shards[replacement.new_id])

    await run_concurrently(transaction.parts, application.store_part)
    await run_concurrently(transaction.replacements, replace)
    await run_concurrently(transaction.retries, application.retry)
    requests = [LockRequest(fingerprint, job_id, 0) for fingerprint, job_id in transaction.locks]
    await locks.settle(store, "keep", requests, transaction.id)
    # A failover may still lose unconfirmed writes. So the record stays, and the outbox drainer
    # repeats the steps.
    if not has_unconfirmed_writes():
        await application.end()
    return application.records


def outcome_of(error: OJSError) -> WriteOutcome:
    """Return the outcome to report for a committed transaction after ``error``.

    The outbox drainer will apply the transaction. So the outcome that ``error`` itself reports, for
    one failed step, would be wrong.
    """
    if isinstance(error, BackendUnavailable) and error.outcome == "stored_unconfirmed":
        return "stored_unconfirmed"
    return "unknown"


async def finish(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the outbox effect ``transaction``: apply a committed transaction.

    Args:
        store: the store.
        payload: id of the transaction.
    """
    await ensure_task()
    await _apply_record(store, payload.decode())


async def resolve(store: Store, transaction_id: str) -> bool:
    """Apply a transaction if it was committed, and otherwise make its commit impossible.

    Returns:
        Whether the transaction was committed. After False, the caller may release its reservations.
        A transaction whose notes were purged after it was applied also gives False; it has no
        reservations any more.
    """
    await ensure_task()
    owner = store.keys.shard_of_id(transaction_id)
    if await _abort_unless_committed(store, owner, transaction_id):
        return False
    await _apply_record(store, transaction_id)
    return True


async def resolve_and_release(
    store: Store, shard: Shard, transaction_id: str, job_ids: Sequence[str]
) -> None:
    """Resolve a transaction, and release the ids of ``shard`` that it still reserves.

    After ``resolve``, a remaining reservation belongs to an aborted transaction. A remaining
    prepared job belongs to a transaction whose record a failover has lost. So both can be removed.
    """
    await resolve(store, transaction_id)
    await release_ids(store, shard, transaction_id, job_ids)


async def release_ids(
    store: Store, shard: Shard, transaction_id: str, job_ids: Sequence[str]
) -> None:
    """Release ids of a shard that a transaction has reserved and will not use."""
    for start in range(0, len(job_ids), PORTION_KEYS):
        portion = job_ids[start : start + PORTION_KEYS]
        keys = [shard.alias_claims, *(shard.job(job_id) for job_id in portion)]
        await store.run(shard, "release_ids", keys, [transaction_id, *portion], idempotent=True)


async def _apply_record(store: Store, transaction_id: str) -> None:
    """Read the record of a committed transaction and apply it."""
    owner = store.keys.shard_of_id(transaction_id)
    key = owner.transaction(transaction_id)
    now_ms, raw = await store.run(owner, "transaction_read", [key], idempotent=True)
    if raw is None:
        return
    plan = msgspec.msgpack.decode(raw, type=Plan)
    parts: dict[Shard, list[Sequence[PlacedJob]]] = {}
    for position, index in enumerate(plan.shards):
        encoded: Any = await store.redis.call(owner.slot, "HGET", key, position, idempotent=True)
        if encoded is None:
            return  # another process has applied the transaction and removed its record
        portion = msgspec.msgpack.decode(encoded, type=list[PlacedJob])
        parts.setdefault(store.keys.shard(index), []).append(portion)
    transaction = Transaction(transaction_id, parts, plan.replacements, plan.locks, plan.retries)
    await apply(store, transaction, now_ms)
