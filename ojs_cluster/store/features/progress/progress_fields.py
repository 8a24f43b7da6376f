"""Read only those fields of a job that its progress needs (spec: ojs-progress 7.2).

A request that streams the progress of a job reads the job repeatedly. A whole job may have a
megabyte of arguments.
"""

from __future__ import annotations

from typing import Any, Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground import job_fields as f

_FIELDS: Final = (f.STATE, f.ATTEMPT, f.FINISHED, f.PROGRESS, f.PROGRESS_DATA)
_STATES: Final = frozenset(state.value.encode() for state in State)
_ELSEWHERE: Final = (f.ALIAS, f.TRANSACTION, f.HIDDEN)
"""Fields of an alias, of a prepared job and of a hidden job, which ``read_jobs.get`` handles."""


async def read_progress_fields(store: Store, shard: Shard | Meta, job_id: str) -> JobRecord:
    """Return a job that has its state and its progress, and no other fields.

    Args:
        store: the store.
        shard: the shard that stores the job, as ``read_jobs.shard_of`` returns it.
        job_id: the job.

    Raises:
        NotFound: the job was removed.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    if isinstance(shard, Shard):
        names = *_FIELDS, *_ELSEWHERE
        values: Any = await store.redis.call(
            shard.slot, "HMGET", shard.job(job_id), *names, idempotent=True
        )
        fields = {name: value for name, value in zip(names, values, strict=True) if value}
        if fields.get(f.STATE) in _STATES and fields.keys().isdisjoint(_ELSEWHERE):
            return JobRecord(job_id, fields)
    return await read_jobs.get(store, job_id)
