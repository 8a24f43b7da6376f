"""Jobs in responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.shapes.common import (
    Count,
    ItemError,
    JobId,
    JobType,
    Milliseconds,
    Moment,
    Pagination,
    Priority,
    QueueName,
)
from ojs_cluster.http.shapes.keywords import between, keywords


class AttemptError(TypedDict, total=False):
    """The error of a failed attempt, with the members that the worker sent."""

    attempt: Required[Count]
    occurred_at: Required[Moment]
    type: str
    code: str
    message: str


class Job(TypedDict, total=False):
    """A job envelope. It also has the client's own attributes (spec: ojs-core, Job Envelope)."""

    specversion: Required[str]
    id: Required[JobId]
    type: Required[JobType]
    queue: Required[QueueName]
    args: Required[list[Any]]
    meta: dict[str, Any]
    priority: Required[Priority]
    max_attempts: Required[Count]
    state: Required[State]
    attempt: Required[Count]
    created_at: Required[Moment]
    enqueued_at: Required[Moment]
    scheduled_at: str
    expires_at: str
    started_at: Moment
    completed_at: Moment
    cancelled_at: Moment
    discarded_at: Moment
    next_attempt_at: Moment
    retry_delay_ms: Count
    timeout_ms: Count
    visibility_timeout_ms: Count
    retry: dict[str, Any]
    unique: dict[str, Any]
    rate_limit: dict[str, Any]
    tags: list[str]
    worker_id: str
    result: Any
    error: AttemptError | str
    errors: list[AttemptError]
    progress: Annotated[float, between(0, 1)]
    progress_data: dict[str, Any]
    workflow_id: str
    workflow_step: Count
    parent_results: list[Any]
    parent_results_by_id: dict[str, Any]
    replay_count: Count


class CheckpointMembers(TypedDict):
    """A checkpoint of a job, with the state that the worker saved."""

    job_id: JobId
    sequence: Annotated[int, keywords(minimum=1)]
    created_at: Moment
    state: NotRequired[Any]
    step_index: NotRequired[int]
    metadata: NotRequired[Any]


class LeasedJob(Job, total=False):
    """A job that the fetch has leased to the worker."""

    lease_id: str
    checkpoint: CheckpointMembers


class JobHead(TypedDict):
    """The members of a job that a response repeats at the top level."""

    id: JobId
    type: JobType
    state: State
    queue: QueueName
    attempt: Count
    created_at: Moment


class JobAnswer(JobHead):
    """The job, and some of its members again at the top level."""

    job: Job


class WholeJob(Job):
    """The job in ``job``, and its members again at the top level."""

    job: Job


class JobTimes(TypedDict):
    """The times of a job. A time that has not come is null."""

    created_at: Moment
    enqueued_at: Moment
    started_at: Moment | None
    scheduled_at: str | None
    completed_at: Moment | None
    cancelled_at: Moment | None
    discarded_at: Moment | None


class AdminJob(Job):
    """The job. ``errors`` is there even if no attempt has failed.

    ``metadata`` and ``retry_policy`` take the place of attributes of the client with these names.
    """

    metadata: Required[JobTimes]
    retry_policy: Required[dict[str, Any]]


class JobList(TypedDict):
    """A page of jobs."""

    jobs: list[Job]
    total: NotRequired[Count]
    pagination: Pagination


class JobItems(TypedDict):
    """A page of jobs."""

    items: list[Job]
    pagination: Pagination


class EnqueuedJob(JobAnswer):
    """The job. ``warnings`` names options that are not known, and args that match no schema."""

    warnings: NotRequired[list[str]]


class Deduplicated(EnqueuedJob):
    """The existing job, because the new one would duplicate a unique job."""

    deduplicated: Literal[True]


class Batch(TypedDict):
    """The enqueued jobs, in the order of the request.

    ``deduplicated`` has the indexes of existing jobs that took the place of new ones.
    """

    jobs: list[Job]
    count: Count
    enqueued: Count
    failed: Count
    deduplicated: NotRequired[list[Count]]
    warnings: NotRequired[list[str]]


class BulkEnqueuedJob(TypedDict):
    """An enqueued job."""

    id: JobId
    type: JobType
    queue: QueueName
    state: State


class BulkEnqueueItem(TypedDict):
    """The result of one job of the request."""

    index: Count
    status: Literal["created", "duplicate", "failed"]
    job: NotRequired[BulkEnqueuedJob]
    error: NotRequired[ItemError]


class BulkEnqueueResult(TypedDict):
    """The results of all jobs, in the order of the request."""

    total: Count
    succeeded: Count
    failed: Count
    items: list[BulkEnqueueItem]
    warnings: NotRequired[list[str]]


class JobResult(TypedDict, total=False):
    """The result of a job, or its last error. ``result`` is null if there is none."""

    job_id: Required[JobId]
    id: Required[JobId]
    state: Required[State]
    result: Required[Any]
    error: AttemptError
    completed_at: Moment
    cancelled_at: Moment
    discarded_at: Moment


class FailedAttempt(TypedDict):
    """A failed attempt."""

    attempt: int | None
    state: Literal["failed"]
    error: str
    code: str | None
    type: str | None
    failed_at: str | None
    started_at: NotRequired[Moment]
    next_retry_at: NotRequired[Moment]


class BackoffPolicy(TypedDict):
    """How a job is retried."""

    max_attempts: Count
    backoff_strategy: str
    initial_interval: str
    max_interval: str


class Retries(TypedDict):
    """The failed attempts of a job and its retry policy."""

    job_id: JobId
    state: State
    attempt: Count
    max_attempts: Count
    retries: list[FailedAttempt]
    policy: BackoffPolicy


class CheckpointAnswer(CheckpointMembers):
    """The checkpoint, and again in ``checkpoint``."""

    checkpoint: CheckpointMembers


class Resume(TypedDict):
    """Whether the job has a checkpoint, and the checkpoint."""

    has_checkpoint: bool
    checkpoint: CheckpointMembers | None


class JobProgress(TypedDict):
    """The progress of a job; its members are null if none was reported."""

    job_id: JobId
    state: State
    progress: Annotated[float, between(0, 1)] | None
    message: str | None
    data: dict[str, Any] | None
    updated_at: Moment | None


class UniqueLock(TypedDict):
    """A job that holds a unique lock."""

    key: str
    job_id: JobId
    type: str
    queue: str
    state: str
    locked_until: NotRequired[Moment]


class UniqueLocks(TypedDict):
    """A page of unique locks."""

    items: list[UniqueLock]
    pagination: Pagination


class Phase(TypedDict):
    """A phase of a job's life."""

    phase: str
    state: State
    at: Moment
    duration: str
    duration_ms: Milliseconds
    error: str


class JobLease(TypedDict):
    """The worker of the last attempt of a job, and the end of the lease of an active job."""

    job_id: JobId
    worker_id: NotRequired[str]
    lease_expires_at: NotRequired[Moment]


class Trace(JobLease):
    """The phases of a job's life, oldest first."""

    state: State
    attempt: Count
    max_attempts: Count
    errors_omitted: Count
    snapshots: list[Phase]
