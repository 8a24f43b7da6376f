"""What happened to the steps of a workflow: one drawing for all, and the events as a table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.core.workflow import ENDED
from ojs_cluster.http.handlers.history.timeline import history_of
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs.read_jobs import get_history
from ojs_cluster.store.workflows.read_workflows import JobOutcome, WorkflowRecord
from ojs_cluster.ui.drawings.attempts_chart import Attempt, spans_of
from ojs_cluster.ui.drawings.dag import Box, Step
from ojs_cluster.ui.drawings.time_axis import Span
from ojs_cluster.ui.drawings.workflow_chart import Lane, WorkflowChart, workflow_chart
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.pages.timelines.job_history import (
    TimelineEntry,
    attempts_of,
    entries_of,
    hide_errors,
)
from ojs_cluster.ui.visit import Visit

PER_PAGE: Final = 50
"""Number of steps whose events a page lists."""
MAX_EVENTS: Final = 300
"""Maximum number of events that a page lists: the last ones. As many take 10 ms."""
_OUTCOMES: Final = {"completed": "completed", "failed": "failed", "active": "running"}


@dataclass(frozen=True, slots=True)
class StepHistory:
    """What is known of one step.

    Attributes:
        entries: what happened, oldest first.
        attempts: its attempts, oldest first.
        since_s: when its job was created, in Unix seconds; None if it is not known.
        complete: whether no event is missing.
    """

    entries: Sequence[TimelineEntry]
    attempts: Sequence[Attempt]
    since_s: float | None
    complete: bool


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One event in the table.

    Attributes:
        step: the step.
        entry: what happened.
        after_ms: how long after the creation of the workflow, in milliseconds.
    """

    step: Step
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
    """

    chart: WorkflowChart | None
    events: Sequence[StepEvent]
    page: int
    first: int
    last: int
    has_more: bool
    omitted: int
    unknown: int


async def read_events(
    visit: Visit, found: WorkflowRecord, steps: Sequence[Step], boxes: Sequence[Box], page: int
) -> WorkflowEvents:
    """Return the drawing of all steps, and the events of one page of them.

    The histories of at most 110 jobs are read, 20 KiB of each at most: of the steps of the page,
    and of those that have a row of their own in the drawing.

    Args:
        visit: the request.
        found: the workflow.
        steps: its steps.
        boxes: the boxes of its drawing as a graph. Steps that share a box share a row.
        page: the number of the page of events, from 1.
    """
    start = min((page - 1) * PER_PAGE, max(0, (len(steps) - 1) // PER_PAGE * PER_PAGE))
    listed = range(start, min(len(steps), start + PER_PAGE))
    alone = [box.steps[0] for box in boxes if len(box.steps) == 1]
    known: dict[int, StepHistory] = {}

    async def read(number: int) -> None:
        outcome = found.jobs[number]
        known[number] = _of_record(outcome)
        if steps[number].job_id:
            with suppress(OJSError, LookupError, ValueError):  # removed, unreachable or malformed
                known[number] = await _of_job(visit, steps[number].job_id)

    await run_concurrently(sorted({*listed, *alone}), read)
    events = [
        StepEvent(steps[number], entry, _after_ms(entry.at, found.created_ms))
        for number in listed
        for entry in known[number].entries
    ]
    events.sort(key=lambda event: event.entry.at)
    now_s = time.time()
    lanes = [_lane(box, found, steps, known, now_s) for box in boxes]
    last_s = found.finished_ms / 1000 if found.finished_ms else now_s
    return WorkflowEvents(
        workflow_chart(lanes, found.created_ms / 1000, last_s),
        events[-MAX_EVENTS:],
        start // PER_PAGE + 1,
        listed.start + 1,
        listed.stop,
        listed.stop < len(steps),
        max(0, len(events) - MAX_EVENTS),
        sum(not known[number].complete for number in listed),
    )


async def _of_job(visit: Visit, job_id: str) -> StepHistory:
    job = await get_history(visit.app.store, job_id)
    history = history_of(job)
    await hide_errors(visit, job.type, history.events)
    return StepHistory(
        entries_of(history.events),
        list(attempts_of(history.events)),
        job.created_ms / 1000,
        history.complete,
    )


def _of_record(outcome: JobOutcome) -> StepHistory:
    """Return what the workflow itself has recorded of a step: its last attempt."""
    kind = _OUTCOMES.get(outcome.state, "cancelled")
    started, ended = outcome.started_ms, outcome.finished_ms
    entries = []
    if started:
        what = f"Attempt {outcome.attempt} started"
        entries.append(TimelineEntry(_time(started), what, "active"))
    if ended:
        entries.append(TimelineEntry(_time(ended), outcome.state.capitalize(), kind))
    attempts = []
    if started:
        ended_s = ended / 1000 if ended else None
        number = str(outcome.attempt)
        attempts = [Attempt(number, "", _time(started), started / 1000, ended_s, kind)]
    return StepHistory(entries, attempts, None, complete=not (started or ended))


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
    begun = [known[n].since_s for n in box.steps if n in known]
    since_s = min((each for each in begun if each is not None), default=None)
    return Lane(box.label, box.state, "", since_s, spans, ended=box.state in ENDED)


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
