"""Cron jobs in responses."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, JobId, JobType, Moment, Pagination
from ojs_cluster.http.shapes.jobs import Job

Outcome = Literal["triggered", "skipped", "failed"]


class CronMembers(TypedDict):
    """The members of a cron job except its expression as ``cron``."""

    name: str
    id: str
    expression: str
    schedule: str
    timezone: str
    overlap_policy: str
    enabled: bool
    status: Literal["active", "paused"]
    description: str | None
    type: JobType
    args: list[Any]
    options: dict[str, Any] | None
    meta: dict[str, Any]
    queue: str
    job_template: dict[str, Any]
    next_run_at: Moment | None
    last_run_at: Moment | None
    run_count: Count
    created_at: Moment | None
    updated_at: Moment | None


class Cron(CronMembers):
    """A cron job. Some members repeat others under the names of SDKs."""

    cron: str


class CronList(TypedDict):
    """A page of cron jobs, under the names of several clients."""

    crons: list[Cron]
    cron_jobs: list[Cron]
    items: list[Cron]
    entries: list[Cron]
    count: Count
    total: Count
    pagination: Pagination


class CronAnswer(CronMembers):
    """The cron job in ``cron`` and ``cron_job``, and its members again at the top level."""

    cron: Cron
    cron_job: Cron


class RegisteredCron(CronAnswer):
    """The cron job. ``warnings`` is that of its job."""

    warnings: NotRequired[list[str]]


class CronDeleted(TypedDict):
    """The cron job that was deleted."""

    cron: Cron
    cron_job: Cron
    deleted: Literal[True]
    name: str


class CronTriggered(TypedDict):
    """The cron job and the job that was enqueued, or the existing unique job."""

    cron: Cron
    cron_job: Cron
    job: Job
    job_id: JobId
    deduplicated: NotRequired[Literal[True]]


class CronOccurrence(TypedDict):
    """An occurrence of a cron job, and what became of it."""

    outcome: Outcome
    reason: str
    scheduled_time: Moment
    actual_time: Moment
    state: str
    scheduled_at: Moment
    started_at: NotRequired[Moment]
    job_id: NotRequired[str]
    active_job_id: NotRequired[str]
    error: NotRequired[str]


class CronHistory(TypedDict):
    """The last occurrences, newest first, under the names of several clients."""

    name: str
    history: list[CronOccurrence]
    items: list[CronOccurrence]
    executions: list[CronOccurrence]
    count: Count


class BackfillError(TypedDict):
    """Why the job of an occurrence was not enqueued."""

    scheduled_time: Moment
    message: str


_Interval = TypedDict("_Interval", {"from": Moment})


class CronBackfill(_Interval):
    """The occurrences of an interval, and what was done. A count has no numbers of jobs."""

    name: str
    to: Moment
    count: Count
    max: Count
    first: Moment | None
    last: Moment | None
    confirmed: bool
    enqueued: NotRequired[Count]
    existing: NotRequired[Count]
    failed: NotRequired[Count]
    errors: NotRequired[list[BackfillError]]
