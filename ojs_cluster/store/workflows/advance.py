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
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.payload_limits import STORED_LIMITS
from ojs_cluster.core.workflow import (
    CANCELLED,
    ENDED,
    FAILED,
    RUNNING,
    STATUS_ENQUEUED,
    STATUS_OF_JOB_STATE,
    Plan,
    decode_plan,
    evaluate,
    inputs,
    leaves,
    render,
)
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.enqueue import enqueue_with_id
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.cancel import cancel
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.off_loop import off_loop
from ojs_cluster.store.unique.unique_steps import StepRefused, enqueue_step
from ojs_cluster.store.workflows.read_workflows import read_inputs
from ojs_cluster.store.workflows.workflows import end, event_data

_STORE_WITHIN_MS = 20_000
"""Maximum time in ms from the decision to enqueue a job until the job is stored; a later attempt is
refused. The time is a sixth of the shortest retention of a workflow's job
(``store/include/jobs/finish_job.lua``)."""
_CHUNK = 100
"""Maximum number of jobs that are enqueued before the state of the workflow is read again."""
_MAX_CACHED_WORKFLOWS = 256
"""Maximum number of workflows whose immutable part a process caches."""
_MAX_ERROR_BYTES = 2048
"""Maximum size of a job's error in the record of its workflow."""


@dataclass(frozen=True, slots=True)
class WorkflowProgress:
    """A workflow's state and node statuses.

    Args:
        workflow_id: id of the workflow.
        state: state of the workflow.
        node_statuses: one character per job, in the order of the jobs' numbers (``core.workflow``).
        now_ms: Unix time in ms of the shard's clock when state and statuses were read.
    """

    workflow_id: str
    state: str
    node_statuses: str
    now_ms: int


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
        evaluation = evaluate(immutable.plan, progress.node_statuses)
        if evaluation.state in ENDED:
            await _end(store, progress, immutable, evaluation.state)
            return
        chunk = evaluation.ready[:_CHUNK]
        if not chunk:
            return
        await _enqueue(store, progress, immutable.plan, chunk)
        after = await _record_enqueued(store, progress.workflow_id, chunk)
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
        job = await off_loop(parse, len(definition))
        job_id = plan.jobs[number].job_id
        if job.unique is None:
            await enqueue_with_id(store, job_id, job, fields, store_before_ms=store_before_ms)
            return
        refused = await enqueue_step(store, job_id, job, fields, store_before_ms=store_before_ms)
        if refused is not None:
            await _record_refused_step(store, progress.workflow_id, number, refused)

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
            await cancel(store, plan.jobs[number].job_id, only="inactive")
        except (NotFound, Conflict):
            return  # never enqueued, ended, or running its last attempt

    await run_concurrently(numbers, cancel_job)


async def record_job_outcome(
    store: Store, workflow_id: str, number: int, state: str, job: JobRecord | None
) -> tuple[WorkflowProgress, bool] | None:
    """Record the outcome of a job.

    Args:
        store: the store.
        workflow_id: the workflow.
        number: the number of the job.
        state: its state.
        job: the job; None when it does not exist any more.

    Returns:
        The progress afterwards, and whether this call recorded the outcome; None when the
        workflow does not exist any more.
    """
    done = state == "completed"
    result = error = b""
    began = finished = attempt = 0
    if job is not None:  # a client may have removed it before the effect was delivered
        began, finished, attempt = job.started_ms or 0, job.finished_ms or 0, job.attempt
        result = (job.result or b"") if done else b""
        errors = job.errors()
        error = b"" if done or not errors else _brief(errors[-1])
    ran_ms = max(0, finished - began) if began else 0
    times = f"{began} {finished} {attempt}"
    outcome = JobOutcomeFields(STATUS_OF_JOB_STATE[state], times, result, error, ran_ms)
    return await write_outcome(store, workflow_id, number, outcome)


async def _record_refused_step(
    store: Store, workflow_id: str, number: int, refused: StepRefused
) -> None:
    """Record that a unique step has ended without a job."""
    state, error = "completed", b""
    if not refused.ignored:
        existing_job = f": '{refused.existing}'" if refused.existing else ""
        state = "discarded"
        error = orjson.dumps(
            {
                "code": "duplicate",
                "type": "duplicate",
                "message": f"a job of the same uniqueness exists{existing_job}",
                "details": {"existing_job_id": refused.existing or None},
            }
        )
    outcome = JobOutcomeFields(STATUS_OF_JOB_STATE[state], error=error)
    await write_outcome(store, workflow_id, number, outcome)


