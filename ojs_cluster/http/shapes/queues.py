"""Queues in responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import (
    Count,
    JobId,
    Milliseconds,
    Moment,
    Pagination,
    QueueName,
)
from ojs_cluster.http.shapes.jobs import Job
from ojs_cluster.http.shapes.keywords import between, keywords

QueueStatus = Literal["active", "paused", "draining"]


class StateCounts(TypedDict):
    """The number of jobs by state. ``completed`` also counts the jobs that were removed."""

    scheduled: Count
    available: Count
    pending: Count
    active: Count
    completed: Count
    retryable: Count
    cancelled: Count
    discarded: Count


class QueueIdentity(TypedDict):
    """The name of a queue, and whether it is paused."""

    name: QueueName
    status: QueueStatus
    paused: bool


class QueueSummary(QueueIdentity, StateCounts):
    """A queue and its counts."""

    created_at: NotRequired[Moment]


class QueueList(TypedDict):
    """A page of queues, by name."""

    queues: list[QueueSummary]
    total: Count
    pagination: Pagination


class QueueDetail(QueueSummary):
    """A queue and its counts."""

    depth: Count
    running: Count


class QueueAnswer(QueueDetail):
    """The queue in ``queue``, and its members again at the top level."""

    queue: QueueDetail


class QueueCounted(QueueIdentity, StateCounts):
    """The name of a queue and its counts."""


class QueueNumbers(StateCounts):
    """The numbers of a queue."""

    queue: QueueName
    depth: Count
    dead: NotRequired[Count]
    completed_last_hour: NotRequired[Count]
    failed_last_hour: NotRequired[Count]
    avg_duration_ms: NotRequired[Milliseconds]
    avg_wait_ms: NotRequired[Milliseconds]
    throughput_per_second: NotRequired[Annotated[float, keywords(minimum=0)]]


class QueueStatistics(QueueIdentity, StateCounts):
    """The statistics of a queue. ``queue`` is its name for SDKs and the command line client."""

    queue: QueueCounted | QueueName
    stats: QueueNumbers
    depth: Count
    dead_letter: NotRequired[Count]
    computed_at: Moment
    created_at: NotRequired[Moment]


class PriorityCount(TypedDict):
    """The number of available jobs that have one priority."""

    priority: Annotated[int, between(-100, 100)]
    count: Annotated[int, keywords(minimum=1)]


class PriorityStatistics(TypedDict):
    """The available jobs of a queue by priority, highest first."""

    queue: QueueName
    distribution: list[PriorityCount]
    available: Count


class PauseMembers(TypedDict):
    """The state of a queue, and when it was requested last."""

    name: QueueName
    paused: bool
    status: QueueStatus
    paused_at: NotRequired[Moment]
    draining_at: NotRequired[Moment]
    resumed_at: NotRequired[Moment]


class PauseAnswer(PauseMembers):
    """The state of the queue, in ``queue`` and again at the top level."""

    queue: PauseMembers


class QueueThroughput(TypedDict):
    """The throughput of the last hour, per minute."""

    completed_per_min: Count
    failed_per_min: Count
    avg_latency_ms: Milliseconds
    completed_per_minute: Annotated[float, keywords(minimum=0)]
    processed_per_minute: Annotated[float, keywords(minimum=0)]
    failed_per_minute: Annotated[float, keywords(minimum=0)]


class AdminQueue(TypedDict):
    """A queue as an operator sees it."""

    name: QueueName
    state: QueueStatus
    paused: bool
    counts: StateCounts
    depth: Count
    dead_letters: Count
    throughput: QueueThroughput
    avg_wait_ms: Milliseconds
    avg_duration_ms: Milliseconds
    created_at: NotRequired[Moment]
    paused_at: NotRequired[Moment]


class AdminQueueList(TypedDict):
    """A page of queues, by name."""

    items: list[AdminQueue]
    pagination: Pagination


class ShownRate(TypedDict):
    """A number of starts in any window of a length."""

    limit: Count
    period: str


class ShownRetention(TypedDict):
    """How long finished jobs of a queue are kept, as ISO 8601 durations."""

    completed: NotRequired[str]
    discarded: NotRequired[str]
    cancelled: NotRequired[str]


class QueueConfiguration(TypedDict):
    """The partitions, the limits and the retention of a queue."""

    partitions: Annotated[int, keywords(minimum=1)]
    concurrency: NotRequired[Count]
    rate: NotRequired[ShownRate]
    rate_limit: NotRequired[ShownRate]
    throttle: NotRequired[ShownRate]
    retention: NotRequired[ShownRetention]


class WaitQuantiles(TypedDict):
    """How long jobs waited for their start, in milliseconds."""

    p50: Milliseconds
    p95: Milliseconds
    p99: Milliseconds


class AdminQueueDetail(AdminQueue):
    """A queue with its configuration.

    ``latency_ms`` is there if jobs started in the recorded minutes of the last hour, and
    ``oldest_available_at`` if jobs are available.
    """

    configuration: QueueConfiguration
    latency_ms: NotRequired[WaitQuantiles]
    oldest_available_at: NotRequired[Moment]


class DepthBound(TypedDict):
    """The limit on the depth of a queue."""

    max_depth: Count
    strategy: Literal["reject", "block", "drop_oldest"]
    warning_threshold: Annotated[float, between(0, 1)]


class ShownDefaults(TypedDict):
    """The settings of a queue that are defaults of its jobs."""

    default_retry: NotRequired[dict[str, Any]]
    default_timeout: NotRequired[Annotated[int, keywords(minimum=1)]]
    visibility_timeout: NotRequired[Annotated[int, keywords(minimum=1)]]
    retention: NotRequired[ShownRetention]


class QueueSettings(ShownDefaults):
    """The settings of a queue that hold now, its own or those of the server."""

    partitions: Annotated[int, keywords(minimum=1)]
    on_exhaustion: Annotated[str, keywords(enum=["discard", "dead_letter"])]
    backpressure: NotRequired[DepthBound]
    concurrency: NotRequired[Annotated[int, keywords(minimum=1)]]
    rate_limit: NotRequired[ShownRate]
    fair_share: NotRequired[bool]


class QueueConfigAnswer(QueueSettings):
    """The settings in ``config``, and again at the top level, of a queue or of ``_default``."""

    queue: str
    config: QueueSettings
    draining: Count


class CreatedQueue(QueueIdentity):
    """A queue and its configuration."""

    state: QueueStatus
    config: QueueSettings
    created_at: Moment


class QueueCreated(CreatedQueue):
    """The queue in ``queue``, and its members again at the top level."""

    queue: CreatedQueue


class MoveTarget(TypedDict):
    """The queue to which the jobs of a deleted queue are moved."""

    target_queue: NotRequired[QueueName]


class QueueDeletion(MoveTarget):
    """The deletion of a queue, and what has become of its jobs."""

    queue: QueueName
    name: QueueName
    strategy: Annotated[str, keywords(enum=["reject", "discard", "move"])]
    jobs_affected: Count
    operation_id: NotRequired[JobId]


class QueueDeleted(QueueDeletion):
    """A queue that was deleted, or drains until the bulk operation deletes it.

    ``jobs_affected`` is the number of jobs that were discarded or moved so far.
    """

    state: Literal["deleted", "draining"]
    deleted: bool


class DeadLetterPage(TypedDict):
    """A page of dead letters."""

    jobs: list[Job]
    total: NotRequired[Count]
    pagination: Pagination


class DeadLetterCounts(TypedDict):
    """The number of dead letters by queue and by type."""

    total: Count
    by_queue: dict[str, Count]
    by_type: dict[str, Count]
    by_type_counted: Count
    oldest: NotRequired[Moment]
    newest: NotRequired[Moment]


class ErrorGroupQueue(TypedDict):
    """The number of failures of a group in one queue."""

    name: QueueName
    count: Count


class ShownErrorGroup(TypedDict):
    """Errors with the same type and normalised message."""

    type: str
    message: str
    count: Count
    first_at: Moment
    last_at: Moment
    job_id: JobId
    queues: list[ErrorGroupQueue]


class ErrorGroups(TypedDict):
    """A page of error groups, latest failure first."""

    items: list[ShownErrorGroup]
    total: Count
    pagination: Pagination


class SeriesPoint(TypedDict):
    """The numbers of one period."""

    timestamp: Moment
    complete: bool
    recorded: bool
    covered_seconds: Count
    enqueued: Count
    processed: Count
    completed: Count
    failed: Count
    retried: Count
    discarded: Count
    cancelled: Count
    expired: Count
    latency_p50_ms: Milliseconds | None
    latency_p95_ms: Milliseconds | None
    latency_p99_ms: Milliseconds | None
    duration_p50_ms: Milliseconds | None
    duration_p95_ms: Milliseconds | None
    avg_latency_ms: Milliseconds | None
    avg_duration_ms: Milliseconds | None
    depth: dict[str, Any]


class TimeHistogram(TypedDict):
    """Numbers of jobs by how long they took: up to each bound, and the last one for longer."""

    bounds_ms: list[Count]
    counts: list[Count]
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    max_ms: Count


class SeriesSubject(TypedDict):
    """What a series is about, and the length of its periods."""

    period: Annotated[str, keywords(enum=["1m", "5m", "1h", "1d"])]
    queue: NotRequired[QueueName]
    type: NotRequired[str]


class StatsHistory(SeriesSubject):
    """A series of periods, oldest first."""

    data: list[SeriesPoint]
    data_points: list[SeriesPoint]
    waits: TimeHistogram
    run_times: TimeHistogram


class QueueDurations(TypedDict):
    """How long the jobs of a queue run, and how many fail."""

    name: QueueName
    depth: Count
    avg_duration_ms: Milliseconds
    error_rate: Annotated[float, between(0, 1)]
