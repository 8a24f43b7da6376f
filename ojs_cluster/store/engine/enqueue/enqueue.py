"""Enqueue jobs (spec: ojs-core, PUSH; ojs-bulk-operations; ojs-unique-jobs).

Jobs of one shard that fit into one portion are stored by one script. Other batches use a
cross-shard transaction (see ``batch``). A job with a client-chosen id, or a unique job that
replaces no other job, needs no transaction, although it writes to two shards: its alias or its lock
is claimed first, and the claim expires if the job is not stored.

A tombstone prevents a stalled producer from storing a job (see ``unique``). When the client repeats
the request, the new producer finds the tombstone. It claims alias and lock again, and passes the
tombstone's token, which the stalled producer does not know. So only the new producer can store the
job in place of the tombstone.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import SentScript
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import (
    CLAIM_MS,
    AliasClaims,
    ClaimedElsewhere,
    duplicate_id,
    earliest,
    is_owner_shard,
)
from ojs_cluster.store.engine.enqueue import batch, claimed_ids
from ojs_cluster.store.engine.enqueue.part_writer import PartWriter, Tombstoned, fits_fast_path
from ojs_cluster.store.engine.enqueue.stored_jobs import admit_new_jobs
from ojs_cluster.store.engine.jobs.index_values import index_bytes, with_digests
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.placement import (
    PORTION_JOBS,
    PlacedJob,
    count_types,
    deliver_effects,
    enqueue_command,
    enqueue_one_command,
    place,
    plain_record,
    portions,
)
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.tenants.admission import Admitted
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.portions import PORTION_BYTES

_TRIES = 5
"""Attempts to store a job before the request is answered 503. An attempt fails when a claim
expires, or when it finds a tombstone or the alias of another request."""


@dataclass(frozen=True, slots=True)
class EnqueueOptions:
    """How to store jobs.

    Args:
        fields: names and values of further fields of each job's hash.
        store_before_ms: Unix time in ms, by any shard's clock, from which on the jobs must not be
            stored any more, 0 for never.
        ignore_depth_bound: whether the jobs are stored even in full queues (see ``depth_bounds``).
    """

    fields: Sequence[bytes] = ()
    store_before_ms: int = 0
    ignore_depth_bound: bool = False


async def enqueue(
    store: Store,
    job: NewJob,
    *,
    fields: Sequence[bytes] = (),
    store_before_ms: int = 0,
    ignore_depth_bound: bool = False,
    admitted: Admitted | None = None,
) -> JobRecord:
    """Store one job. When the function returns, the job is as durable as ``OJS_DURABILITY`` says.

    Args:
        store: the store.
        job: the job.
        fields: names and values of further fields of the job's hash.
        store_before_ms: Unix time in ms, by any shard's clock, from which on the job must not be
            stored any more, 0 for never.
        ignore_depth_bound: whether the job is stored even in a full queue, because the server has
            already accepted it, for example as a step of a workflow.
        admitted: the tenants whose jobs an earlier try of the request has counted (see
            ``admission``); the function adds the job's tenant. None if the request has one try.

    Returns:
        The job. Under the conflict policy ``ignore`` it may be an existing job, with
        ``deduplicated`` set.

    Raises:
        QueueFull: the depth bound of the queue, or a limit of the job's tenant, is reached.
        Duplicate: another job in the cluster has the client-chosen id, or a job with the same
            fingerprint exists.
        Conflict: the time ``store_before_ms`` has passed.
        TooManyQueues: the server has the maximum number of queues, and the queue is new.
        TooManyRateLimitKeys: the server has the maximum number of rate limit keys, and the job's
            key is new.
        BackendUnavailable: Redis did not answer in time.
    """
    if store.queue_defaults.policy is not None or job.queue in store.queue_defaults.by_queue:
        job = store.queue_defaults.apply(job)
    if job.rate_limit is not None and not ignore_depth_bound:
        await store.limit_keys.check_jobs(store, [job])
    if job.tenant and not ignore_depth_bound:
        existing = await admit_new_jobs(store, [job], admitted)
        if existing is not None:
            return existing[0]
    if store.settings.search_index:
        [job] = await with_digests(store.settings, [job])
    await store.queues.ensure(store, [job.queue])
    await store.partitions.refresh_if_stale(store)
    [shard] = store.partitions.choose_shards(store, [job])
    if job.id is None and job.unique is None and not fields and not store_before_ms:
        return await _enqueue_plain(store, shard, job, ignore_depth_bound)
    options = EnqueueOptions(fields, store_before_ms, ignore_depth_bound)
    if job.unique is not None:
        return await _enqueue_unique(store, shard, job, job.unique, options)
    return (await _enqueue_in_shard(store, shard, [job], options))[0]


async def enqueue_many(
    store: Store,
    jobs: Sequence[NewJob],
    fields: Sequence[bytes] = (),
    admitted: Admitted | None = None,
    *,
    store_before_ms: int = 0,
) -> list[JobRecord]:
    """Store all jobs or none, each with ``fields``, as ``enqueue``; return them in the order given.

    Raises:
        Conflict: the time ``store_before_ms`` has passed.
        Duplicate: another job has one of the ids, two jobs have the same id, or a job with the same
            fingerprint exists. ``details`` names the job.
        QueueFull: the depth bound of a queue, or a limit of a tenant, is reached.
        TooManyQueues: the server has the maximum number of queues, and a queue is new.
        TooManyRateLimitKeys: the server has the maximum number of rate limit keys, and a key is
            new.
        BackendUnavailable: Redis did not answer in time.
    """
    batch.refuse_repeated_ids(jobs)
    jobs = store.queue_defaults.apply_all(jobs)
    await store.limit_keys.check_jobs(store, jobs)
    existing = await admit_new_jobs(store, jobs, admitted)
    if existing is not None:
        return existing
    if store.settings.search_index:
        jobs = await with_digests(store.settings, jobs)
    await store.partitions.refresh_if_stale(store)
    shards = set(store.partitions.choose_shards(store, jobs))
    max_jobs = store.webhooks.jobs_per_script("enqueue", PORTION_JOBS)
    is_large = len(jobs) > max_jobs or _size(jobs) > PORTION_BYTES
    if is_large or len(shards) > 1 or any(job.unique is not None for job in jobs):
        return await batch.enqueue_all(store, jobs, fields, store_before_ms)
    [shard] = shards
    await store.queues.ensure(store, dict.fromkeys(job.queue for job in jobs))
    return await _enqueue_in_shard(store, shard, jobs, EnqueueOptions(fields, store_before_ms))


FixedJob = tuple[str, NewJob, Sequence[bytes]]
"""An id that was fixed in advance, the job, and names and values of further fields of its hash."""


async def enqueue_with_ids(
    store: Store, shard: Shard, jobs: Sequence[FixedJob], store_before_ms: int
) -> int:
    """Store jobs whose ids were fixed in advance, unless a job is already stored under the id.

    The uniqueness policies of the jobs are not applied; the caller has applied them.

    Args:
        store: the store.
        shard: the owner shard of all ids. It holds a partition of the queue of each job.
        jobs: the jobs, in their order.
        store_before_ms: Unix time in ms from which on no job must be stored any more, 0 for never.

    Returns:
        How many jobs this call has stored.

    Raises:
        Conflict: the time ``store_before_ms`` has passed.
        TooManyQueues: the server has the maximum number of queues, and a queue is new.
        BackendUnavailable: Redis did not answer in time.
    """
    queues = dict.fromkeys(job.queue for _, job, _ in jobs)
    await store.queues.ensure(store, queues)
    await ensure_open(store, shard, queues)
    indexed: Sequence[NewJob] = [job for _, job, _ in jobs]
    if store.settings.search_index:
        indexed = await with_digests(store.settings, indexed)
    part = [
        place(job_id, store.queue_defaults.apply(job), fields)
        for (job_id, _, fields), job in zip(jobs, indexed, strict=True)
    ]
    stored = 0
    for portion in portions(store, part):
        found = await _store_fixed(store, shard, portion, store_before_ms)
        if not found and len(portion) > 1:  # a job is stored already, which is rare
            for job in portion:
                stored += await _store_fixed(store, shard, [job], store_before_ms)
        stored += len(portion) if found else 0
    return stored


async def _store_fixed(
    store: Store, shard: Shard, part: Sequence[PlacedJob], store_before_ms: int
) -> bool:
    """Store all jobs, or none because something is stored under the id of one."""
    keys, args = enqueue_command(store, shard, part, store_before_ms=store_before_ms)
    reply = await store.run(shard, "enqueue", keys, args, idempotent=True)
    if reply[0] == b"too_late":
        raise Conflict(f"it is too late to store job '{part[0].job_id}'", job_id=part[0].job_id)
    if reply[0] == b"ok":
        await deliver_effects(store, shard, reply)
        count_types(store, part)
    return bool(reply[0] == b"ok")


@dataclass(frozen=True, slots=True)
class SentEnqueue:
    """A call of ``enqueue_one.lua`` for a plain job, sent before ``resume``.

    Args:
        call: the call.
        shard: the shard of the job.
        job_id: the id of the job.
    """

    call: SentScript
    shard: Shard
    job_id: str


async def resume(store: Store, job: NewJob, sent: SentEnqueue) -> JobRecord:
    """Store a job whose first call is sent; otherwise as ``enqueue``."""
    return await _enqueue_plain(store, sent.shard, job, ignore_depth_bound=False, sent=sent)


async def _enqueue_plain(
    store: Store,
    shard: Shard,
    job: NewJob,
    ignore_depth_bound: bool,
    sent: SentEnqueue | None = None,
) -> JobRecord:
    """Store a job that needs no claim, by the fast path where possible."""
    job_id = store.ids.new(shard.index, store.clock.now_ms()) if sent is None else sent.job_id
    placed = place(job_id, job)
    fast_path, limit = True, job.rate_limit
    declared = limit is not None and await store.limit_keys.has_limits(store, limit)
    if sent is not None or fits_fast_path(store, shard, [placed], declared=declared):
        if sent is None:
            keys, args = enqueue_one_command(store, shard, placed)
            reply = await store.run(shard, "enqueue_one", keys, args, idempotent=True)
        else:
            reply = await store.redis.complete(sent.call)
        if isinstance(reply, int):
            store.depth_cache.mark_filled(store.keys, shard, (job.queue,))
            count_types(store, (placed,))
            return plain_record(placed, reply)
        if reply[0] == b"bounded":
            store.bounded_queues.add(shard, [job.queue])
        fast_path = reply[0] not in (b"full_path", b"bounded")
    writer = PartWriter(store, shard, [placed], [job], AliasClaims(store), ignore_depth_bound)
    return (await writer.write(fast_path=fast_path))[0]


async def _enqueue_in_shard(
    store: Store, shard: Shard, jobs: Sequence[NewJob], options: EnqueueOptions
) -> list[JobRecord]:
    """Store jobs of one shard that are not unique."""
    placed = _place(store, shard, jobs, options)
    tokens: set[str] = set()
    claims = AliasClaims(store)
    failure = unique.contention_error()
    uncertain = False
    for _ in range(_TRIES):
        writer = PartWriter(store, shard, placed, jobs, claims, options.ignore_depth_bound)
        store_before_ms = options.store_before_ms
        try:
            expires_at_ms = await _claim_aliases(claims, store, shard, jobs)
            store_before_ms = earliest(options.store_before_ms, expires_at_ms)
            return await writer.write(store_before_ms, tokens)
        except Conflict:
            if store_before_ms == options.store_before_ms:
                raise
            # The claims have expired, and this try has stored nothing, so the loop claims the ids
            # again. But an earlier try without a reply may have stored jobs that are removed since.
            uncertain = uncertain or writer.uncertain
            failure = _expired_claims(uncertain)
            if uncertain:
                raise failure from None
        except QueueFull as full:
            if uncertain or writer.uncertain:
                raise _full_and_uncertain(full) from None
            raise
        except Tombstoned as conflict:
            uncertain = uncertain or writer.uncertain
            tokens.add(conflict.token)
        except ClaimedElsewhere as conflict:
            if len(jobs) > 1:
                return await batch.enqueue_all(store, jobs, options.fields, claims=claims)
            shard = await claimed_ids.first_shard(store, claims, jobs[0], conflict, shard)
    await claims.release()
    with after_first_write(when=uncertain):
        raise failure


def _full_and_uncertain(full: QueueFull) -> BackendUnavailable:
    """Return the error of a full queue after a try without a reply, which may have stored jobs."""
    return BackendUnavailable(
        f"{full.message}, but an earlier try may have stored the jobs; repeat the request",
        outcome="unknown",
    )


def _expired_claims(uncertain: bool) -> BackendUnavailable:
    """Return the error of claims that expired before the jobs were stored.

    Args:
        uncertain: whether an earlier try without a reply may have stored jobs.
    """
    return BackendUnavailable(
        "the claims of the ids expired before the jobs could be stored; repeat the request",
        outcome="unknown" if uncertain else "not_applied",
    )


async def _enqueue_unique(
    store: Store, shard: Shard, job: NewJob, policy: UniquePolicy, options: EnqueueOptions
) -> JobRecord:
    """Claim the lock, then store the job.

    No other producer can take the lock as long as the job exists or may still be stored
    (``unique.resolve_holder``). So the claim decides which producer may store its job.
    """
    await ensure_task()
    tokens: set[str] = set()
    claims = AliasClaims(store)
    uncertain = False
    for _ in range(_TRIES):
        [placed] = _place(store, shard, [job], options)
        try:
            expires_at_ms = await _claim_aliases(claims, store, shard, [job])
        except ClaimedElsewhere as conflict:
            shard = await claimed_ids.first_shard(store, claims, job, conflict, shard)
            continue
        request = LockRequest(job.fingerprint, placed.job_id, shard.index)
        claim = await _claim_lock(store, claims, request, policy)
        if claim.existing is not None:
            return await _resolve_conflict(
                store, job, policy, placed.job_id, claim.existing, claims, options
            )
        expires_at_ms = earliest(options.store_before_ms, expires_at_ms, claim.expires_at_ms)
        writer = PartWriter(store, shard, [placed], [job], claims, options.ignore_depth_bound)
        try:
            return (await writer.write(expires_at_ms, tokens))[0]
        except Tombstoned as conflict:
            uncertain = uncertain or writer.uncertain
            # Another job may have held the lock since the tombstone was written.
            await unique.release_lock(store, request, claim)
            tokens.add(conflict.token)
        except ClaimedElsewhere as conflict:
            await unique.release_lock(store, request, claim)
            shard = await claimed_ids.first_shard(store, claims, job, conflict, shard)
        except Conflict:
            if uncertain or writer.uncertain:
                # A try without a reply may have stored the job. The janitor settles the lock.
                raise _expired_claims(uncertain=True) from None
            # The claim has expired, so another job may hold the lock.
            await unique.release_lock(store, request, claim)
            if expires_at_ms == options.store_before_ms:
                await claims.release()
                raise
        except (QueueFull, WritesRefused) as error:
            if uncertain or writer.uncertain:  # the janitor settles the lock
                if isinstance(error, QueueFull):
                    raise _full_and_uncertain(error) from None
                with after_first_write():
                    raise
            if isinstance(error, QueueFull) or error.outcome == "not_applied":
                with suppress(OJSError):
                    await unique.release_lock(store, request, claim)
            raise
        except Duplicate as error:
            if not await _holds_lock(store, shard, placed, job):
                await unique.release_lock(store, request, claim)
            if job.id is not None:
                raise error from None
    await claims.release()
    with after_first_write(when=uncertain):
        raise BackendUnavailable("the job could not be stored in time", outcome="not_applied")


async def _claim_lock(
    store: Store, claims: AliasClaims, request: LockRequest, policy: UniquePolicy
) -> unique.LockClaim:
    """Claim the lock of a job, or release its alias claims when Redis refuses writes."""
    try:
        return await unique.claim_lock(store, request, policy)
    except WritesRefused:
        await claims.release()
        raise


async def _resolve_conflict(
    store: Store,
    job: NewJob,
    policy: UniquePolicy,
    job_id: str,
    existing: JobRecord,
    claims: AliasClaims,
    options: EnqueueOptions,
) -> JobRecord:
    """Apply the policy of a unique job to the existing job that it conflicts with."""
    if existing.id == job_id:
        raise duplicate_id(job_id, 0, 1)
    if policy.on_conflict not in ("ignore", "reject"):
        replaced = await batch.enqueue_all(
            store,
            [job],
            options.fields,
            options.store_before_ms,
            claims,
            ignore_depth_bound=options.ignore_depth_bound,
        )
        return replaced[0]
    await claims.release()
    if policy.on_conflict == "ignore":
        return replace(existing, deduplicated=True)
    raise unique.duplicate_error(job.fingerprint, existing)


async def _holds_lock(store: Store, shard: Shard, placed: PlacedJob, job: NewJob) -> bool:
    """Return whether the job that is stored under the id of ``placed`` holds the job's lock."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(placed.job_id), f.UNIQUE, f.STATE, idempotent=True
    )
    held, state = ((value or b"").decode() for value in found)
    if held.endswith("+"):  # the lock stays after the end of the job, see ``unique.lock_fields``
        return held == f"{job.fingerprint}+"
    return held == job.fingerprint and state not in TERMINAL


def _size(jobs: Sequence[NewJob]) -> int:
    """Return the number of bytes that jobs count as in a portion."""
    return sum(len(job.body) + index_bytes(job) for job in jobs)


def _place(
    store: Store, shard: Shard, jobs: Sequence[NewJob], options: EnqueueOptions
) -> list[PlacedJob]:
    """Give each job its id and its fields."""
    now_ms = store.clock.now_ms()
    placed: list[PlacedJob] = []
    for job in jobs:
        job_id = job.id or store.ids.new(shard.index, now_ms)
        placed.append(place(job_id, job, [*unique.lock_fields(job), *options.fields]))
    return placed


async def _claim_aliases(
    claims: AliasClaims, store: Store, shard: Shard, jobs: Sequence[NewJob]
) -> int:
    """Claim the client-chosen ids whose owner shard is not ``shard``.

    Returns:
        Unix time in ms before which the jobs must be stored, 0 when there is no such id.
    """
    foreign = [
        (job.id, index)
        for index, job in enumerate(jobs)
        if job.id is not None and not is_owner_shard(store, shard, job.id)
    ]
    return await claims.claim(shard, foreign, CLAIM_MS, total=len(jobs))
