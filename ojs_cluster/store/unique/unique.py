"""Unique locks: which job holds a fingerprint (spec: ojs-unique-jobs).

A lock lies in the shard that its fingerprint names, the job in its queue's. The lock is claimed
first, by compare and set against the holder that the claimer has looked at, so of any number of
producers one wins. It does not say what its holder is doing: who finds it held looks at the job
itself, in whose shard's clock the policy's period is counted.

A holder that is not there has not been stored yet, or never will be. Waiting for a clock would not
tell which: its producer may be stalled between claim and job. So whoever has waited long enough
first makes storing it impossible (``claim_alias`` on the job's own shard: an alias that leads
nowhere else), and then takes the lock.

A lock goes with its job's end, by the effect 'unlock'; one whose policy counts ended jobs goes when
the job itself is gone, which the janitor notices. A job that is retried by hand after its end has
to claim its lock again (``unique_retry``); it is another holder then, so that nothing which was
begun when it had ended, an 'unlock' still owed or a claim of who looked at it then, touches that
lock.
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
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.unique.locks import (
    Holder,
    Refused,
    Want,
    claim_name,
    fence,
    leads_to,
    look,
    settle,
    try_claim,
)

log = logging.getLogger("ojs.store")

CLAIM_MS = 120_000
"""How long a claimed lock may wait for its job. What keeps a late job out is the alias that leads
nowhere, whatever the clocks say; this keeps it out when the janitor has removed that (10 min)."""
CLAIM_TIMEOUT_S = 10.0
"""How long a producer waits for others that are enqueueing the same job."""
GRACE_MS = 1_500
"""How long a claim is waited for before it is taken for that of a dead producer."""
_PAUSE_S = (0.005, 0.04)


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a claim: a job is in the way, or the lock is held until ``lapses`` (ms) by the
    claim of that name.
    """

    existing: JobRecord | None
    lapses: int = 0
    name: str = ""


def fields(job: NewJob) -> list[bytes]:
    """What a unique job's hash says of its lock."""
    if job.unique is None:
        return []
    kept = "+" if job.unique.outlives_end else ""
    return [f.UNIQUE, f"{job.fingerprint}{kept}".encode()]


def duplicate(fingerprint: str, existing: JobRecord, index: int | None = None) -> Duplicate:
    """The error that a job of the same uniqueness is there."""
    return Duplicate(
        f"a job of the same uniqueness exists: '{existing.id}' is {existing.state}",
        existing_job_id=existing.id,
        existing_job_state=existing.state.value,
        uniqueness_key=fingerprint,
        index=index,
    )


async def claim(store: Store, want: Want, policy: UniquePolicy) -> Claim:
    """Claim one lock, unless its holder is in the way.

    Raises:
        BackendUnavailable: Redis did not answer in time, or others kept the lock undecided.
    """
    shard = store.keys.shard_of_fingerprint(want.fingerprint)
    deadline, name = trio.current_time() + CLAIM_TIMEOUT_S, claim_name()
    while trio.current_time() < deadline:
        reply = await try_claim(store, shard, [want], name=name)
        if isinstance(reply, int):
            return Claim(None, reply + CLAIM_MS, name)
        holder = await resolve_holder(store, want.fingerprint, reply)
        if holder is None:
            continue
        if holder.blocks(policy):
            return Claim(holder.job)
        want = expecting(want, holder)
    raise busy()


def expecting(want: Want, holder: Holder | None) -> Want:
    """``want`` after a look at the holder, which is not in the way or will be cancelled."""
    if holder is None:
        return replace(want, expected="", expected_retries=0, remember=False)
    return replace(
        want,
        expected=holder.job.id,
        expected_retries=holder.retries,
        remember=holder.job.state not in TERMINAL,
    )


def busy() -> BackendUnavailable:
    """The error that others kept a lock or an id undecided for too long."""
    return BackendUnavailable("the same job is being enqueued by others", outcome="not_applied")


