"""Advance workflows: handlers of the effects of a job's end, of creation and of cancellation.

Each handler may run any number of times, in any process, concurrently with others:

* One script records the outcome of a job, once, and returns the statuses of all jobs.
* A pure function decides which jobs may start. The ids of all jobs are fixed when the workflow is
  created, and a job is enqueued only if there is no job under its id. So a second process changes
  nothing.
* A stalled process must not enqueue a job again that has ended and was removed. Redis refuses an
  enqueue that was decided more than ``_STORE_WITHIN_MS`` ago, and keeps the ended jobs of workflows
  for longer than that.
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

from collections.abc import Iterable
from functools import partial
from typing import Any

import orjson

from ojs_cluster.core import raw_json
from ojs_cluster.core.errors import Conflict, MalformedJob, MalformedRecord, NotFound, OJSError
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.workflow import (
    CANCELLED,
    ENDED,
    FAILED,
    RUNNING,
    STATUS_ENQUEUED,
    Plan,
    evaluate,
    inputs,
    leaves,
    render,
)
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_with_id
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.workflows.read_workflows import read_inputs
from ojs_cluster.store.features.workflows.record_outcomes import (
    record_job_outcome,
    record_refused_step,
)
from ojs_cluster.store.features.workflows.unique_steps import enqueue_step
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
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop

_STORE_WITHIN_MS = 20_000
"""Maximum time in ms from the decision to enqueue a job until the job is stored; a later attempt is
refused. The time is a sixth of the shortest retention of a workflow's job
(``store/include/jobs/finish_job.lua``)."""
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
    progress, newly_recorded = recorded
    if progress.state == CANCELLED and not newly_recorded:
        await _cancel_enqueued(store, progress)
    await advance(store, progress)


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
    """Enqueue the jobs that may start, up to ``_CHUNK`` at a time, or end the workflow.

    Args:
        store: the store.
        progress: the workflow's progress, as just read.
    """
    while progress.state == RUNNING:
        immutable = await read_immutable_part(store, progress.workflow_id)
        if immutable is None:
            return
        check_statuses(progress.workflow_id, immutable.plan, progress.node_statuses)
        evaluation = evaluate(immutable.plan, progress.node_statuses)
        if evaluation.state in ENDED:
            await _end(store, progress, immutable, evaluation.state)
            return
        chunk = evaluation.ready[:_CHUNK]
        if not chunk:
            return
        await _enqueue(store, progress, immutable.plan, chunk)
        after = await record_enqueued(store, progress.workflow_id, chunk)
        if after is None:
            return
        if after.state == CANCELLED:
            await _cancel_jobs(store, after, chunk)
        progress = after


async def _enqueue(
    store: Store, progress: WorkflowProgress, plan: Plan, chunk: Iterable[int]
) -> None:
    store_before_ms = progress.now_ms + _STORE_WITHIN_MS
    by_shard: dict[Shard, list[int]] = {}
    for number in chunk:
        shard = store.keys.shard_of_id(plan.jobs[number].job_id)
        by_shard.setdefault(shard, []).append(number)

    async def enqueue_job(number: int) -> None:
        trees, names = inputs(plan, number)
        # The results that the job gets are limited to the maximum size of one result. If not all
        # results fit, those of the nearest steps are preferred.
        wanted = list(dict.fromkeys(reversed(list(leaves(trees)))))
        max_bytes = store.settings.result_max_bytes
        definition, results = await read_inputs(
            store, progress.workflow_id, number, wanted, max_bytes=max_bytes
        )
        fields = [f.WORKFLOW, progress.workflow_id.encode(), f.STEP, b"%d" % number]
        if trees:
            fields += (f.PARENTS, render(list(trees), results))
        if any(names):
            fields += (f.PARENT_NAMES, orjson.dumps(names))
        parse = partial(parse_job, definition, limits=STORED_LIMITS)
        try:
            job = await off_loop(parse, len(definition))
        except OJSError as error:
            fault = f"definition {number} is no job"
            raise MalformedRecord("workflow", progress.workflow_id, fault) from error
        job_id = plan.jobs[number].job_id
        if job.unique is None:
            await enqueue_with_id(store, job_id, job, fields, store_before_ms=store_before_ms)
            return
        refused = await enqueue_step(store, job_id, job, fields, store_before_ms=store_before_ms)
        if refused is not None:
            await record_refused_step(store, progress.workflow_id, number, refused)

    async def enqueue_in_order(numbers: list[int]) -> None:
        for number in numbers:  # jobs of one queue keep the order of the request
            await enqueue_job(number)

    await run_concurrently(by_shard.values(), enqueue_in_order)


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
