"""A workflow goes on: effects of its jobs' ends, of its creation and of its cancellation.

Each handler may run any number of times, in any process, at the same time as others:

* How a job ended is recorded once, by a script that returns all that is known.
* What may start follows from that by a pure function, and is enqueued by ids that were fixed at
  creation, create if absent: whoever comes second changes nothing. An enqueue that was decided
  long ago is refused (``_STORE_WITHIN_MS``), while the jobs themselves are kept for longer.
* A unique step whose policy refuses it is recorded as ended without a job (``unique_steps``):
  ``reject`` is a failure, ``ignore`` a success without a result.
* The end is one script's compare and set.

Cancellation is that compare and set, too. Who enqueued looks at the state afterwards, and takes
back what it enqueued when the workflow was cancelled meanwhile; should it die in between, its
effect is still owed, and whoever repeats an effect of a cancelled workflow takes back all that it
could have enqueued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.limits import STORED_LIMITS
from ojs_cluster.core.workflow import (
    CANCELLED,
    ENDED,
    FAILED,
    MARK_OF_STATE,
    QUEUED_MARK,
    RUNNING,
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
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.cancel import cancel
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.off_loop import off_loop
from ojs_cluster.store.unique.unique_steps import StepRefused, enqueue_step
from ojs_cluster.store.workflows.workflows import end, event_data, inputs_of

_STORE_WITHIN_MS = 20_000
"""An enqueue decided longer ago than this is not carried out any more. A sixth of the time that a
workflow's job is kept at least (``store/include/jobs/finish_job.lua``), so that it cannot happen
twice."""
_CHUNK = 100
_PLANS = 256
_ERROR_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Progress:
    """A workflow's state and marks, and the ms of its shard's clock at which they were read."""

    workflow_id: str
    state: str
    marks: str
    now_ms: int


async def job_ended(store: Store, shard: Shard, payload: bytes) -> None:
    """Effect 'workflow': a workflow's job has ended. Payload: workflow, number, job, state."""
    workflow_id, number, job_id, state = payload.decode().split(" ")
    job = await read_jobs.read(store, shard, job_id)
    recorded = await record_end(store, workflow_id, int(number), state, job)
    if recorded is None:
        return  # the workflow's own retention is over
    progress, first = recorded
    if progress.state == CANCELLED and not first:
        await _take_back(store, progress)
    await advance(store, progress)


async def started(store: Store, _shard: Shard, payload: bytes) -> None:
    """Effect 'workflow_start': a workflow was created. Payload: its id."""
    progress = await look(store, payload.decode())
    if progress is None:
        return
    if progress.state == CANCELLED:
        await _take_back(store, progress)
    await advance(store, progress)


async def cancelled(store: Store, _shard: Shard, payload: bytes) -> None:
    """Effect 'workflow_cancel': a workflow was cancelled. Payload: its id."""
    progress = await look(store, payload.decode())
    if progress is not None:
        await _take_back(store, progress)


async def advance(store: Store, progress: Progress) -> None:
    """Enqueue what may start, a bounded number at a time, or end the workflow."""
    while progress.state == RUNNING:
        fixed = await fixed_part(store, progress.workflow_id)
        if fixed is None:
            return
        verdict = evaluate(fixed.plan, progress.marks)
        if verdict.state in ENDED:
            await _end(store, progress, fixed, verdict.state)
            return
        chunk = verdict.ready[:_CHUNK]
        if not chunk:
            return
        await _enqueue(store, progress, fixed.plan, chunk)
        after = await look(store, progress.workflow_id, chunk)
        if after is None:
            return
        if after.state == CANCELLED:
            await _cancel_jobs(store, after, chunk)
        progress = after


