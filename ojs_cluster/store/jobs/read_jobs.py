"""Read jobs (spec: ojs-core, INFO)."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import validate_job
from ojs_cluster.store.jobs.record import JobRecord, record

PAGE_BYTES = 8 * 1024 * 1024
"""Bytes of jobs that are read for one response, about as for a fetch."""


async def get(store: Store, job_id: str) -> JobRecord:
    """Return one job. A read changes nothing, except that it finishes an undecided replacement.

    Raises:
        NotFound: no such job, or its retention is over, or it was deleted.
        MalformedJob: its stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    if is_job_id(job_id):
        shard = store.keys.shard_of_id(job_id)
        for _ in range(3):
            job = await read(store, shard, job_id)
            if job is None or job.hidden:
                break
            alias, transaction = job.fields.get(f.ALIAS), job.fields.get(f.TRANSACTION)
            if alias is not None:
                shard = store.keys.shard(int(alias))
            elif transaction is not None:
                await store.finish_transaction(store, shard, transaction)
            else:
                validate_job.raise_if_malformed(job_id, job.fields, shard.index)
                return job
    raise NotFound("job", job_id)


async def read(store: Store, shard: Shard, job_id: str) -> JobRecord | None:
    """What ``shard`` has under ``job_id``: a job, perhaps prepared, an alias, or nothing."""
    flat = await store.redis.call(shard.slot, "HGETALL", shard.job(job_id), idempotent=True)
    return record(job_id, flat) if isinstance(flat, list) and flat else None


async def read_many(store: Store, shard: Shard, job_ids: Sequence[str]) -> list[JobRecord]:
    """Return jobs of one shard in the order given, without missing and malformed ones."""
    found: dict[str, JobRecord] = {}

    async def one(job_id: str) -> None:
        job = await read(store, shard, job_id)
        if job is not None and validate_job.find_fault(job.fields) is None:
            found[job_id] = job

    await run_concurrently(job_ids, one)
    return [found[job_id] for job_id in job_ids if job_id in found]


async def read_some(
    store: Store, places: Sequence[tuple[Shard, str]], *, most: int = PAGE_BYTES
) -> list[JobRecord | None]:
    """Return the first of these jobs, within ``most`` bytes but at least one.

    A few more large jobs may be read than are returned: the concurrent reads.

    Args:
        places: the shard and id of each job.
        most: bytes of all jobs.

    Returns:
        The jobs in order; None for a missing or malformed one.
    """
    jobs: dict[int, JobRecord | None] = {}
    left = most

    async def one(index: int) -> None:
        nonlocal left
        if left <= 0:
            return
        job = await read(store, *places[index])
        jobs[index] = (
            None if job is None or validate_job.find_fault(job.fields) is not None else job
        )
        left -= 0 if job is None else job.size

    await run_concurrently(range(len(places)), one)
    some: list[JobRecord | None] = []
    for index in range(len(jobs)):
        if most <= 0:
            break
        job = jobs[index]
        some.append(job)
        most -= 0 if job is None else job.size
    return some


async def shard_of(store: Store, queue: str, job_id: str) -> Shard:
    """Return the shard that stores a job of ``queue``."""
    await store.partitions.refresh_if_stale(store)
    if store.partitions.layout(queue).occupied_count == 1:
        return store.keys.shard_of_queue(queue)
    owner = store.keys.shard_of_id(job_id)
    alias = await store.redis.call(owner.slot, "HGET", owner.job(job_id), f.ALIAS, idempotent=True)
    return store.keys.shard(int(alias)) if isinstance(alias, bytes) else owner