async def claim_for_retry(store: Store, want: Want, transaction: str) -> int:
    """Claim the lock for a job that has ended and is to run again, decided by ``transaction``.

    Whatever its policy counts, only a job that has not ended is in its way. Returns the ms of the
    lock's shard until which the claim is good.

    Raises:
        Conflict: it runs again already.
        Duplicate: another job of the same uniqueness has not ended.
        BackendUnavailable: Redis did not answer in time, or others kept the lock undecided.
    """
    shard = store.keys.shard_of_fingerprint(want.fingerprint)
    deadline = trio.current_time() + CLAIM_TIMEOUT_S
    while trio.current_time() < deadline:
        reply = await try_claim(store, shard, [want], transaction)
        if isinstance(reply, int):
            return reply + CLAIM_MS
        holder = await resolve_holder(store, want.fingerprint, reply)
        if holder is None:
            continue
        state, itself = holder.job.state, holder.job.id == want.job_id
        if state not in TERMINAL:
            if itself:
                raise Conflict(f"job '{want.job_id}' is {state}", job_id=want.job_id, state=state)
            raise duplicate(want.fingerprint, holder.job)
        # Where its own policy counts it though it has ended, it keeps the lock if this is given up.
        want = replace(expecting(want, holder), remember=itself and _outlives_end(holder.job))
    raise busy()


async def resolve_holder(store: Store, fingerprint: str, refused: Refused) -> Holder | None:
    """The job that holds a lock; None when that was not certain, and is worth another claim."""
    lock, age_ms = refused.lock, refused.now_ms - int(refused.lock[b"a"])
    holder = Want(fingerprint, lock[b"h"].decode(), int(lock[b"s"]))
    transaction = lock.get(b"t", b"").decode()
    if transaction:
        if age_ms < GRACE_MS:
            await pause()
        elif not await transactions.settle(store, transaction):
            await settle(store, "drop", [holder], transaction)
        return None
    shard = store.keys.shard(holder.shard)
    found = await look(store, shard, holder.job_id)
    if found is None:
        # The claim of a request that died may name another shard than the one that stored the job.
        shard = await leads_to(store, holder.job_id, shard)
        found = await look(store, shard, holder.job_id)
    if found is not None:
        return replace(found, retries=int(lock.get(b"n", 0)))
    if age_ms < GRACE_MS:
        await pause()
    elif await fence(store, shard, holder.job_id):
        # A producer that has met the fence may have claimed the lock anew since.
        # The claims of an earlier version have no name.
        await settle(store, "drop", [replace(holder, claim=lock.get(b"c", b"").decode())])
    return None


def _outlives_end(job: JobRecord) -> bool:
    return job.fields.get(f.UNIQUE, b"").endswith(b"+")


async def release(store: Store, want: Want, claim: Claim) -> None:
    """Give back a lock whose job will not be stored, unless another producer with the same id has
    claimed it, too: before or since.
    """
    with cleaning_up():
        await settle(store, "drop", [replace(want, claim=claim.name)])


async def pause() -> None:
    """A moment, not the same for all who wait."""
    await trio.sleep(random.uniform(*_PAUSE_S))  # noqa: S311 - jitter


async def ended(store: Store, shard: Shard, payload: bytes) -> None:
    """Effect 'unlock': a job that holds a lock has ended. Payload: its field ``uq``, its id, how
    often it was retried.
    """
    held, job_id, retries = payload.decode().split(" ")
    if not held.endswith("+"):
        await settle(store, "unlock", [Want(held, job_id, shard.index, int(retries))])


async def sweep(store: Store, shard: Shard, limit: int) -> int:
    """Look at locks of a shard that are old; returns how many were looked at.

    Those go whose job is gone, or has ended under a policy that does not count ended jobs. One
    that cannot be looked at now keeps no other waiting: the next run looks at it again.
    """
    _, names = await store.run(shard, "locks_due", [shard.locks], [limit], idempotent=True)

    async def one(name: bytes) -> None:
        fingerprint = name.decode()
        now, flat = await store.run(shard, "read_hash", [shard.lock(fingerprint)], idempotent=True)
        if not flat:
            # Its name goes only while there is no lock: somebody may claim it just now.
            await settle(store, "drop", [Want(fingerprint, "", 0)])
            return
        try:
            holder = await resolve_holder(
                store, fingerprint, Refused(0, record("", flat).fields, now)
            )
        except OJSError as error:
            log.warning("unique lock %s cannot be settled", fingerprint, exc_info=error)
            return
        if holder is None:
            return
        over = holder.job.state in TERMINAL and not _outlives_end(holder.job)
        want = Want(fingerprint, holder.job.id, 0, holder.retries)
        await settle(store, "unlock" if over else "later", [want])

    await over_shards(names, one)
    return len(names)