async def _enqueue(store: Store, progress: Progress, plan: Plan, chunk: Iterable[int]) -> None:
    store_before_ms = progress.now_ms + _STORE_WITHIN_MS
    by_shard: dict[Shard, list[int]] = {}
    for number in chunk:
        shard = store.keys.shard_of_id(plan.jobs[number].job_id)
        by_shard.setdefault(shard, []).append(number)

    async def one(number: int) -> None:
        trees, names = inputs(plan, number)
        # The nearest steps' results count most when not all fit. Scripts move a job as a whole, so
        # a job is given no more than one result may have.
        wanted = list(dict.fromkeys(reversed(list(leaves(trees)))))
        most = store.settings.result_max_bytes
        definition, results = await inputs_of(
            store, progress.workflow_id, number, wanted, most_bytes=most
        )
        more = [f.WORKFLOW, progress.workflow_id.encode(), f.STEP, b"%d" % number]
        if trees:
            more += (f.PARENTS, render(list(trees), results))
        if any(names):
            more += (f.PARENT_NAMES, orjson.dumps(names))
        read = partial(parse_job, definition, limits=STORED_LIMITS)
        job = await off_loop(read, len(definition))
        job_id = plan.jobs[number].job_id
        if job.unique is None:
            await enqueue_with_id(store, job_id, job, more, store_before_ms=store_before_ms)
            return
        refused = await enqueue_step(store, job_id, job, more, store_before_ms=store_before_ms)
        if refused is not None:
            await _record_refusal(store, progress.workflow_id, number, refused)

    async def in_order(numbers: list[int]) -> None:
        for number in numbers:  # jobs of one queue get their places in the order of the request
            await one(number)

    await over_shards(by_shard.values(), in_order)


async def _take_back(store: Store, progress: Progress) -> None:
    """Cancel the jobs that were enqueued before the workflow was cancelled.

    A process that has not yet seen the cancellation may have enqueued more, and marked them or not.
    """
    fixed = await fixed_part(store, progress.workflow_id)
    if fixed is not None:
        queued = [n for n, mark in enumerate(progress.marks) if mark == QUEUED_MARK]
        await _cancel_jobs(store, progress, queued)
        await _cancel_jobs(store, progress, evaluate(fixed.plan, progress.marks).ready)


async def _cancel_jobs(store: Store, progress: Progress, numbers: Iterable[int]) -> None:
    fixed = await fixed_part(store, progress.workflow_id)
    if fixed is None:
        return
    plan = fixed.plan

    async def one(number: int) -> None:
        try:
            await cancel(store, plan.jobs[number].job_id, only="inactive")
        except (NotFound, Conflict):
            return  # never enqueued, ended, or running its last attempt

    await over_shards(numbers, one)


async def record_end(
    store: Store, workflow_id: str, number: int, state: str, job: JobRecord | None
) -> tuple[Progress, bool] | None:
    """Record how a job ended; returns what is known then, and whether this was the first time."""
    done = state == "completed"
    result = error = b""
    began = finished = attempt = 0
    if job is not None:  # else somebody removed it before its effect was carried out
        began, finished, attempt = job.started_ms or 0, job.finished_ms or 0, job.attempt
        result = (job.result or b"") if done else b""
        errors = job.errors()
        error = b"" if done or not errors else _brief(errors[-1])
    ran_ms = max(0, finished - began) if began else 0
    outcome = (MARK_OF_STATE[state], f"{began} {finished} {attempt}", result, error, ran_ms)
    return await write_outcome(store, workflow_id, number, outcome)


async def _record_refusal(
    store: Store, workflow_id: str, number: int, refused: StepRefused
) -> None:
    """Record that a unique step has ended without a job."""
    state, error = "completed", b""
    if not refused.ignored:
        there = f": '{refused.existing}'" if refused.existing else ""
        state = "discarded"
        error = orjson.dumps(
            {
                "code": "duplicate",
                "type": "duplicate",
                "message": f"a job of the same uniqueness was in the step's way{there}",
                "details": {"existing_job_id": refused.existing or None},
            }
        )
    await write_outcome(store, workflow_id, number, (MARK_OF_STATE[state], "0 0 0", b"", error, 0))


