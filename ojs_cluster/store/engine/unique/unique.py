"""Unique locks: which job holds a fingerprint (spec: ojs-unique-jobs).

The lock lives in the owner shard of the fingerprint, and the job in a shard of its queue. A
producer claims the lock before it stores the job. The claim is a compare-and-set: it succeeds only
if the lock is free, or if its holder is the job that the producer has checked. So exactly one of
many producers gets the lock. The lock does not contain the state of its holder. A producer that
finds the lock held reads the holding job, and uses the clock of that job's shard for the policy's
period.

A lock may name a job that does not exist. The job's producer may still be about to store it, or may
have died; no timeout can tell which. So another producer first waits, then writes a tombstone for
the missing job's id, and then takes the lock.

The effect ``unlock`` releases a lock when its job ends. If the policy counts ended jobs, the lock
stays until the job is removed and the janitor finds the job missing. A job that is retried by hand
claims its lock again (``unique_retry``) and counts as another holder, so late unlocks and old
claims cannot touch the new lock.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace

import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, Duplicate, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique_locks import (
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
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently

log = logging.getLogger("ojs.store")

CLAIM_MS = 120_000
"""Time in ms within which the job of a claimed lock must be stored. A tombstone also
prevents a late job, but only until the janitor removes the tombstone."""
CLAIM_TIMEOUT_S = 10.0
"""Time in seconds for which a producer waits for others that enqueue the same job."""
_EXPIRED_MS = CLAIM_MS + 20_000
"""Age in ms at which a claim has expired by the clocks of all masters. They may differ by 20 s."""
GRACE_MS = 1_500
"""A producer is presumed dead if its claim is unused for longer than this time in ms."""
_PAUSE_S = (0.005, 0.04)
"""Shortest and longest time in seconds between two attempts to claim a lock."""


@dataclass(frozen=True, slots=True)
class LockClaim:
    """The result of a claim: a conflicting job, or the lock.

    Args:
        existing: the conflicting job, None when the lock is claimed.
        expires_at_ms: Unix time in ms before which the job must be stored.
        name: name of the claim.
    """

    existing: JobRecord | None
    expires_at_ms: int = 0
    name: str = ""


def lock_fields(job: NewJob) -> list[bytes]:
    """Return the fields of a job's hash that name its lock, [] for a job that is not unique."""
    if job.unique is None:
        return []
    # The suffix "+" means that the lock stays after the end of the job.
    suffix = "+" if job.unique.conflicts_after_end else ""
    return [f.UNIQUE, f"{job.fingerprint}{suffix}".encode()]


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
    """Return the request that takes the lock from ``holder``; None means that the lock is free.

    The caller has checked that the holder does not conflict, or will cancel the holder.
    """
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

    Only a job that has not ended conflicts, in whatever states the uniqueness policy counts jobs.

    Returns:
        Unix time in ms, by the clock of the lock's shard, at which the claim expires.

    Raises:
        Conflict: the job was already retried.
        Duplicate: another job with the same fingerprint has not ended.
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
        state, is_same_job = holder.job.state, holder.job.id == request.job_id
        if state not in TERMINAL:
            if is_same_job:
                raise Conflict(
                    f"job '{request.job_id}' is {state}", job_id=request.job_id, state=state
                )
            raise duplicate_error(request.fingerprint, holder.job)
        # If the retry is aborted, the ended job must get its lock back, provided that its policy
        # counts ended jobs.
        request = replace(
            with_expected_holder(request, holder),
            remember=is_same_job and _conflicts_after_end(holder.job),
        )
    raise contention_error()


