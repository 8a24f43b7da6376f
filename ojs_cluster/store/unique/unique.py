"""Unique locks: which job holds a fingerprint (spec: ojs-unique-jobs).

The fingerprint names the shard of the lock; the job lives in its queue's shard. A producer claims
the lock first, by compare and set against the holder that it has checked. So exactly one of many
producers wins. The lock does not tell the state of its holder. A producer that finds the lock held
reads the holder itself; the clock of the holder's shard counts the policy's period.

A holder that does not exist has either not been stored yet, or will never be. A clock cannot tell
which, because its producer may be stalled between claim and job. So another producer first waits,
then writes a tombstone for the missing job's id, and then takes the lock.

The effect ``unlock`` releases a lock when its job ends. If the policy counts ended jobs, the lock
stays until the job is removed; the janitor detects that. A job that is retried by hand claims its
lock again (``unique_retry``) and counts as another holder. Late unlocks and old claims therefore
cannot touch the new lock.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace

import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique.locks import (
    LockHeld,
    LockHolder,
    LockRequest,
    alias_target,
    claim_name,
    find_job,
    settle,
    try_claim,
    write_tombstone,
)

log = logging.getLogger("ojs.store")

CLAIM_MS = 120_000
"""Time in ms after which a claimed lock's job must not be stored any more. The tombstone keeps a
late job out, whatever the clocks say; this limit holds after the janitor has removed it."""
CLAIM_TIMEOUT_S = 10.0
"""Time in seconds for which a producer waits for others that enqueue the same job."""
GRACE_MS = 1_500
"""Age in ms from which on the producer of an unused claim counts as dead."""
_PAUSE_S = (0.005, 0.04)


@dataclass(frozen=True, slots=True)
class LockClaim:
    """The result of a claim: a conflicting job, or the lock.

    Args:
        existing: the conflicting job, None when the lock is claimed.
        expires_at_ms: time in ms from which on the job must not be stored any more.
        name: name of the claim.
    """

    existing: JobRecord | None
    expires_at_ms: int = 0
    name: str = ""


def lock_fields(job: NewJob) -> list[bytes]:
    """Return the fields of a job's hash that name its lock: none for a job that is not unique."""
    if job.unique is None:
        return []
    kept = "+" if job.unique.outlives_end else ""
    return [f.UNIQUE, f"{job.fingerprint}{kept}".encode()]


def duplicate_error(fingerprint: str, existing: JobRecord, index: int | None = None) -> Duplicate:
    """Return the error for a job whose fingerprint an existing job has."""
    return Duplicate(
        f"a job of the same uniqueness exists: '{existing.id}' is {existing.state}",
        existing_job_id=existing.id,
        existing_job_state=existing.state.value,
        uniqueness_key=fingerprint,
        index=index,
    )


async def claim_lock(store: Store, request: LockRequest, policy: UniquePolicy) -> LockClaim:
    """Claim one lock, unless its holder conflicts under ``policy``.

    Raises:
        BackendUnavailable: Redis did not answer in time, or other requests kept the lock undecided.
    """
    shard = store.keys.shard_of_fingerprint(request.fingerprint)
    deadline, name = trio.current_time() + CLAIM_TIMEOUT_S, claim_name()
    while trio.current_time() < deadline:
        reply = await try_claim(store, shard, [request], name=name)
        if isinstance(reply, int):
            return LockClaim(None, reply + CLAIM_MS, name)
        holder = await resolve_holder(store, request.fingerprint, reply)
        if holder is None:
            continue
        if holder.blocks(policy):
            return LockClaim(holder.job)
        request = with_expected_holder(request, holder)
    raise contention_error()


def with_expected_holder(request: LockRequest, holder: LockHolder | None) -> LockRequest:
    """Return ``request`` for a lock whose holder does not conflict, or will be cancelled."""
    if holder is None:
        return replace(request, expected="", expected_retries=0, remember=False)
    return replace(
        request,
        expected=holder.job.id,
        expected_retries=holder.retries,
        remember=holder.job.state not in TERMINAL,
    )


def contention_error() -> BackendUnavailable:
    """Return the error for a lock or an id that other requests kept undecided for too long."""
    return BackendUnavailable(
        "other requests are enqueueing the same job; repeat the request", outcome="not_applied"
    )


