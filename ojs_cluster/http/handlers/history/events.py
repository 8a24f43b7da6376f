"""Return and delete the history of a job (spec: ojs-execution-history).

The history has what the job's own fields tell, and what the job has recorded when a transition
overwrote them. So the history of a job that completes at its first attempt costs nothing
(docs/adr/048).
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.history.timeline import history_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes import history as shapes
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.features.history import clear_history

_STATES: Final = {
    "job.attempt_started": State.ACTIVE.value,
    "job.attempt_completed": State.COMPLETED.value,
    "job.cancelled": State.CANCELLED.value,
    "job.discarded": State.DISCARDED.value,
}
"""The states that follow from events other than changes of the state."""


async def get(app: App, request: Request, job_id: str) -> Response:
    """Return the history of a job, oldest event first.

    The job records its earlier attempts, manual retries, changes of its priority and who has made
    them: the newest ``OJS_HISTORY_MAX_EVENTS_PER_JOB`` entries, and 16 KiB at most. ``complete`` is
    false if events are missing. The events are kept as long as the job.

    (spec: ojs-execution-history 7.1)
    """
    return replies.json_response(200, await _page(app, request, job_id))


async def get_states(app: App, request: Request, job_id: str) -> Response:
    """Return the history of a job as ojs-cli reads it: events have ``type`` and ``state``."""
    history = await _page(app, request, job_id)
    events: list[shapes.StateEvent] = [
        {**event, "type": event["event_type"], "state": _state_after(event)}
        for event in history["events"]
    ]
    return replies.json_response(200, shapes.StateHistory({**history, "events": events}))


def _state_after(event: shapes.HistoryEvent) -> str:
    if event["event_type"] == "job.state_changed":
        return str(event["data"]["to"])
    return _STATES.get(event["event_type"], "")


async def _page(app: App, request: Request, job_id: str) -> shapes.JobHistory:
    # The cursor contains an offset: new events come last, and an event has no key that is unique.
    page = query.page(query.parameters(request.query))
    job = await store_jobs.get(app.store, fields.job_id(job_id))
    found = history_of(job)
    shown = found.events[page.offset : page.offset + page.limit]
    pages = query.pagination(page, len(shown), len(found.events))
    history: shapes.JobHistory = {
        "job_id": job.id,
        "events": list(shown),
        "total": len(found.events),
        "complete": found.complete,
        "pagination": pages,
    }
    if "next_cursor" in pages:
        history["next_cursor"] = pages["next_cursor"]
    return history


async def delete(app: App, _request: Request, job_id: str) -> Response:
    """Delete what a job has recorded for its history.

    What the job itself still has remains in its history: its creation, its last attempt, its last
    errors and its end. Delete the job to delete these too.

    (spec: ojs-execution-history 7.3)
    """
    deleted = await clear_history.clear_history(app.store, fields.job_id(job_id))
    return replies.json_response(200, shapes.HistoryDeleted(deleted=True, events_deleted=deleted))