async def resolve_holder(store: Store, fingerprint: str, held: LockHeld) -> LockHolder | None:
    """Find the job that holds a lock, and free the lock if there is no such job.

    The function waits for an undecided transaction or a missing job until the claim is ``GRACE_MS``
    old. Then it aborts the transaction, or writes tombstones for the missing job and drops the
    claim. A tombstone is written in the shard that the claim names, because the job's producer
    knows only this shard, and in the shard to which an alias of the id points.

    If another request has stored a job under the id, that job is not the holder. But the missing
    job could be stored after its removal. In the shard that the claim names, the other job takes
    the place of a tombstone, so the function waits until the claim has expired. If the other job is
    in another shard, tombstones are written in the shard that the claim names and in the owner
    shard of the id.

    Args:
        store: the store.
        fingerprint: fingerprint of the lock.
        held: the lock as read.

    Returns:
        None when the lock was freed or its holder is not known yet. The caller then claims the lock
        again.
    """
    lock, age_ms = held.lock, held.now_ms - int(held.lock[b"claimed_at"])
    holder = LockRequest(fingerprint, lock[b"holder"].decode(), int(lock[b"shard"]))
    transaction = lock.get(b"transaction", b"").decode()
    if transaction:
        if age_ms < GRACE_MS:
            await pause()
        elif not await transactions.resolve(store, transaction):
            await settle(store, "drop", [holder], transaction)
        return None
    shards = [store.keys.shard(holder.shard)]
    found = await find_job(store, shards[0], holder.job_id)
    if found is None:
        # A repetition of the request may store the job in another shard than the claim names.
        target = await alias_target(store, holder.job_id, shards[0])
        if target is not shards[0]:
            shards.append(target)
            found = await find_job(store, target, holder.job_id)
    if found is not None and _fingerprint(found.job) == fingerprint:
        return replace(found, retries=int(lock.get(b"retries", 0)))
    is_in_place = found is not None and found.shard == holder.shard
    if age_ms < (_EXPIRED_MS if is_in_place else GRACE_MS):
        await pause()
        return None
    if is_in_place:
        shards = []
    elif found is not None:
        shards = [shards[0], store.keys.shard_of_id(holder.job_id)]
    for shard in dict.fromkeys(shards):
        if not await write_tombstone(store, shard, holder.job_id, follow_alias=found is None):
            return None
    # A producer that has read the tombstone may have claimed the lock again since. So only the
    # claim that was read is dropped. Claims that an earlier version has stored have no name.
    await settle(store, "drop", [replace(holder, claim=lock.get(b"claim", b"").decode())])
    return None


def _fingerprint(job: JobRecord) -> str:
    """Return the fingerprint of a job, '' if it is not unique."""
    return job.fields.get(f.UNIQUE, b"").decode(errors="replace").removesuffix("+")


def _conflicts_after_end(job: JobRecord) -> bool:
    return job.fields.get(f.UNIQUE, b"").endswith(b"+")


async def release_lock(store: Store, request: LockRequest, claim: LockClaim) -> None:
    """Release a lock whose job will not be stored.

    The lock stays if another producer with the same job id has also claimed it.
    """
    with cleaning_up():
        await settle(store, "drop", [replace(request, claim=claim.name)])


async def pause() -> None:
    """Sleep for a few ms. The time is random, so that waiting requests do not collide again."""
    await trio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter


async def unlock(store: Store, shard: Shard, payload: bytes) -> None:
    """Release the lock of a job that has ended: the outbox effect ``unlock``.

    Args:
        store: the store.
        shard: the shard of the job.
        payload: the job's lock as in ``lock_fields``, its id, and how often it was retried by hand,
            separated by blanks.
    """
    held, job_id, retries = payload.decode().split(" ")
    if not held.endswith("+"):
        await settle(store, "unlock", [LockRequest(held, job_id, shard.index, int(retries))])


async def check_old_locks(store: Store, shard: Shard, limit: int) -> int:
    """Release old locks whose job was removed, or has ended and no longer counts for its policy.

    A lock that cannot be checked now does not delay others: the next run checks it again.

    Args:
        store: the store.
        shard: the shard of the locks.
        limit: maximum number of locks.

    Returns:
        How many locks were checked.
    """
    _, names = await store.run(shard, "locks_due", [shard.locks], [limit], idempotent=True)

    async def check(name: bytes) -> None:
        fingerprint = name.decode()
        now, flat = await store.run(shard, "read_hash", [shard.lock(fingerprint)], idempotent=True)
        if not flat:
            # The script removes the fingerprint from the index only if there is still no lock: a
            # producer may claim the lock at the same time.
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
        is_unused = holder.job.state in TERMINAL and not _conflicts_after_end(holder.job)
        request = LockRequest(fingerprint, holder.job.id, 0, holder.retries)
        await settle(store, "unlock" if is_unused else "later", [request])

    await run_concurrently(names, check)
    return len(names)
