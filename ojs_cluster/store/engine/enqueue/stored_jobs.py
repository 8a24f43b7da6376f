"""Admit requests of which some jobs may be stored already (spec: ojs-multi-tenancy 8).

The limits are checked before ids and locks, because a check of ids and locks writes. So a tenant at
its limit that repeats a request whose reply was lost would be refused, although its jobs exist. A
refused request therefore looks for its jobs, and gets the answer that it gets without limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio
from msgspec.structs import replace

from ojs_cluster.core.errors import Duplicate, MalformedJob, NotFound, TenantLimitExceeded
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import duplicate_id
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.tenants.admission import Admitted, admit_jobs
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockHeld, LockHolder
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.partial_failures import before_first_write

_CHUNK: Final = 50
"""Number of keys that one call checks. Also the number of jobs that are read together; after them,
a duplicate ends the search."""


async def admit_new_jobs(
    store: Store, jobs: Sequence[NewJob], admitted: Admitted | None = None
) -> list[JobRecord] | None:
    """Check the limits of the tenants, and count the jobs.

    Args:
        store: the store.
        jobs: the jobs of a request, or of one try of it.
        admitted: the tenants whose jobs of the request are admitted, see ``admit_jobs``; None if
            the request has one try.

    Returns:
        None if the jobs are admitted. If the tenant is at its limit, and the conflict policy
        ``ignore`` prevents each job, the existing jobs, with ``deduplicated`` set.

    Raises:
        TenantLimitExceeded: a tenant would exceed a limit.
        Duplicate: a tenant is at its limit, and one of the jobs is stored already.
        BackendUnavailable: Redis did not answer in time.
    """
    if admitted is None:
        admitted = {}
    try:
        await admit_jobs(store, jobs, admitted)
    except TenantLimitExceeded:
        with before_first_write():
            existing = await _find_existing(store, jobs)
        if not existing:
            raise
        new = [job for index, job in enumerate(jobs) if index not in existing]
        if not new:
            return [existing[index] for index in range(len(jobs))]
        await admit_jobs(store, new, admitted)
    return None


async def _find_existing(store: Store, jobs: Sequence[NewJob]) -> dict[int, JobRecord]:
    """Return by position the existing jobs that stand for jobs of the request.

    Raises:
        Duplicate: an existing job prevents one of the jobs. The error names the first such job.
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    existing: dict[int, JobRecord] = {}
    duplicates: dict[int, Duplicate] = {}

    async def find(index: int) -> None:
        try:
            job = await _find(store, jobs[index], index, len(jobs))
        except Duplicate as error:
            duplicates[index] = error
        else:
            if job is not None:
                existing[index] = job

    candidates = await _find_candidates(store, jobs)
    for start in range(0, len(candidates), _CHUNK):
        await run_concurrently(candidates[start : start + _CHUNK], find)
        if duplicates:
            raise duplicates[min(duplicates)]
    return existing


async def _find_candidates(store: Store, jobs: Sequence[NewJob]) -> list[int]:
    """Return the positions of the jobs to look for, in order: with few calls for each shard.

    Most refused jobs are new, so most of these calls find no key at all. Only where they find one,
    each of the jobs is read.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys: dict[Shard, list[tuple[bytes, int]]] = {}
    for index, job in enumerate(jobs):
        if job.id is not None and is_job_id(job.id):
            shard = store.keys.shard_of_id(job.id)
            keys.setdefault(shard, []).append((shard.job(job.id), index))
        if job.unique is not None:
            shard = store.keys.shard_of_fingerprint(job.fingerprint)
            keys.setdefault(shard, []).append((shard.lock(job.fingerprint), index))
    candidates: set[int] = set()

    async def check(shard: Shard) -> None:
        for start in range(0, len(keys[shard]), _CHUNK):
            chunk = keys[shard][start : start + _CHUNK]
            names = [key for key, _ in chunk]
            if await store.redis.call(shard.slot, "EXISTS", *names, idempotent=True):
                candidates.update(index for _, index in chunk)

    await run_concurrently(keys, check)
    return sorted(candidates)


async def _find(store: Store, job: NewJob, index: int, total: int) -> JobRecord | None:
    """Return the existing job that stands for a new one, None if the new one would be stored.

    A job that would replace another one counts as new.
    """
    if job.id is not None and await _is_stored(store, job.id):
        raise duplicate_id(job.id, index, total)
    if job.unique is None or job.unique.on_conflict not in ("ignore", "reject"):
        return None
    holder = await _holder(store, job.fingerprint)
    if holder is None or not holder.blocks(job.unique):
        return None
    if job.unique.on_conflict == "ignore":
        return replace(holder.job, deduplicated=True)
    raise unique.duplicate_error(job.fingerprint, holder.job, index if total > 1 else None)


async def _is_stored(store: Store, job_id: str) -> bool:
    try:
        await read_jobs.get_queue_and_tenant(store, job_id)
    except NotFound:
        return False
    except MalformedJob:
        pass
    return True


async def _holder(store: Store, fingerprint: str) -> LockHolder | None:
    """Return the job that holds a lock. Wait briefly for one that is being stored."""
    shard = store.keys.shard_of_fingerprint(fingerprint)
    deadline = trio.current_time() + unique.GRACE_MS / 1000
    while True:
        now, flat = await store.run(shard, "read_hash", [shard.lock(fingerprint)], idempotent=True)
        if not flat:
            return None
        held = LockHeld(0, record("", flat).fields, now)
        holder = await unique.resolve_holder(store, fingerprint, held)
        if holder is not None or trio.current_time() >= deadline:
            return holder
