"""Move one waiting job to another queue, for an operator.

The job stays in its shard, as the moved jobs of a deleted queue do. If the process dies before the
last script, the job has not moved. The janitor then closes the partition that was opened for it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ojs_cluster.core.errors import Conflict, QueueFull
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.raw_json import Raw, stored_members, value
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound, get_bound
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.queue_deletion.change_job import move_job
from ojs_cluster.store.features.queue_deletion.target_queue import one_job, open_for_moves
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.partial_failures import after_first_write


async def move(
    store: Store,
    job_id: str,
    target: str,
    cause: Cause = UNKNOWN,
    check: Callable[[JobRecord], None] | None = None,
) -> tuple[JobRecord, str]:
    """Move a waiting job to another queue. Repeating it changes nothing.

    Args:
        store: the store.
        job_id: the job.
        target: the queue that the job gets.
        cause: who moves the job, for its history.
        check: called with the job before anything changes. It raises an error if the job must not
            be moved.

    Returns:
        The job, and the queue that it had before.

    Raises:
        NotFound: no such job.
        Conflict: the job is active or terminal, or is unique in its queue; or the target drains, or
            a limit would not hold after the move.
        QueueFull: the target has reached its depth bound.
        TooManyQueues: the target does not exist, and the registry of queue names is full.
        MalformedJob: the job's stored fields are malformed.
        BackendUnavailable: Redis did not answer in time.
    """
    job = await read_jobs.get(store, job_id)
    if check is not None:
        check(job)
    queue, state = job.queue, job.state
    if queue == target:
        return job, queue
    if state is State.ACTIVE or state in TERMINAL:
        raise Conflict(
            f"job '{job_id}' is {state}: only a job that waits can be moved",
            job_id=job_id,
            state=state,
        )
    is_unique = bool(job.fields.get(f.UNIQUE))
    if is_unique and await off_loop(partial(_is_unique_in_queue, job), job.size):
        raise Conflict(
            f"job '{job_id}' is unique in its queue, so its queue cannot change", job_id=job_id
        )
    await _check_room(store, target)
    shard = await read_jobs.shard_of(store, queue, job_id)
    await open_for_moves(store, one_job(job), target, [shard])
    with after_first_write():
        return await move_job(store, job_id, queue, target, job.created_ms, cause), queue


async def _check_room(store: Store, target: str) -> None:
    """Check that a queue has fewer jobs than its bound, also if it would drop its oldest jobs."""
    bound = await get_bound(store, target) or DepthBound(store.settings.max_queue_depth)
    if bound.jobs and (depth := (await get_stats(store, target)).depth) >= bound.jobs:
        raise QueueFull(
            f"queue '{target}' has reached its depth bound ({bound.jobs})",
            queue=target,
            depth=depth,
            bound=bound.jobs,
            strategy=bound.strategy,
        )


def _is_unique_in_queue(job: JobRecord) -> bool:
    """Return whether the fingerprint of a unique job covers its queue."""
    policy = value((stored_members(job.json()) or {}).get("unique", Raw(b"null")))
    keys = policy.get("keys") if isinstance(policy, dict) else None
    # A job whose policy cannot be read may be unique in its queue.
    return not isinstance(keys, list) or "queue" in keys
