"""The history of a job on its page: what happened, by whom, and its attempts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from ojs_cluster.ui.drawings.attempts_chart import Attempt, AttemptsChart, attempts_chart
from ojs_cluster.ui.formats import duration, epoch_s
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE
from ojs_cluster.ui.visit import Visit

_PAGE: Final = 200
"""Maximum number of events that the page shows: the last ones."""
TypedEvents = tuple[str, Sequence[Mapping[str, Any]]]
"""The type of a job, and the events of its history."""
_ERRORS: Final = ("error", "last_error", "reason")
"""Members of events with texts of clients."""
_MAX_ERROR: Final = 200  # characters
_OUTCOMES: Final = {
    "job.attempt_completed": "completed",
    "job.attempt_failed": "failed",
    "job.cancelled": "cancelled",
}


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """A point of the timeline."""

    at: str
    what: str
    kind: str
    more: str = ""


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What the page shows of a job's history.

    Attributes:
        timeline: what happened, oldest first.
        attempts: the attempts, oldest first.
        chart: the drawing of the attempts; None if there is nothing to draw.
        omitted: number of older events that the page does not show.
        complete: whether the job keeps all its events.
    """

    timeline: Sequence[TimelineEntry]
    attempts: Sequence[Attempt]
    chart: AttemptsChart | None
    omitted: int
    complete: bool


async def read_history(visit: Visit, job_id: str, job_type: str) -> JobHistory:
    """Return the history of a job.

    Raises:
        ApiError: the API refused the request.
    """
    found = orjson.loads(await visit.get("jobs", job_id, "history", limit=_PAGE))
    omitted = max(0, int(found["total"]) - _PAGE)
    if omitted:
        page = await visit.get("jobs", job_id, "history", limit=_PAGE, offset=omitted)
        found = orjson.loads(page)
    events: list[dict[str, Any]] = found["events"]
    await hide_errors(visit, [(job_type, events)])
    attempts = list(attempts_of(events))
    chart = attempts_chart(attempts, visit.clock.now_s())
    return JobHistory(entries_of(events), attempts, chart, omitted, bool(found["complete"]))


async def hide_errors(visit: Visit, histories: Iterable[TypedEvents]) -> None:
    """Replace what the operator hides in the errors of histories.

    Args:
        visit: the request.
        histories: the type of each job with its events.
    """
    if not visit.redaction.active:
        return
    told = [
        (event["data"], name, job_type)
        for job_type, events in histories
        for event in events
        for name in _ERRORS
        if name in event["data"]
    ]
    texts = [(str(data[name]), ERROR_MESSAGE, job_type) for data, name, job_type in told]
    for (data, name, _type), text in zip(told, await visit.redaction.texts_of(texts), strict=True):
        data[name] = text


def entries_of(events: Iterable[Mapping[str, Any]]) -> list[TimelineEntry]:
    """Return the events of a history as points of a timeline."""
    return [entry for entry in map(_entry, events) if entry is not None]


def _entry(event: Mapping[str, Any]) -> TimelineEntry | None:
    """Return an event as a point of the timeline; None if another event tells the same."""
    data, at = event["data"], event["timestamp"]
    actor = event.get("actor", {})
    by = str(actor.get("id") or "")
    took = duration(data["duration_ms"]) if "duration_ms" in data else ""
    reason = str(data.get("reason", ""))
    match event["event_type"]:
        case "job.created":
            return TimelineEntry(at, _("Created"), "scheduled")
        case "job.attempt_started":
            worker = str(data.get("worker_id", ""))
            what = _("Attempt %(number)s started", number=data["attempt"])
            return TimelineEntry(at, what, "active", worker)
        case "job.attempt_failed":
            what = _failed(data["attempt"], took)
            return TimelineEntry(at, what, "failed", str(data["error"])[:_MAX_ERROR])
        case "job.attempt_completed":
            what = _("Completed after %(time)s", time=took) if took else _("Completed")
            return TimelineEntry(at, what, "completed")
        case "job.cancelled":
            what = _("Cancelled by %(actor)s", actor=by) if by else _("Cancelled")
            return TimelineEntry(at, what, "cancelled", reason)
        case "job.discarded":
            what = _("Discarded: it expired") if data["expired"] else _("Discarded")
            return TimelineEntry(at, what, "discarded")
        case "job.priority_changed":
            return TimelineEntry(at, _prioritized(data, by), "available", reason)
        case "job.moved":
            return TimelineEntry(at, _moved(data, by), "available", reason)
        case "job.edited":
            what = _("Edited by %(actor)s", actor=by) if by else _("Edited")
            return TimelineEntry(at, what, "available", reason)
        case "job.state_changed" if data["to"] == "available":
            if data.get("manual"):
                what = _("Retried by hand by %(actor)s", actor=by) if by else _("Retried by hand")
                return TimelineEntry(at, what, "available", reason)
            if reason == "requeued":
                what = _("Returned to its queue by %(actor)s", actor=by)
                return TimelineEntry(at, what if by else _("Returned to its queue"), "available")
            return TimelineEntry(at, _("Available in its queue"), "available")
    return None


def _failed(number: int, took: str) -> str:
    if not took:
        return _("Attempt %(number)s failed", number=number)
    return _("Attempt %(number)s failed after %(time)s", number=number, time=took)


def _prioritized(data: Mapping[str, Any], by: str) -> str:
    values = {"old": data["from"], "new": data["to"]}
    if not by:
        return _("Priority changed from %(old)s to %(new)s", **values)
    return _("Priority changed from %(old)s to %(new)s by %(actor)s", **values, actor=by)


def _moved(data: Mapping[str, Any], by: str) -> str:
    values = {"old": data["from"], "new": data["to"]}
    if not by:
        return _("Moved from queue %(old)s to %(new)s", **values)
    return _("Moved from queue %(old)s to %(new)s by %(actor)s", **values, actor=by)


def attempts_of(events: Iterable[Mapping[str, Any]]) -> Iterator[Attempt]:
    """Yield the attempts that a history tells of, oldest first."""
    started: Mapping[str, Any] | None = None
    for event in events:
        data, kind = event["data"], event["event_type"]
        if kind == "job.attempt_started":
            started = event
            continue
        outcome = _OUTCOMES.get(kind)
        if kind == "job.state_changed" and data.get("reason") == "requeued":
            outcome = "returned"
        if outcome is None or (started is None and outcome != "failed"):
            continue
        yield _attempt(started, event, outcome)
        started = None
    if started is not None:
        yield _attempt(started, None, "running")


def _attempt(
    started: Mapping[str, Any] | None, ended: Mapping[str, Any] | None, outcome: str
) -> Attempt:
    known = started or ended or {}
    data = {} if started is None else started["data"]
    end = {} if ended is None else ended["data"]
    return Attempt(
        str(data.get("attempt") or end.get("attempt") or ""),
        str(data.get("worker_id") or end.get("worker_id") or ""),
        str(known["timestamp"]),
        None if started is None else epoch_s(started["timestamp"]),
        None if ended is None else epoch_s(ended["timestamp"]),
        outcome,
        str(end.get("error", ""))[:_MAX_ERROR],
    )
