"""Advance workflows: handlers of the effects of a job's end, of creation and of cancellation.

Each handler may run any number of times, in any process, concurrently with others:

* One script records the outcome of a job, once, and returns the statuses of all jobs.
* A pure function decides which jobs may start because of this outcome
  (``core.workflow_successors``). The effect of the creation starts the jobs that wait for none, and
  no other effect does. So there is one starter of each job: if it dies, its effect is still in the
  outbox, and the drainer continues where the node statuses end.
* The ids of all jobs are fixed when the workflow is created, and a job is enqueued only if there is
  no job under its id. So a second process changes nothing.
* A stalled process must not enqueue a job again that has ended and was removed. Redis refuses an
  enqueue that was decided more than ``enqueue_steps.STORE_WITHIN_MS`` ago, and keeps the ended jobs
  of workflows for longer than that.
* If the uniqueness policy of a step refuses its job, the step is recorded as ended without a job
  (``unique_steps``): with ``reject`` it has failed, with ``ignore`` it has succeeded.
* One script ends or cancels the workflow, by a compare-and-set on the state ``running``.

A process that has enqueued jobs reads the state of the workflow afterwards. If the workflow was
cancelled in between, the process cancels these jobs. If the process dies first, its effect is still
in the outbox. A process that repeats an effect of a cancelled workflow cancels all jobs that may
have been enqueued.

The effect of a malformed workflow fails, so the outbox keeps it until the workflow is repaired or
removed. (Rejected: to leave it to the check of the workflow. The check does not know how a job
ended that has been removed since, and it does not look at a cancelled workflow.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound
from ojs_cluster.core.workflow import (
    CANCELLED,
    ENDED,
    ENDED_STATUSES,
    FAILED,
    RUNNING,
    STATUS_ENQUEUED,
    STATUS_UNKNOWN,
    Plan,
    evaluate,
)
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.workflows.enqueue_steps import (
    NOTHING_KNOWN,
    KnownInputs,
    enqueue_steps,
)
from ojs_cluster.store.features.workflows.record_outcomes import record_job_outcome
from ojs_cluster.store.features.workflows.validate_workflow import check_statuses
from ojs_cluster.store.features.workflows.workflow_progress import (
    ImmutablePart,
    WorkflowProgress,
    malformed,
    read_immutable_part,
    read_progress,
    record_enqueued,
)
from ojs_cluster.store.features.workflows.workflows import end
from ojs_cluster.store.ground.fanout import run_concurrently

_CANCELLED = Cause("system", why="its workflow was cancelled")
_CHUNK = 100
"""Maximum number of jobs that are enqueued before the state of the workflow is read again."""


async def on_job_ended(store: Store, shard: Shard, payload: bytes) -> None:
    """Handle the effect of a job's end: record its outcome and advance the workflow.

    Args:
        store: the store.
        shard: the shard of the job.
        payload: workflow id, number of the job, job id and state, separated by blanks.
    """
    workflow_id, number, job_id, state = payload.decode().split(" ")
    job = await read_jobs.read(store, shard, job_id)
    recorded = await record_job_outcome(store, workflow_id, int(number), state, job)
    if recorded is None:
        return  # the workflow's own retention is over
    progress = recorded.progress
    if progress.state == CANCELLED and not recorded.newly:
        await _cancel_enqueued(store, progress)
    await _continue_after(store, progress, [int(number)], KnownInputs(job, recorded.definitions))


async def on_created(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the effect of a workflow's creation: start it. The payload is its id."""
    progress = await read_progress(store, payload.decode())
    if progress is None:
        return
    if progress.state == CANCELLED:
        await _cancel_enqueued(store, progress)
    await advance(store, progress)