async def claim_for_retry(store: Store, request: LockRequest, transaction: str) -> int:
    """Claim the lock for an ended job that ``transaction`` will run again.

    Only a job that has not ended conflicts, whatever states the policies count.

    Returns:
        Time in ms, by the clock of the lock's shard, at which the claim expires.

    Raises:
        Conflict: the job runs again already.
        Duplicate: another job of the same uniqueness has not ended.
        BackendUnavailable: Redis did not answer in time, or other requests kept the lock undecided.
    """
    shard = store.keys.shard_of_fingerprint(request.fingerprint)
    deadline = trio.current_time() + CLAIM_TIMEOUT_S
    while trio.current_time() < deadline:
        reply = await try_claim(store, shard, [request], transaction)
        if isinstance(reply, int):
            return reply + CLAIM_MS
        holder = await resolve_holder(store, request.fingerprint, reply)
        if holder is None:
            continue
        state, itself = holder.job.state, holder.job.id == request.job_id
        if state not in TERMINAL:
            if itself:
                raise Conflict(
                    f"job '{request.job_id}' is {state}", job_id=request.job_id, state=state
                )
            raise duplicate_error(request.fingerprint, holder.job)
        # If the job's policy counts ended jobs, the job keeps its lock when the retry is aborted.
        request = replace(
            with_expected_holder(request, holder), remember=itself and _outlives_end(holder.job)
        )
    raise contention_error()


async def resolve_holder(store: Store, fingerprint: str, held: LockHeld) -> LockHolder | None:
    """Find the job that holds a lock, and free the lock if there is no such job.

    An undecided transaction or a missing job is waited for until the claim is ``GRACE_MS`` old.
    Then the transaction is aborted, or a tombstone keeps the job out.

    Returns:
        None when the holder is not certain; the caller then claims the lock again.
    """
    lock, age_ms = held.lock, held.now_ms - int(held.lock[b"a"])
    holder = LockRequest(fingerprint, lock[b"h"].decode(), int(lock[b"s"]))
    transaction = lock.get(b"t", b"").decode()
    if transaction:
        if age_ms < GRACE_MS:
            await pause()
        elif not await transactions.resolve(store, transaction):
            await settle(store, "drop", [holder], transaction)
        return None
    shard = store.keys.shard(holder.shard)
    found = await find_job(store, shard, holder.job_id)
    if found is None:
        # The claim of a dead request may name another shard than the one that stored the job.
        shard = await alias_target(store, holder.job_id, shard)
        found = await find_job(store, shard, holder.job_id)
    if found is not None:
        return replace(found, retries=int(lock.get(b"n", 0)))
    if age_ms < GRACE_MS:
        await pause()
    elif await write_tombstone(store, shard, holder.job_id):
        # A producer that has read the tombstone may have claimed the lock again since. So only the
        # claim that was read is dropped. Claims of an earlier version have no name.
        await settle(store, "drop", [replace(holder, claim=lock.get(b"c", b"").decode())])
    return None


def _outlives_end(job: JobRecord) -> bool:
    return job.fields.get(f.UNIQUE, b"").endswith(b"+")


async def release_lock(store: Store, request: LockRequest, claim: LockClaim) -> None:
    """Release a lock whose job will not be stored.

    A lock that another producer with the same id has claimed, before or after, stays.
    """
    with cleaning_up():
        await settle(store, "drop", [replace(request, claim=claim.name)])


async def pause() -> None:
    """Sleep for a few ms, a random time so that waiting requests do not collide again."""
    await trio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter


async def unlock(store: Store, shard: Shard, payload: bytes) -> None:
    """Release the lock of a job that has ended: the outbox effect ``unlock``.

    Args:
        store: the store.
        shard: the shard of the job.
        payload: the job's field ``uq``, its id, and how often it was retried by hand.
    """
    held, job_id, retries = payload.decode().split(" ")
    if not held.endswith("+"):
        await settle(store, "unlock", [LockRequest(held, job_id, shard.index, int(retries))])


async def check_old_locks(store: Store, shard: Shard, limit: int) -> int:
    """Release old locks whose job was removed, or has ended without counting any more.

    A lock that cannot be checked now does not delay others: the next run checks it again.

    Returns:
        How many locks were checked.
    """
    _, names = await store.run(shard, "locks_due", [shard.locks], [limit], idempotent=True)

    async def check(name: bytes) -> None:
        fingerprint = name.decode()
        now, flat = await store.run(shard, "read_hash", [shard.lock(fingerprint)], idempotent=True)
        if not flat:
            # The script removes the name only if there is still no lock: a producer may claim it.
            await settle(store, "drop", [LockRequest(fingerprint, "", 0)])
            return
        held = LockHeld(0, record("", flat).fields, now)
        try:
            holder = await resolve_holder(store, fingerprint, held)
        except OJSError as error:
            log.warning(
                "unique lock %s cannot be checked; the janitor will try again",
                fingerprint,
                exc_info=error,
            )
            return
        if holder is None:
            return
        over = holder.job.state in TERMINAL and not _outlives_end(holder.job)
        request = LockRequest(fingerprint, holder.job.id, 0, holder.retries)
        await settle(store, "unlock" if over else "later", [request])

    await run_concurrently(names, check)
    return len(names)
