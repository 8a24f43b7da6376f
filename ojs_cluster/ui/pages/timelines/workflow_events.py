"""What happened to the steps of a workflow: one drawing for all, and the events as a table."""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import msgspec

from ojs_cluster.core.errors import MalformedJob, NotFound, OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.core.workflow import ENDED
from ojs_cluster.http.handlers.history.timeline import History, history_of
from ojs_cluster.store.engine.jobs.read_jobs import get_history
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.features.workflows.read_workflows import JobOutcome, WorkflowRecord
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.ui.drawings.attempts_chart import Attempt, spans_of
from ojs_cluster.ui.drawings.dag import Box, Drawing, Step
from ojs_cluster.ui.drawings.time_axis import Span
from ojs_cluster.ui.drawings.workflow_chart import Lane, WorkflowChart, workflow_chart
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.pages.timelines.job_history import (
    TimelineEntry,
    attempts_of,
    entries_of,
    hide_errors,
)
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.visit import Visit

PER_PAGE: Final = 50
"""Number of steps whose events a page lists."""
MAX_EVENTS: Final = 300
"""Maximum number of events that a page lists: the last ones. As many take 10 ms."""
_OUTCOMES: Final = {"completed": "completed", "failed": "failed", "active": "running"}
_ENDS: Final = {
    "completed": later("Completed"),
    "failed": later("Failed"),
    "cancelled": later("Cancelled"),
}
"""How a step has ended, by its state."""
_KEPT_S: Final = 5.0
"""Maximum age of the events in seconds. Those of 50 steps with a hundred failures each take a
second of a thread."""
_LARGE_HISTORY: Final = 1024
"""Size in bytes of the recorded history of a job above which a thread reads it, as 10 entries take
a millisecond."""
_LARGE: Final = 500
"""Number of events and edges above which a thread puts them together."""


