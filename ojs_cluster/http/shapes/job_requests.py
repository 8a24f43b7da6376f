"""Request bodies of enqueues, cron jobs and workflows.

The server parses these bodies itself, because it keeps the bytes of the client's data
(``core.jobs.envelope``, ``core.cron.cron_job``, ``core.workflow_request``). So no struct describes
them. A null counts as absent.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required, TypedDict

from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.shapes.common import (
    Duration,
    JobId,
    JobType,
    Priority,
    QueueName,
)
from ojs_cluster.http.shapes.keywords import keywords

Time = Annotated[str, keywords(examples=["2030-01-01T12:00:00Z", "+PT30S"])]
Text = Annotated[str, keywords(minLength=1)]


class RetryBody(TypedDict, total=False):
    """A retry policy; a missing member has its default (spec: ojs-retry)."""

    max_attempts: Annotated[int, keywords(minimum=0)] | None
    initial_interval: Duration | None
    backoff_coefficient: Annotated[float, keywords(minimum=1)] | None
    max_interval: Duration | None
    jitter: bool | None
    backoff_strategy: str | None
    non_retryable_errors: list[str] | None
    on_exhaustion: Literal["discard", "dead_letter"] | None


class UniqueBody(TypedDict, total=False):
    """A uniqueness policy (spec: ojs-unique-jobs)."""

    keys: list[Literal["type", "queue", "args", "meta"]] | None
    key: str | list[str] | None
    args_keys: list[str] | None
    meta_keys: list[str] | None
    period: Duration | None
    states: list[State] | None
    on_conflict: str | None


class RateBody(TypedDict):
    """A number of starts in any window of a length."""

    limit: Annotated[int, keywords(minimum=1)]
    period: str


class RateLimitBody(TypedDict, total=False):
    """The limit of the job's queue (``max_per_second``), or of a rate limit key."""

    max_per_second: Annotated[int, keywords(minimum=1)] | None
    key: str | None
    concurrency: Annotated[int, keywords(minimum=0)] | None
    rate: RateBody | int | None
    throttle: RateBody | int | None
    period: str | None
    on_limit: Literal["wait", "reschedule", "drop"] | None


class JobOptionsBody(TypedDict, total=False):
    """The options of a job. Most of them may also be attributes of the job itself."""

    queue: QueueName | None
    priority: Priority | None
    retry: RetryBody | None
    retry_policy: RetryBody | None
    max_attempts: Annotated[int, keywords(minimum=0)] | None
    scheduled_at: Time | None
    delay_until: Time | None
    expires_at: Time | None
    ttl: Annotated[int, keywords(minimum=0)] | str | None
    enqueue_ttl: Annotated[int, keywords(minimum=0)] | str | None
    timeout_ms: Annotated[int, keywords(minimum=0)] | None
    visibility_timeout_ms: Annotated[int, keywords(minimum=0)] | None
    visibility_timeout: Duration | None
    unique: UniqueBody | None
    pending: bool | None
    rate_limit: RateLimitBody | None
    metadata: dict[str, Any] | None
    tags: list[Text] | None


class EnqueueBody(TypedDict, total=False):
    """A job to enqueue. Attributes that the specification does not name are kept as they are."""

    type: Required[JobType]
    args: Required[list[Any]]
    id: JobId | None
    specversion: str
    meta: dict[str, Any] | None
    options: JobOptionsBody | None
    queue: QueueName | None
    priority: Priority | None
    retry: RetryBody | None
    unique: UniqueBody | None
    rate_limit: RateLimitBody | None
    tags: list[Text] | None
    timeout: Annotated[int, keywords(minimum=0)] | None
    timeout_ms: Annotated[int, keywords(minimum=0)] | None
    visibility_timeout_ms: Annotated[int, keywords(minimum=0)] | None
    scheduled_at: Time | None
    expires_at: Time | None
    enqueue_ttl: Annotated[int, keywords(minimum=0)] | str | None


class JobEditBody(TypedDict, total=False):
    """The members of a waiting job to change. The others keep their values."""

    args: list[Any]
    meta: dict[str, Any]
    priority: Priority
    max_attempts: Annotated[int, keywords(minimum=1)]
    timeout_ms: Annotated[int, keywords(minimum=0)] | None
    scheduled_at: Time
    expires_at: Time | None
    tags: list[Text] | None


class BatchBody(TypedDict):
    """Jobs to enqueue together."""

    jobs: Annotated[list[EnqueueBody], keywords(minItems=1)]


class BulkEnqueueBody(TypedDict, total=False):
    """Jobs to enqueue, each on its own or all together."""

    jobs: Required[Annotated[list[EnqueueBody], keywords(minItems=1)]]
    atomicity: Literal["atomic", "partial"]
    idempotency_key: Annotated[str, keywords(minLength=1, maxLength=256)]


class CronChange(TypedDict, total=False):
    """The members of a cron job to replace. The name cannot be changed."""

    expression: str
    cron: str
    schedule: str
    timezone: str | None
    overlap_policy: Literal["skip", "allow", "cancel_previous", "enqueue"] | None
    enabled: bool
    description: str | None
    job_template: dict[str, Any] | None
    type: JobType
    args: list[Any]
    meta: dict[str, Any] | None
    options: dict[str, Any] | None


class CronBody(CronChange, total=False):
    """A cron job. Its other members describe the job, unless it has a ``job_template``."""

    name: Required[Annotated[str, keywords(pattern=r"^[a-z0-9][a-z0-9.\-]*$", maxLength=255)]]


class StepBody(TypedDict, total=False):
    """A step of a workflow: a job, or a nested workflow with ``steps`` or ``jobs``."""

    id: str | None
    name: str | None
    type: str
    args: list[Any]
    meta: dict[str, Any] | None
    depends_on: list[str] | None
    options: dict[str, Any] | None
    steps: list[StepBody]
    jobs: list[StepBody]
    callbacks: dict[str, StepBody] | None


class WorkflowBody(TypedDict, total=False):
    """A workflow: ``steps`` of a chain or a graph, ``jobs`` of a group or a batch."""

    type: Literal["chain", "group", "batch", "dag"]
    name: str | None
    steps: list[StepBody]
    jobs: list[StepBody]
    callbacks: dict[str, StepBody] | None
    options: dict[str, Any] | None
