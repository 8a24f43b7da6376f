"""What workers get, and workers in responses."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.shapes.common import Count, ItemError, JobId, Moment, Pagination
from ojs_cluster.http.shapes.jobs import Job, LeasedJob


class FetchedJobs(TypedDict):
    """The leased jobs, and the first of them in ``job``. The list is empty if there are none."""

    jobs: list[LeasedJob]
    job: NotRequired[LeasedJob]


class AckAnswer(TypedDict):
    """The completed job."""

    acknowledged: Literal[True]
    completed_at: Moment
    id: JobId
    job_id: JobId
    state: State
    job: Job


class NackAnswer(TypedDict):
    """The job after its failed attempt. ``ignored`` is there if the nack changed nothing."""

    attempt: Count
    max_attempts: Count
    id: JobId
    job_id: JobId
    state: State
    retry_delay_ms: NotRequired[Count]
    next_attempt_at: NotRequired[Moment]
    discarded_at: NotRequired[Moment]
    completed_at: NotRequired[Moment]
    requeued: NotRequired[Literal[True]]
    ignored: NotRequired[Literal[True]]
    job: NotRequired[Job]


class SettleResult(TypedDict):
    """The result of one ack or nack. ``status`` is that of a request of its own."""

    job_id: str | None
    status: int
    state: NotRequired[State]
    error: NotRequired[ItemError]


class SettleResults(TypedDict):
    """The results of all items, in the order of the request."""

    results: list[SettleResult]
    succeeded: Count
    failed: Count


class HeartbeatAnswer(TypedDict):
    """The directive for the worker, its jobs with extended leases, and those that are cancelled."""

    acknowledged: Literal[True]
    state: str
    directive: str
    jobs_extended: list[JobId]
    jobs_cancelled: list[JobId]
    waited: bool
    server_time: Moment


class Worker(TypedDict):
    """A worker, with the members by which it describes itself in its heartbeats."""

    id: str
    worker_id: str
    state: str
    directive: str
    active_jobs: Count
    last_heartbeat: Moment
    last_heartbeat_at: Moment
    started_at: Moment
    stale: bool
    queues: Any


class WorkerList(TypedDict):
    """A page of workers, the most recently seen first."""

    workers: list[Worker]
    total: Count
    pagination: Pagination


class AdminWorkerList(TypedDict):
    """A page of workers, and the number of workers by state."""

    items: list[Worker]
    summary: dict[str, Count]
    pagination: Pagination


class ActiveJob(TypedDict):
    """An active job of a worker."""

    id: JobId
    type: str
    state: State
    queue: str
    attempt: Count
    created_at: Moment
    started_at: Moment


class WorkerDetail(Worker):
    """A worker and its active jobs."""

    jobs: list[ActiveJob]
    jobs_complete: bool


class WorkerDirective(TypedDict):
    """The directive that the worker gets with its next heartbeat."""

    id: str
    worker_id: str
    state: str
    directive: str


class WorkerRemoved(TypedDict):
    """The worker is removed."""

    id: str
    worker_id: str
    deregistered: Literal[True]


class DirectiveAnswer(TypedDict):
    """How many workers got the directive, and which did not."""

    directive: str
    affected_workers: Count
    left: NotRequired[Count]
    not_found: NotRequired[list[str]]
