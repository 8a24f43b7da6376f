"""Unique jobs that are workflow steps, whose ids were fixed when the workflow was created.

The policy applies when the step is enqueued. Several processes may enqueue the same step, at any
time, and must agree on the result: either the job is stored, or it is refused permanently. A
process that refuses the step first writes a tombstone for the job's id. So no other process can
store the job later, when the conflicting job has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.unique_locks import write_tombstone


@dataclass(frozen=True, slots=True)
class StepRefused:
    """A step whose job is not stored.

    Args:
        ignored: whether the job's policy is ``ignore``, so the workflow continues without the job.
            Otherwise the step has failed.
        existing: id of the conflicting job, '' when another process has refused the step.
    """

    ignored: bool
    existing: str


async def enqueue_step(
    store: Store, job_id: str, job: NewJob, fields: Sequence[bytes], *, store_before_ms: int
) -> StepRefused | None:
    """Store a unique job under its fixed id, unless it is stored already.

    Args:
        store: the store.
        job_id: id of the job.
        job: the job.
        fields: names and values of further fields of the job's hash.
        store_before_ms: Unix time in ms before which the job must be stored; 0 for no limit.

    Returns:
        None when the job is stored.

    Raises:
        Conflict: the time ``store_before_ms`` has passed.
        TooManyQueues: the server has the maximum number of queues, and the queue is new.
        BackendUnavailable: Redis did not answer in time.
        NotFound: another process is about to store the job; the caller may try again.
    """
    try:
        stored = await enqueue(
            store,
            replace(job, id=job_id),
            fields=fields,
            store_before_ms=store_before_ms,
            ignore_depth_bound=True,
        )
    except Duplicate as error:
        existing = str(error.details.get("existing_job_id", ""))
    else:
        existing = stored.id
        if existing == job_id:
            return None
    assert job.unique is not None  # noqa: S101 - by contract
    if job.unique.on_conflict not in ("reject", "ignore"):
        # A policy that replaces the conflicting job never refuses the step. So the Duplicate is
        # about the step's own id, whose job is stored or about to be.
        await read_jobs.get(store, job_id)
        return None
    shard = store.keys.shard_of_id(job_id)
    # Another process may have stored the job since. Then there is no tombstone, and no refusal.
    if not await write_tombstone(store, shard, job_id, overridable=False):
        return None
    return StepRefused(job.unique.on_conflict == "ignore", existing if existing != job_id else "")