async def on_cancelled(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the effect of a cancellation: cancel the jobs. The payload is the workflow's id."""
    progress = await read_progress(store, payload.decode())
    if progress is not None:
        await _cancel_enqueued(store, progress)


async def advance(store: Store, progress: WorkflowProgress) -> None:
    """Enqueue all jobs that may start, or end the workflow.

    Args:
        store: the store.
        progress: the workflow's progress, as just read.
    """
    immutable = await _running_part(store, progress)
    if immutable is None:
        return
    check_statuses(progress.workflow_id, immutable.plan, progress.node_statuses)
    evaluation = evaluate(immutable.plan, progress.node_statuses)
    if evaluation.state in ENDED:
        await _end(store, progress, immutable, evaluation.state)
        return
    after, ended = await _start(store, progress, immutable.plan, evaluation.ready)
    await _continue_after(store, after, ended)


async def _continue_after(
    store: Store,
    progress: WorkflowProgress,
    ended: Sequence[int],
    known: KnownInputs = NOTHING_KNOWN,
) -> None:
    """Enqueue the jobs that the ends of jobs allow to start, or end the workflow.

    Args:
        store: the store.
        progress: the workflow's progress, as just read.
        ended: numbers of the jobs, whose ends are recorded.
        known: what is known of the first of these jobs.
    """
    while ended:
        immutable = await _running_part(store, progress)
        if immutable is None:
            return
        try:
            following = immutable.successors.after(progress.node_statuses, ended)
        except KeyError as error:
            raise malformed(progress.workflow_id) from error
        if following.state in ENDED:
            await _end(store, progress, immutable, following.state)
            return
        plan, ready = immutable.plan, following.ready
        progress, ended = await _start(store, progress, plan, ready, known)
        known = NOTHING_KNOWN


async def _running_part(store: Store, progress: WorkflowProgress) -> ImmutablePart | None:
    """Return the immutable part of a workflow that runs, None for another one.

    Raises:
        MalformedRecord: the plan is malformed, or has another number of jobs than the statuses.
    """
    if progress.state != RUNNING:
        return None
    immutable = await read_immutable_part(store, progress.workflow_id)
    if immutable is not None and len(immutable.plan.jobs) != len(progress.node_statuses):
        raise malformed(progress.workflow_id)
    return immutable


async def _start(
    store: Store,
    progress: WorkflowProgress,
    plan: Plan,
    ready: Sequence[int],
    known: KnownInputs = NOTHING_KNOWN,
) -> tuple[WorkflowProgress, Sequence[int]]:
    """Enqueue jobs, up to ``_CHUNK`` at a time, unless another process does.

    Args:
        store: the store.
        progress: the workflow's progress, as just read.
        plan: its plan.
        ready: numbers of the jobs.
        known: what is known of their inputs.

    Returns:
        The progress afterwards, and the numbers of the jobs that have ended, such as those that
        were refused. A process that has refused one may have died before it went on.
    """
    ended: list[int] = []
    for start in range(0, len(ready), _CHUNK):
        statuses = progress.node_statuses
        part = ready[start : start + _CHUNK]
        ended += [n for n in part if statuses[n] in ENDED_STATUSES]
        chunk = [n for n in part if statuses[n] == STATUS_UNKNOWN]
        if not chunk:
            continue
        ended += await enqueue_steps(store, progress, plan, chunk, known)
        after = await record_enqueued(store, progress.workflow_id, chunk)
        if after is None:
            return progress, ()
        if after.state == CANCELLED:
            await _cancel_jobs(store, after, chunk)
        if after.state != RUNNING:
            return after, ()
        progress = after
    return progress, ended


async def _cancel_enqueued(store: Store, progress: WorkflowProgress) -> None:
    """Cancel the jobs that were enqueued before the workflow was cancelled.

    A process that has not yet read the cancellation may have enqueued further jobs, and may have
    recorded them or not. So the jobs that may start are cancelled, too.
    """
    immutable = await read_immutable_part(store, progress.workflow_id)
    if immutable is not None:
        statuses = progress.node_statuses
        check_statuses(progress.workflow_id, immutable.plan, statuses)
        enqueued = [n for n, status in enumerate(statuses) if status == STATUS_ENQUEUED]
        await _cancel_jobs(store, progress, enqueued)
        await _cancel_jobs(store, progress, evaluate(immutable.plan, statuses).ready)


async def _cancel_jobs(store: Store, progress: WorkflowProgress, numbers: Iterable[int]) -> None:
    immutable = await read_immutable_part(store, progress.workflow_id)
    if immutable is None:
        return
    plan = immutable.plan

    async def cancel_job(number: int) -> None:
        try:
            await cancel(store, plan.jobs[number].job_id, only="inactive", cause=_CANCELLED)
        except (NotFound, Conflict, MalformedJob):
            return  # never enqueued, ended, running its last attempt, or quarantined

    await run_concurrently(numbers, cancel_job)


async def _end(
    store: Store, progress: WorkflowProgress, immutable: ImmutablePart, state: str
) -> None:
    data = immutable.event_data
    if state == FAILED:
        owner = store.keys.shard_of_id(progress.workflow_id)
        statuses = progress.node_statuses
        number = next((n for n, status in enumerate(statuses) if status in "dx"), 0)
        node = immutable.plan.jobs[number]
        error: Any = await store.redis.call(
            owner.slot, "HGET", owner.workflow(progress.workflow_id), f"e{number}", idempotent=True
        )
        if error and raw_json.stored_members(error) is None:
            raise malformed(progress.workflow_id)
        data += b',"failed_step_id":%b,"failed_step_type":%b,"error":%b' % (
            orjson.dumps(node.label or f"step-{number}"),
            orjson.dumps(node.type),
            error or b'{"code":"cancelled","message":"the step was cancelled or expired"}',
        )
    await end(store, progress.workflow_id, state, data)
