"""The history and the lineage of a job in responses."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, JobId, Moment, Pagination

HistoryType = Literal[
    "job.created",
    "job.state_changed",
    "job.attempt_started",
    "job.attempt_completed",
    "job.attempt_failed",
    "job.cancelled",
    "job.discarded",
    "job.priority_changed",
    "job.edited",
    "job.moved",
]


class HistoryActor(TypedDict):
    """Who has caused an event: a worker, an API key, a user of the dashboard, or the server.

    ``id`` is the id of the worker, or the name of the API key or of the user, if the job keeps it.
    """

    type: Literal["worker", "client", "system", "user"]
    id: NotRequired[str]


class HistoryEvent(TypedDict):
    """An event in the life of a job."""

    id: str
    job_id: JobId
    event_type: HistoryType
    timestamp: Moment
    data: dict[str, Any]
    actor: NotRequired[HistoryActor]


class HistoryPage(TypedDict):
    """A page of the history of a job."""

    job_id: JobId
    total: Count
    complete: bool
    next_cursor: NotRequired[str]
    pagination: Pagination


class JobHistory(HistoryPage):
    """A page of the events of a job, oldest first.

    ``complete`` is false if the job has had events that it does not keep.
    """

    events: list[HistoryEvent]


class StateEvent(HistoryEvent):
    """An event as ojs-cli reads it. ``state`` is the state after it, empty if it changes none."""

    type: HistoryType
    state: str


class StateHistory(HistoryPage):
    """A page of the events of a job, as ``JobHistory``, with the members that ojs-cli reads."""

    events: list[StateEvent]


class HistoryDeleted(TypedDict):
    """The recorded history of a job is deleted. ``events_deleted`` counts its entries."""

    deleted: Literal[True]
    events_deleted: Count


class LineageChild(TypedDict):
    """A job that follows another one in its workflow, and those that follow it."""

    job_id: JobId
    children: list[LineageChild]


class JobLineage(TypedDict):
    """The place of a job in its workflow.

    ``parents`` are the jobs that it has waited for, and ``parent_id`` is the first of them.
    ``truncated`` is true if jobs follow below the last level shown.
    """

    job_id: JobId
    workflow_id: JobId | None
    root_id: JobId
    parent_id: JobId | None
    parents: list[JobId]
    children: list[LineageChild]
    truncated: bool
