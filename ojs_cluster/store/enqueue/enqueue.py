"""Enqueue jobs (spec: ojs-core, PUSH; ojs-bulk-operations; ojs-unique-jobs).

What fits into one shard and one portion is one script. Everything else goes through a transaction
(see
``batch``), save two cases that need no decision of their own, because the job's existence is it: an
id that a client chose, and a unique job that replaces none. There the alias or the lock is claimed
first, and a claim without its job is nobody's after a while.

A fence stands where somebody made it impossible that a slow producer stores a job (see ``unique``).
The client who repeats that request meets it: not a job, only a ban on what was begun before. So it
claims everything anew, now knowing the fence's mark, and stores over it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from ojs_cluster.core.errors import (
    BackendUnavailable,
    Conflict,
    Duplicate,
    OJSError,
    QueueFull,
    WritesRefused,
)
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.core.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import batch, claimed_ids
from ojs_cluster.store.enqueue.aliases import (
    CLAIM_MS,
    AliasClaims,
    Claimed,
    ClaimedElsewhere,
    duplicate_id,
    earliest,
    is_owner_shard,
)
from ojs_cluster.store.enqueue.placement import (
    PORTION_JOBS,
    PlacedJob,
    command,
    follow_up,
    is_same,
    one_command,
    place,
    read_back,
    written,
)
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.read_jobs import read_many
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.limits import depth_bounds
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.portions import PORTION_BYTES
from ojs_cluster.store.unique import unique
from ojs_cluster.store.unique.locks import Want

_TRIES = 5


class _Tombstoned(Exception):
    """A fence keeps the job out; ``mark`` is what a producer that begins anew must know."""

    def __init__(self, mark: str) -> None:
        super().__init__(mark)
        self.mark = mark


@dataclass(frozen=True, slots=True)
class EnqueueOptions:
    """What else is known when jobs are stored.

    Args:
        fields: names and values of more fields of each job's hash.
        lapses: ms of any shard's clock from which on it is too late, 0 for never.
        accepted: whether a full queue takes them, too (see ``bounds``).
    """

    fields: Sequence[bytes] = ()
    lapses: int = 0
    accepted: bool = False


async def enqueue(
    store: Store,
    job: NewJob,
    *,
    fields: Sequence[bytes] = (),
    lapses: int = 0,
    accepted: bool = False,
) -> JobRecord:
    """Store one job, durable when this returns.

    Returns the job; with ``deduplicated`` set the one that is there already, under a policy that
    says so.

    Args:
        fields: names and values of more fields of the job's hash.
        lapses: ms of any shard's clock from which on it must not be stored any more, 0 for never.
        accepted: whether a full queue takes it, too: it was promised before.

    Raises:
        QueueFull: as many jobs wait in the queue as may.
        Duplicate: the client's id is taken, anywhere in the cluster, or a job of the same
            uniqueness is in the way.
        Conflict: it is too late, or was before a claim could be used.
        TooManyQueues, TooManyRateLimitKeys: the queue, or the key of its rate limit, would be one
        too
            many.
        BackendUnavailable: Redis did not answer in time.
    """
    if job.rate_limit is not None and not accepted:
        await store.limit_keys.check_jobs(store, [job])
    await store.queues.ensure(store, [job.queue])
    await store.partitions.refresh_if_stale(store)
    [shard] = store.partitions.choose_shards(store, [job])
    if job.id is None and job.unique is None and not fields and not lapses:
        return await _enqueue_plain(store, shard, job, accepted)
    terms = EnqueueOptions(fields, lapses, accepted)
    if job.unique is not None:
        return await _enqueue_unique(store, shard, job, job.unique, terms)
    return (await _enqueue_here(store, shard, [job], terms))[0]


async def enqueue_many(store: Store, jobs: Sequence[NewJob]) -> list[JobRecord]:
    """Store jobs, all or none, answered in the order given.

    Raises:
        Duplicate: as ``enqueue``, or an id is given twice; ``details`` say which and where.
        QueueFull, TooManyQueues, TooManyRateLimitKeys, BackendUnavailable: as ``enqueue``.
    """
    batch.refuse_repeated_ids(jobs)
    await store.limit_keys.check_jobs(store, jobs)
    await store.partitions.refresh_if_stale(store)
    shards = set(store.partitions.choose_shards(store, jobs))
    several = len(jobs) > PORTION_JOBS or sum(len(job.body) for job in jobs) > PORTION_BYTES
    if several or len(shards) > 1 or any(job.unique is not None for job in jobs):
        return await batch.enqueue_all(store, jobs)
    [shard] = shards
    await store.queues.ensure(store, dict.fromkeys(job.queue for job in jobs))
    return await _enqueue_here(store, shard, jobs, EnqueueOptions())


async def enqueue_with_id(
    store: Store, job_id: str, job: NewJob, fields: Sequence[bytes] = (), *, lapses: int = 0
) -> bool:
    """Store a job whose id was fixed in advance, unless it is there; returns whether it was not.

    Its uniqueness is not looked at: what was promised when the id was fixed is kept.

    Args:
        job_id: names a shard that serves the job's queue.
        fields: names and values of more fields of the job's hash.
        lapses: ms after which it must not be stored any more, 0 for never.

    Raises:
        Conflict: too late.
        TooManyQueues, BackendUnavailable: as ``enqueue``.
    """
    await store.queues.ensure(store, [job.queue])
    shard = store.keys.shard_of_id(job_id)
    await store.partitions.ensure_open(store, shard, [job.queue])
    keys, args = command(store, shard, [place(job_id, job, fields)], lapses=lapses)
    reply = await store.run(shard, "enqueue", keys, args, idempotent=True)
    if reply[0] == b"lapsed":
        raise Conflict(f"it is too late to store job '{job_id}'", job_id=job_id)
    if reply[0] == b"ok":
        await follow_up(store, shard, reply)
    return bool(reply[0] == b"ok")


async def _enqueue_plain(store: Store, shard: Shard, job: NewJob, accepted: bool) -> JobRecord:
    """Store a job that has nothing to be claimed first."""
    short = True
    placed = place(store.ids.new(shard.index, time.time_ns() // 1_000_000), job)
    if _is_plain(store, shard, [placed]):
        keys, args = one_command(store, shard, placed)
        reply = await store.run(shard, "enqueue_one", keys, args, idempotent=True)
        if reply[0] == b"ok":
            store.depth_cache.mark_filled(store.keys, shard, (job.queue,))
            return written((placed,), reply)[0]
        if reply[0] == b"bounded":
            store.bounded_queues.note(shard, [job.queue])
        short = reply[0] not in (b"full_path", b"bounded")
    claims = AliasClaims(store)
    stored = await _store_part(store, shard, [placed], [job], 0, (), claims, accepted, short=short)
    return stored[0]


async def _enqueue_here(
    store: Store, shard: Shard, jobs: Sequence[NewJob], terms: EnqueueOptions
) -> list[JobRecord]:
    """Store jobs of one shard that are not unique."""
    placed = _place(store, shard, jobs, terms)
    fences: set[str] = set()
    claims = AliasClaims(store)
    for _ in range(_TRIES):
        try:
            lapses = earliest(terms.lapses, await _claim(claims, store, shard, jobs))
            return await _store_part(
                store, shard, placed, jobs, lapses, fences, claims, terms.accepted
            )
        except _Tombstoned as met:
            fences.add(met.mark)
        except ClaimedElsewhere as met:
            if len(jobs) > 1:
                return await batch.enqueue_all(store, jobs, claims=claims)
            shard = await claimed_ids.first_shard(store, claims, jobs[0], met, shard)
    await claims.give_back()
    raise unique.busy()


async def _enqueue_unique(
    store: Store, shard: Shard, job: NewJob, policy: UniquePolicy, terms: EnqueueOptions
) -> JobRecord:
    """Claim the lock, then store the job.

    Nobody takes the lock from a job that exists, or that may still be stored
    (``unique.resolve_holder``).
    So the claim decides, and the job makes it certain.
    """
    await ensure_task()
    fences: set[str] = set()
    claims = AliasClaims(store)
    for _ in range(_TRIES):
        [placed] = _place(store, shard, [job], terms)
        try:
            lapses = await _claim(claims, store, shard, [job])
        except ClaimedElsewhere as met:
            shard = await claimed_ids.first_shard(store, claims, job, met, shard)
            continue
        want = Want(job.fingerprint, placed.job_id, shard.index)
        try:
            claim = await unique.claim(store, want, policy)
        except WritesRefused:
            await claims.give_back()
            raise
        if claim.existing is not None:
            if claim.existing.id == placed.job_id:
                raise duplicate_id(placed.job_id, 0, 1)
            if policy.on_conflict not in ("ignore", "reject"):
                replaced = await batch.enqueue_all(
                    store, [job], terms.fields, terms.lapses, claims, accepted=terms.accepted
                )
                return replaced[0]
            await claims.give_back()
            if policy.on_conflict == "ignore":
                return replace(claim.existing, deduplicated=True)
            raise unique.duplicate(job.fingerprint, claim.existing)
        lapses = earliest(terms.lapses, lapses, claim.lapses)
        try:
            stored = await _store_part(
                store, shard, [placed], [job], lapses, fences, claims, terms.accepted
            )
            return stored[0]
        except _Tombstoned as met:
            await unique.release(store, want, claim)  # it may have been another's since
            fences.add(met.mark)
        except ClaimedElsewhere as met:
            await unique.release(store, want, claim)
            shard = await claimed_ids.first_shard(store, claims, job, met, shard)
        except Conflict:
            await unique.release(store, want, claim)  # it took too long: the lock may be another's
        except QueueFull:
            with suppress(OJSError):
                await unique.release(store, want, claim)
            raise
        except WritesRefused as error:
            if error.outcome == "not_applied":
                with suppress(OJSError):
                    await unique.release(store, want, claim)
            raise
        except Duplicate as error:
            if not await _is_holder(store, shard, placed, job):
                await unique.release(store, want, claim)
            if job.id is not None:
                raise error from None
    await claims.give_back()
    raise BackendUnavailable("the job could not be stored in time", outcome="not_applied")


async def _is_holder(store: Store, shard: Shard, placed: PlacedJob, job: NewJob) -> bool:
    """Whether the job that is there already is one that holds the lock."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(placed.job_id), f.UNIQUE, f.STATE, idempotent=True
    )
    held, state = ((value or b"").decode() for value in found)
    if held.endswith("+"):
        return held == f"{job.fingerprint}+"
    return held == job.fingerprint and state not in TERMINAL