@dataclass(frozen=True, slots=True)
class StepHistory:
    """What is known of one step.

    Attributes:
        entries: the last of what happened, up to ``MAX_EVENTS``, oldest first.
        count: the number of entries without this limit.
        attempts: its attempts, oldest first.
        since_s: when its job was created, in Unix seconds; None if it is not known.
        complete: whether no event is missing.
        unreachable: whether Redis did not answer, so that there may be more.
    """

    entries: Sequence[TimelineEntry]
    count: int
    attempts: Sequence[Attempt]
    since_s: float | None
    complete: bool
    unreachable: bool = False


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One event in the table.

    Attributes:
        label: the name of the step.
        job_id: its job; empty if there is none to link to.
        entry: what happened.
        after_ms: how long after the creation of the workflow, in milliseconds.
    """

    label: str
    job_id: str
    entry: TimelineEntry
    after_ms: float


@dataclass(frozen=True, slots=True)
class WorkflowEvents:
    """What the page shows of the events of a workflow.

    Attributes:
        chart: the drawing; None if nothing has happened.
        events: the events of the steps of this page, oldest first.
        page: the number of this page.
        first: the number of its first step, from 1.
        last: the number of its last step.
        has_more: whether there are further steps.
        omitted: number of older events of these steps that are not listed.
        unknown: number of these steps of which only the last attempt is known, or not all events.
        unreachable: number of these steps of which Redis did not return the events.
    """

    chart: WorkflowChart | None
    events: Sequence[StepEvent]
    page: int
    first: int
    last: int
    has_more: bool
    omitted: int
    unknown: int
    unreachable: int


_decode: Final = msgspec.json.Decoder(WorkflowEvents).decode
Draw = Callable[[WorkflowRecord], Awaitable[tuple[Sequence[Step], Drawing]]]


async def read_events(visit: Visit, workflow_id: str, draw: Draw, page: int) -> WorkflowEvents:
    """Return the drawing of all steps, and the events of one page of them.

    The histories of at most 110 jobs are read, 20 KiB of each at most: of the steps of the page,
    and of those that have a row of their own in the drawing. Viewers share what is read. So the
    user must be allowed to see the workflow.

    Args:
        visit: the request.
        workflow_id: the workflow.
        draw: draws a workflow as a graph, the same function in every call. Steps that share a box
            there share a row.
        page: the number of the page of events, from 1.

    Raises:
        NotFound: there is no such workflow.
        BackendUnavailable: Redis did not return the workflow in time.
    """
    if visit.follows_change:
        return _decode(await _read(visit, workflow_id, draw, page))
    neutral = visit.as_any_viewer()
    name = f"workflow-events {workflow_id} {page} {visit.language.code}"
    return _decode(
        await visit.snapshots.get(name, lambda: _read(neutral, workflow_id, draw, page), _KEPT_S)
    )


async def _read(visit: Visit, workflow_id: str, draw: Draw, page: int) -> bytes:
    """Return the events as JSON."""
    found = await read_workflows.get(visit.app.store, workflow_id)
    if not found.jobs:
        raise NotFound("workflow", workflow_id)
    steps, drawing = await draw(found)
    start = min((page - 1) * PER_PAGE, max(0, (len(steps) - 1) // PER_PAGE * PER_PAGE))
    listed = range(start, min(len(steps), start + PER_PAGE))
    alone = [box.steps[0] for box in drawing.boxes if len(box.steps) == 1]
    known = {
        number: _of_record(found.jobs[number], unreachable=bool(steps[number].job_id))
        for number in sorted({*listed, *alone})
    }

    jobs: dict[int, tuple[JobRecord, History]] = {}

    async def read(number: int) -> None:
        try:
            with suppress(NotFound, MalformedJob, LookupError, ValueError):
                job = await get_history(visit.app.store, steps[number].job_id)
                read_it = partial(history_of, job)
                jobs[number] = job, await off_loop(read_it, _size(job), large=_LARGE_HISTORY)
        except OJSError:  # unreachable
            return
        known[number] = _of_record(found.jobs[number])

    enqueued = [number for number in known if steps[number].job_id]
    await await_while_healthy(visit.app, lambda: run_concurrently(enqueued, read))
    await hide_errors(visit, [(job.type, history.events) for job, history in jobs.values()])
    for number, (job, history) in jobs.items():
        with suppress(LookupError, ValueError):  # malformed
            tell = partial(_told, job, history)
            known[number] = await off_loop(tell, _size(job), large=_LARGE_HISTORY)
    size = sum(each.count for each in known.values()) + sum(len(step.deps) for step in steps)
    put_together = partial(
        _put_together,
        found,
        steps,
        drawing.boxes,
        listed,
        known,
        visit.clock.now_s(),
    )
    return await off_loop(put_together, size, large=_LARGE)


def _put_together(
    found: WorkflowRecord,
    steps: Sequence[Step],
    boxes: Sequence[Box],
    listed: range,
    known: Mapping[int, StepHistory],
    now_s: float,
) -> bytes:
    """Return what the page shows, as JSON."""
    entries = {
        (entry.at, number, place): entry
        for number in listed
        for place, entry in enumerate(known[number].entries)
    }
    events = [
        StepEvent(
            steps[number].label,
            steps[number].job_id,
            entries[at, number, place],
            _after_ms(at, found.created_ms),
        )
        for at, number, place in reversed(heapq.nlargest(MAX_EVENTS, entries))
    ]
    lanes = [_lane(box, found, steps, known, now_s) for box in boxes]
    last_s = found.finished_ms / 1000 if found.finished_ms else now_s
    chart = workflow_chart(lanes, found.created_ms / 1000, last_s)
    if chart is not None:  # the spans are drawn as bars
        rows = [replace(row, lane=replace(row.lane, spans=())) for row in chart.rows]
        chart = replace(chart, rows=tuple(rows))
    unreachable = sum(known[number].unreachable for number in listed)
    told = WorkflowEvents(
        chart,
        events,
        listed.start // PER_PAGE + 1,
        listed.start + 1,
        listed.stop,
        listed.stop < len(steps),
        sum(known[number].count for number in listed) - len(events),
        sum(not known[number].complete for number in listed) - unreachable,
        unreachable,
    )
    return msgspec.json.encode(told)


def _size(job: JobRecord) -> int:
    return len(job.fields.get(f.HISTORY, b""))


def _told(job: JobRecord, history: History) -> StepHistory:
    entries = entries_of(history.events)
    attempts = list(attempts_of(history.events))
    since_s = job.created_ms / 1000
    kept = entries[-MAX_EVENTS:]
    return StepHistory(kept, len(entries), attempts, since_s, history.complete)


def _of_record(outcome: JobOutcome, *, unreachable: bool = False) -> StepHistory:
    """Return what the workflow itself has recorded of a step: its last attempt."""
    kind = _OUTCOMES.get(outcome.state, "cancelled")
    started, ended = outcome.started_ms, outcome.finished_ms
    entries = []
    if started:
        what = _("Attempt %(number)s started", number=outcome.attempt)
        entries.append(TimelineEntry(_time(started), what, "active"))
    if ended:
        entries.append(
            TimelineEntry(
                _time(ended), _(_ENDS.get(outcome.state, outcome.state.capitalize())), kind
            )
        )
    attempts = []
    if started:
        ended_s = ended / 1000 if ended else None
        number = str(outcome.attempt)
        attempts = [Attempt(number, "", _time(started), started / 1000, ended_s, kind)]
    complete = not (started or ended or unreachable)
    return StepHistory(entries, len(entries), attempts, None, complete, unreachable)


def _lane(
    box: Box,
    found: WorkflowRecord,
    steps: Sequence[Step],
    known: Mapping[int, StepHistory],
    now_s: float,
) -> Lane:
    """Return the row of a box: the attempts of one step, or one span for several steps."""
    if len(box.steps) == 1:
        step, history = steps[box.steps[0]], known[box.steps[0]]
        spans: Sequence[Span] = spans_of(history.attempts, now_s)
        is_ended = step.state in ENDED
        return Lane(step.label, step.state, step.job_id, history.since_s, spans, is_ended)
    span = _together(box, (found.jobs[number] for number in box.steps), now_s)
    spans = () if span is None else (span,)
    since_s = _since(box, found, steps)
    return Lane(box.label, box.state, "", since_s, spans, ended=box.state in ENDED)


def _since(box: Box, found: WorkflowRecord, steps: Sequence[Step]) -> float | None:
    """Return when the first job of a box was enqueued, in Unix seconds; None if none was.

    A job is enqueued when those that it waits for have ended.
    """
    enqueued = [steps[number] for number in box.steps if steps[number].job_id]
    ends = [
        max((found.jobs[dep].finished_ms or 0 for dep in step.deps), default=0) for step in enqueued
    ]
    return min((max(end, found.created_ms) / 1000 for end in ends), default=None)


def _together(box: Box, outcomes: Iterable[JobOutcome], now_s: float) -> Span | None:
    """Return the time from the first start of steps to their last end; None if none started."""
    begun = [each for each in outcomes if each.started_ms]
    if not begun:
        return None
    first_s = min(each.started_ms or 0 for each in begun) / 1000
    last_s = max(each.finished_ms / 1000 if each.finished_ms else now_s for each in begun)
    counts = ", ".join(f"{count} {name}" for name, count in box.counts.items())
    return Span(first_s, last_s, _OUTCOMES.get(box.state, "running"), f"{box.label}: {counts}")


def _after_ms(at: str, created_ms: int) -> float:
    return max(0.0, (epoch_s(at) or 0) * 1000 - created_ms)


def _time(ms: int) -> str:
    return format_ms(ms).decode()