@dataclass(frozen=True, slots=True)
class JobOutcomeFields:
    """The outcome of a job as ``workflow_record_outcome.lua`` stores it.

    Args:
        node_status: one of ``ENDED_STATUSES``.
        times: Unix times in ms of start and end, and the attempt, separated by blanks; 0 for
            unknown.
        result: the result as JSON; empty for none.
        error: the error as JSON; empty for none.
        ran_ms: how long the job ran, in milliseconds.
    """

    node_status: str
    times: str = "0 0 0"
    result: bytes = b""
    error: bytes = b""
    ran_ms: int = 0


async def write_outcome(
    store: Store, workflow_id: str, number: int, outcome: JobOutcomeFields
) -> tuple[WorkflowProgress, bool] | None:
    """Run ``workflow_record_outcome.lua``; return the same values as ``record_job_outcome``.

    Args:
        store: the store.
        workflow_id: the workflow.
        number: the number of the job.
        outcome: the outcome.
    """
    immutable = await read_immutable_part(store, workflow_id)
    if immutable is None:
        return None
    owner = store.keys.shard_of_id(workflow_id)
    node = immutable.plan.jobs[number]
    data = b'%b,"step_id":%b,"step_type":%b' % (
        immutable.event_data,
        orjson.dumps(node.label or f"step-{number}"),
        orjson.dumps(node.type),
    )
    reply = await store.run(
        owner,
        "workflow_record_outcome",
        [
            owner.workflow(workflow_id),
            owner.workflow_results(workflow_id),
            owner.events,
            owner.running_workflows,
        ],
        [
            *(store.events_arg, workflow_id, number),
            *(outcome.node_status, outcome.times, outcome.result, outcome.error),
            *(data, outcome.ran_ms),
        ],
        idempotent=True,
    )
    progress = _progress(workflow_id, reply)
    return None if progress is None else (progress, bool(reply[4]))


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
        data += b',"failed_step_id":%b,"failed_step_type":%b,"error":%b' % (
            orjson.dumps(node.label or f"step-{number}"),
            orjson.dumps(node.type),
            error or b'{"code":"cancelled","message":"the step was cancelled or expired"}',
        )
    await end(store, progress.workflow_id, state, data)


async def read_progress(store: Store, workflow_id: str) -> WorkflowProgress | None:
    """Return the workflow's progress; None when the workflow does not exist."""
    return await _record_enqueued(store, workflow_id, ())  # without jobs the script only reads


async def _record_enqueued(
    store: Store, workflow_id: str, numbers: Iterable[int]
) -> WorkflowProgress | None:
    """Record that jobs were enqueued, and return the workflow's progress afterwards."""
    owner = store.keys.shard_of_id(workflow_id)
    reply = await store.run(
        owner,
        "workflow_record_enqueued",
        [owner.workflow(workflow_id)],
        list(numbers),
        idempotent=True,
    )
    return _progress(workflow_id, reply)


def _progress(workflow_id: str, reply: list[Any]) -> WorkflowProgress | None:
    if reply[0] != b"ok":
        return None
    return WorkflowProgress(workflow_id, reply[1].decode(), reply[2].decode(), int(reply[3]))


@dataclass(frozen=True, slots=True)
class ImmutablePart:
    """The part of a workflow that never changes, and so may be cached.

    Args:
        plan: the plan.
        event_data: JSON members that the data of all events of the workflow have.
    """

    plan: Plan
    event_data: bytes


_immutable_parts: dict[str, ImmutablePart] = {}


async def read_immutable_part(store: Store, workflow_id: str) -> ImmutablePart | None:
    """Return the workflow's immutable part; None if the workflow has been deleted."""
    immutable = _immutable_parts.get(workflow_id)
    if immutable is None:
        owner = store.keys.shard_of_id(workflow_id)
        reply: Any = await store.redis.call(
            owner.slot, "HMGET", owner.workflow(workflow_id), "plan", "name", idempotent=True
        )
        if reply[0] is None:
            return None
        plan = decode_plan(reply[0])
        immutable = ImmutablePart(plan, event_data(workflow_id, reply[1].decode(), plan))
        if len(_immutable_parts) >= _MAX_CACHED_WORKFLOWS:
            _immutable_parts.pop(next(iter(_immutable_parts)))
        _immutable_parts[workflow_id] = immutable
    return immutable


def _brief(error: bytes) -> bytes:
    """Return an error without its large members."""
    if len(error) <= _MAX_ERROR_BYTES:
        return error
    known = orjson.loads(error)
    kept = {name: known[name] for name in ("code", "type", "attempt") if name in known}
    return orjson.dumps({**kept, "message": str(known.get("message", ""))[:512]})