def _place(
    store: Store, shard: Shard, jobs: Sequence[NewJob], terms: EnqueueOptions
) -> list[PlacedJob]:
    """Each job with its id."""
    now_ms = time.time_ns() // 1_000_000
    placed: list[PlacedJob] = []
    for job in jobs:
        job_id = job.id or store.ids.new(shard.index, now_ms)
        placed.append(place(job_id, job, [*unique.fields(job), *terms.fields]))
    return placed


async def _claim(claims: AliasClaims, store: Store, shard: Shard, jobs: Sequence[NewJob]) -> int:
    """Claim the ids that clients chose, where their bits point elsewhere than their queue.

    Returns the ms (by the clock of the shard that lapses first) before which the jobs must be
    written, or 0.
    """
    foreign = [
        (job.id, index)
        for index, job in enumerate(jobs)
        if job.id is not None and not is_owner_shard(store, shard, job.id)
    ]
    return await claims.claim(shard, foreign, CLAIM_MS, of=len(jobs))


def _is_plain(store: Store, shard: Shard, part: Sequence[PlacedJob]) -> bool:
    """Whether the short script may store this: one plain job of a queue without a bound."""
    if len(part) > 1 or store.settings.max_queue_depth:
        return False
    return part[0].plain and not store.bounded_queues.among(shard, [part[0].queue])