async def write_outcome(
    store: Store, workflow_id: str, number: int, outcome: tuple[str, str, bytes, bytes, int]
) -> tuple[Progress, bool] | None:
    """Run ``workflow_record.lua``.

    Args:
        outcome: mark, 'started finished attempt', result, error, ms the job ran.
    """
    fixed = await fixed_part(store, workflow_id)
    if fixed is None:
        return None
    home = store.keys.shard_of_id(workflow_id)
    node = fixed.plan.jobs[number]
    data = b'%b,"step_id":%b,"step_type":%b' % (
        fixed.event_data,
        orjson.dumps(node.label or f"step-{number}"),
        orjson.dumps(node.type),
    )
    reply = await store.run(
        home,
        "workflow_record",
        [
            home.workflow(workflow_id),
            home.workflow_results(workflow_id),
            home.events,
            home.running_workflows,
        ],
        [
            *(store.settings.events_per_shard, workflow_id, number),
            *(*outcome[:4], data, outcome[4]),
        ],
        idempotent=True,
    )
    progress = _progress(workflow_id, reply)
    return None if progress is None else (progress, bool(reply[4]))


async def _end(store: Store, progress: Progress, fixed: Fixed, state: str) -> None:
    data = fixed.event_data
    if state == FAILED:
        home = store.keys.shard_of_id(progress.workflow_id)
        number = next((n for n, mark in enumerate(progress.marks) if mark in "dx"), 0)
        node = fixed.plan.jobs[number]
        error: Any = await store.redis.call(
            home.slot, "HGET", home.workflow(progress.workflow_id), f"e{number}", idempotent=True
        )
        data += b',"failed_step_id":%b,"failed_step_type":%b,"error":%b' % (
            orjson.dumps(node.label or f"step-{number}"),
            orjson.dumps(node.type),
            error or b'{"code":"cancelled","message":"the step was cancelled or expired"}',
        )
    await end(store, progress.workflow_id, state, data)


async def look(store: Store, workflow_id: str, enqueued: Iterable[int] = ()) -> Progress | None:
    home = store.keys.shard_of_id(workflow_id)
    reply = await store.run(
        home, "workflow_enqueued", [home.workflow(workflow_id)], list(enqueued), idempotent=True
    )
    return _progress(workflow_id, reply)


def _progress(workflow_id: str, reply: list[Any]) -> Progress | None:
    if reply[0] != b"ok":
        return None
    return Progress(workflow_id, reply[1].decode(), reply[2].decode(), int(reply[3]))


@dataclass(frozen=True, slots=True)
class Fixed:
    """What never changes of a workflow, and so may be remembered."""

    plan: Plan
    event_data: bytes


_remembered: dict[str, Fixed] = {}


async def fixed_part(store: Store, workflow_id: str) -> Fixed | None:
    """The workflow's fixed part, None when there is no such workflow (any more)."""
    fixed = _remembered.get(workflow_id)
    if fixed is None:
        home = store.keys.shard_of_id(workflow_id)
        reply: Any = await store.redis.call(
            home.slot, "HMGET", home.workflow(workflow_id), "plan", "name", idempotent=True
        )
        if reply[0] is None:
            return None
        plan = decode_plan(reply[0])
        fixed = Fixed(plan, event_data(workflow_id, reply[1].decode(), plan))
        if len(_remembered) >= _PLANS:
            _remembered.pop(next(iter(_remembered)))
        _remembered[workflow_id] = fixed
    return fixed


def _brief(error: bytes) -> bytes:
    """An error without what may be large in it."""
    if len(error) <= _ERROR_BYTES:
        return error
    known = orjson.loads(error)
    kept = {name: known[name] for name in ("code", "type", "attempt") if name in known}
    return orjson.dumps({**kept, "message": str(known.get("message", ""))[:512]})
