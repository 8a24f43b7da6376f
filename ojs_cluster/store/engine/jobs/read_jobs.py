"""Read jobs (spec: ojs-core, INFO)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ojs_cluster.core.errors import MalformedJob, NotFound
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import validate_job
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently

PAGE_BYTES = 8 * 1024 * 1024
"""Size in bytes of the jobs that are read for one response. A fetch has the same limit."""


async def get(store: Store, job_id: str) -> JobRecord:
    """Return one job.

    If a transaction has prepared the job, the transaction is finished first.

    Raises:
        NotFound: there is no such job, its retention is over, or it was deleted.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    job, shard = await _find(store, job_id, read)
    validate_job.raise_if_malformed(job_id, job.fields, shard.index)
    return job


async def get_queue_and_tenant(store: Store, job_id: str) -> tuple[str, str]:
    """Return the queue of a job, and its tenant, '' for none. Only a few small fields are read.

    Raises:
        NotFound: as of ``get``.
        MalformedJob: the stored queue is not the name of a queue. Other fields are not checked.
        BackendUnavailable: Redis did not answer in time.
    """
    job, shard = await _find(store, job_id, _read_queue)
    queue = job.fields.get(f.QUEUE, b"").decode(errors="replace")
    if not is_queue(queue):
        raise MalformedJob(job_id, f"{f.QUEUE.decode()} is no queue", shard.index)
    return queue, job.tenant


_HISTORY: Final = (
    *(f.TYPE, f.QUEUE, f.STATE, f.PRIORITY, f.CREATED, f.MAX_ATTEMPTS, f.ATTEMPT, f.ENQUEUED),
    *(f.STARTED, f.FINISHED, f.WORKER, f.EXPIRED, f.REPLAYS, f.SCHEDULED_SHOWN, f.HISTORY),
    *(f.HIDDEN, f.ALIAS, f.TRANSACTION),
)


async def get_history(store: Store, job_id: str) -> JobRecord:
    """Return one job with what tells its history: without its args, result and kept errors.

    At most 20 KiB are read, however large the job is. The entries of its history have the errors,
    shortened.

    Raises:
        NotFound: as of ``get``.
        BackendUnavailable: Redis did not answer in time.
    """
    job, _ = await _find(store, job_id, _read_history)
    return JobRecord(job_id, {**job.fields, f.ENVELOPE: b"{"})  # an envelope without members


_WAITING: Final = (
    *(f.STATE, f.QUEUE, f.DUE, f.LIMIT, f.OPEN_TOKEN_REQUEST, f.HOLD),
    *(f.HIDDEN, f.ALIAS, f.TRANSACTION),
)


async def get_waiting(store: Store, job_id: str) -> JobRecord:
    """Return one job with what tells why it does not run yet. Only a few small fields are read.

    The fields are not checked, so the attributes of the job may raise ``KeyError`` or
    ``ValueError``.

    Raises:
        NotFound: as of ``get``.
        BackendUnavailable: Redis did not answer in time.
    """
    job, _ = await _find(store, job_id, _read_waiting)
    return job


async def _find(
    store: Store,
    job_id: str,
    read_hash: Callable[[Store, Shard, str], Awaitable[JobRecord | None]],
) -> tuple[JobRecord, Shard]:
    """Find the shard of a job; return the job as ``read_hash`` reads it there, and the shard.

    Raises:
        NotFound: as of ``get``.
        BackendUnavailable: Redis did not answer in time.
    """
    if is_job_id(job_id):
        shard = store.keys.shard_of_id(job_id)
        for _ in range(3):  # owner shard, shard of the alias, and once more after a transaction
            job = await read_hash(store, shard, job_id)
            if job is None or job.hidden:
                break
            alias, transaction = job.fields.get(f.ALIAS), job.fields.get(f.TRANSACTION)
            if alias is not None:
                shard = store.keys.shard(int(alias))
            elif transaction is not None:
                await store.finish_transaction(store, shard, transaction)
            else:
                return job, shard
    raise NotFound("job", job_id)


async def _read_queue(store: Store, shard: Shard, job_id: str) -> JobRecord | None:
    names = (f.QUEUE, f.TENANT, f.HIDDEN, f.ALIAS, f.TRANSACTION)
    return await _read_fields(store, shard, job_id, names)


async def _read_history(store: Store, shard: Shard, job_id: str) -> JobRecord | None:
    return await _read_fields(store, shard, job_id, _HISTORY)


async def _read_waiting(store: Store, shard: Shard, job_id: str) -> JobRecord | None:
    return await _read_fields(store, shard, job_id, _WAITING)


async def _read_fields(
    store: Store, shard: Shard, job_id: str, names: Sequence[bytes]
) -> JobRecord | None:
    values = await store.redis.call(shard.slot, "HMGET", shard.job(job_id), *names, idempotent=True)
    if not isinstance(values, list):
        return None
    found = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return JobRecord(job_id, found) if found else None


async def read(store: Store, shard: Shard, job_id: str) -> JobRecord | None:
    """Return the hash that ``shard`` has under ``job_id``, None for none.

    The hash is a job, a prepared job or an alias.
    """
    field_list = await store.redis.call(shard.slot, "HGETALL", shard.job(job_id), idempotent=True)
    return record(job_id, field_list) if isinstance(field_list, list) and field_list else None


async def read_many(store: Store, shard: Shard, job_ids: Sequence[str]) -> list[JobRecord]:
    """Return jobs of one shard in the order of ``job_ids``, without missing and malformed jobs."""
    jobs: dict[str, JobRecord] = {}

    async def read_one(job_id: str) -> None:
        job = await read(store, shard, job_id)
        if job is not None and validate_job.find_fault(job.fields) is None:
            jobs[job_id] = job

    await run_concurrently(job_ids, read_one)
    return [jobs[job_id] for job_id in job_ids if job_id in jobs]


async def read_some(
    store: Store, ids: Sequence[tuple[Shard, str]], *, max_bytes: int = PAGE_BYTES
) -> list[JobRecord | None]:
    """Return the first of these jobs, as many as fit into ``max_bytes`` but at least one.

    Jobs are read concurrently, so a few more large jobs may be read than are returned.

    Args:
        store: the store.
        ids: the shard and id of each job.
        max_bytes: maximum size in bytes of all returned jobs.

    Returns:
        The jobs in order; None for a missing or malformed job.
    """
    jobs: dict[int, JobRecord | None] = {}
    unread_bytes = max_bytes

    async def read_one(index: int) -> None:
        nonlocal unread_bytes
        if unread_bytes <= 0:
            return
        job = await read(store, *ids[index])
        jobs[index] = (
            None if job is None or validate_job.find_fault(job.fields) is not None else job
        )
        unread_bytes -= 0 if job is None else job.size

    await run_concurrently(range(len(ids)), read_one)
    page: list[JobRecord | None] = []
    free_bytes = max_bytes
    for index in range(len(jobs)):
        if free_bytes <= 0:
            break
        job = jobs[index]
        page.append(job)
        free_bytes -= 0 if job is None else job.size
    return page


async def shard_of(store: Store, queue: str, job_id: str) -> Shard:
    """Return the shard that stores a job of ``queue``."""
    await store.partitions.refresh_if_stale(store)
    if store.partitions.layout(queue).occupied_count == 1:
        return store.keys.shard_of_queue(queue)
    owner = store.keys.shard_of_id(job_id)
    alias = await store.redis.call(owner.slot, "HGET", owner.job(job_id), f.ALIAS, idempotent=True)
    return store.keys.shard(int(alias)) if isinstance(alias, bytes) else owner