async def _all_there(store: Store, shard: Shard, part: Sequence[PlacedJob]) -> bool:
    """Whether every job of the part is there as it was sent.

    One that is there proves nothing of the others: it may be older than this request.
    """
    found = {job.id: job for job in await read_many(store, shard, [job.job_id for job in part])}
    return all(job.job_id in found and is_same(job, found[job.job_id].fields) for job in part)


async def _store_part(
    store: Store,
    shard: Shard,
    part: Sequence[PlacedJob],
    jobs: Sequence[NewJob],
    lapses: int,
    fences: Iterable[str],
    claims: AliasClaims,
    accepted: bool,
    *,
    short: bool = True,
) -> list[JobRecord]:
    """Store jobs of one shard; with ``short`` by the short script if that serves them."""
    if short and not lapses and not fences and _is_plain(store, shard, part):
        name, (keys, args) = "enqueue_one", one_command(store, shard, part[0])
    else:
        name = "enqueue"
        keys, args = command(store, shard, part, lapses=lapses, fences=fences, accepted=accepted)
    # An id of ours cannot be taken: what is there was written by the same call before.
    ours = all(job.id is None for job in jobs)
    unsure = False
    while True:
        with begun(when=unsure):
            try:
                reply = await store.run(shard, name, keys, args, idempotent=ours)
            except BackendUnavailable as error:
                if error.outcome != "unknown" or ours or unsure:
                    if isinstance(error, WritesRefused) and not unsure:
                        await claims.give_back()
                    raise
                unsure = True  # the first try may have been applied; what is there then tells
                continue
            if reply[0] in (b"full_path", b"bounded"):
                if reply[0] == b"bounded":
                    store.bounded_queues.note(shard, [part[0].queue])
                name, (keys, args) = "enqueue", command(store, shard, part, accepted=accepted)
                continue
            repeated = ours or unsure
            # A first try without an answer may still be on its way: then nothing is given back.
            if reply[0] == b"lapsed":
                if not repeated:
                    await claims.give_back()
                raise Conflict("it is too late to store the job: what it claimed has lapsed")
            if reply[0] == b"full":
                if not repeated:
                    await claims.give_back()
                raise depth_bounds.queue_full_error(dict.fromkeys(job.queue for job in part), reply)
            if reply[0] == b"ok":
                await follow_up(store, shard, reply)
                store.depth_cache.mark_filled(store.keys, shard, {job.queue for job in part})
                return written(part, reply)
            job = part[int(reply[1]) - 1]
            there = record(job.job_id, reply[2]).fields
            if f.TOMBSTONE in there:
                raise _Tombstoned(there[f.TOMBSTONE].decode())
            if f.TRANSACTION in there:
                transaction = there[f.TRANSACTION].decode()
                await claimed_ids.wait_for_transaction(store, shard, [job.job_id], transaction)
            elif (target := claimed_ids.leads_to(store, shard, there)) is not None:
                if repeated:  # the first try may have stored the job, which is gone since
                    raise BackendUnavailable(
                        f"another request has claimed the id '{job.job_id}'", outcome="unknown"
                    )
                raise ClaimedElsewhere([Claimed(job.job_id, int(reply[1]) - 1, target)])
            elif repeated and (ours or await _all_there(store, shard, part)):
                with begun():
                    return await read_back(store, shard, part)
            else:
                claims.keep(job.job_id)
                if not repeated:
                    await claims.give_back()
                raise duplicate_id(job.job_id, int(reply[1]) - 1, len(part))
