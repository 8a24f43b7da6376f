"""Discard or move one job of a queue that is deleted (spec: ojs-queue-config 5.3)."""

from __future__ import annotations

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import OfWorkflow, run_on_job
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause, history_arg
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.ground.runtime import Arg

_KEYS = ("due", "active", "execution_deadlines", "expiring", "pending", "finished", "events")


async def discard_job(store: Store, job_id: str, queue: str, created_ms: int) -> JobRecord:
    """Discard a job that is not terminal. Its error has the type ``queue_deleted``.

    If a worker still runs the job, its ack gets a conflict later. A malformed job is removed.

    Args:
        store: the store.
        job_id: the job.
        queue: the queue that is deleted.
        created_ms: when the job was created, in Unix milliseconds. A later job that has its id is
            another job.

    Returns:
        The discarded job.

    Raises:
        NotFound: no such job.
        Conflict: the job is terminal, or belongs to another queue. This includes a repetition.
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    args: list[Arg] = [store.events_arg, queue, created_ms]
    args += [settings.retention_discarded_ms, settings.errors_kept]
    try:
        return await run_on_job(store, "discard_job", job_id, _KEYS, args, idempotent=True)
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)


async def move_job(
    store: Store, job_id: str, queue: str, target: str, created_ms: int, cause: Cause = UNKNOWN
) -> JobRecord:
    """Give a waiting job another queue; return the job. Repeating it changes nothing.

    The job stays in its shard, so ``open_target`` must have opened the shard for the target. The
    workflow of a step names the target before the step moves. So at no time may a reader without
    access to the target read the step by its workflow.

    Args:
        store: the store.
        job_id: the job.
        queue: the queue that is deleted.
        target: the queue that the job gets.
        created_ms: as of ``discard_job``.
        cause: who moves the job, for its history.

    Raises:
        NotFound: no such job.
        Conflict: the job is active or terminal, or belongs to a third queue.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    args: list[Arg] = [queue, target, created_ms, history_arg(store, cause)]
    try:
        return await run_on_job(store, "move_job", job_id, (), [*args, ""], idempotent=True)
    except OfWorkflow as step:
        workflow_id = step.workflow_id
    await _add_queue(store, workflow_id, target)
    return await run_on_job(store, "move_job", job_id, (), [*args, workflow_id], idempotent=True)


async def _add_queue(store: Store, workflow_id: str, queue: str) -> None:
    """Note that a job of a workflow moves to a queue. Repeating it changes nothing.

    A queue is never removed, also if the move is refused afterwards: another job may be there, or
    have ended there with a result. A workflow that is missing or malformed, and so not
    accessible, does not change.
    """
    owner = store.keys.shard_of_id(workflow_id)
    await store.run(
        owner, "workflow_add_queue", [owner.workflow(workflow_id)], [queue], idempotent=True
    )
