"""The server itself in responses."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from ojs_cluster.http.problems import Rule
from ojs_cluster.http.shapes.common import Count, Milliseconds, Moment, Pagination
from ojs_cluster.http.shapes.keywords import keywords
from ojs_cluster.http.shapes.queues import QueueDurations, QueueThroughput, StateCounts


class ManifestImplementation(TypedDict):
    """The name and the version of the server."""

    name: str
    version: str
    language: str
    homepage: str


class ManifestExtension(TypedDict):
    """An extension of the specification that the server implements."""

    name: str
    uri: str
    version: str


class ManifestExtensions(TypedDict):
    """The extensions that the server implements."""

    official: list[ManifestExtension]
    experimental: list[ManifestExtension]


class RefusedClasses(TypedDict):
    """The classes of requests that maintenance mode refuses."""

    refused: list[str]


class InMaintenance(TypedDict):
    """The member ``maintenance``, which is there while maintenance mode is on."""

    maintenance: NotRequired[RefusedClasses]


class Manifest(InMaintenance):
    """What the server can do. ``extensions`` is a list of names for clients that are SDKs.

    ``search_fields`` is how each term of a search may start, such as ``queue:`` and ``meta.``.
    """

    specversion: str
    ojs_version: str
    implementation: ManifestImplementation
    conformance_level: Count
    conformance_tier: str
    protocols: list[str]
    backend: str
    capabilities: dict[str, bool]
    unique_job_strength: str
    search_fields: tuple[str, ...]
    extensions: ManifestExtensions | list[str]
    endpoints: dict[str, str]


class BackendHealth(TypedDict):
    """Whether Redis answers, and how fast."""

    type: Literal["redis"]
    status: Literal["ok", "degraded", "unhealthy"]
    latency_ms: NotRequired[Count]


class HealthAnswer(InMaintenance):
    """The health of the process and of Redis."""

    status: Literal["ok", "degraded"]
    version: str
    uptime_seconds: Count
    backend: BackendHealth


class Alive(TypedDict):
    """The process is alive."""

    status: Literal["ok"]


class Ready(TypedDict):
    """Whether the process can serve requests."""

    status: Literal["ready", "unavailable", "draining"]
    backend: NotRequired[BackendHealth]


class MetricsSummary(TypedDict):
    """The most important numbers of the cluster."""

    uptime_seconds: Count
    jobs_enqueued_total: Count
    jobs_completed_total: Count
    jobs_failed_total: Count
    jobs_active: Count
    jobs_available: Count
    queues_active: Count
    workers_active: Count
    avg_latency_ms: Milliseconds
    avg_duration_ms: Milliseconds
    throughput_per_second: Annotated[float, keywords(minimum=0)]


class MaintenanceMembers(TypedDict):
    """Whether maintenance mode is on, and what it refuses.

    Three facts have two names, because the specification's text and its clients differ: ``enabled``
    and ``maintenance``, ``started_at`` and ``enabled_at``, ``ends_at`` and ``estimated_end``.
    """

    enabled: bool
    maintenance: bool
    refused: list[str]
    reason: NotRequired[str]
    started_at: NotRequired[Moment]
    enabled_at: NotRequired[Moment]
    enabled_by: NotRequired[str | None]
    ends_at: NotRequired[Moment]
    estimated_end: NotRequired[Moment]


class ConfigurationItem(TypedDict):
    """A variable of the server. The value of a secret is null."""

    name: str
    value: str | None
    default: str | None
    set: bool
    hidden: bool
    description: str


class MigrationStatus(TypedDict):
    """The last migration of the data."""

    state: Literal["running", "completed"]
    layout: Count
    changed: Count
    progress: Annotated[float, keywords(minimum=0, maximum=1)]
    started_at: Moment
    finished_at: Moment | None


class DataLayout(TypedDict):
    """The layout of the data.

    While a migration runs, its records have layouts from ``oldest`` to ``version``. ``supported``
    has the oldest and the newest layout that the process can serve.
    """

    version: Count
    oldest: Count
    migration: MigrationStatus | None
    supported: list[Count]


class ConfigurationAnswer(TypedDict):
    """The variables of the process that answers."""

    version: str
    layout: DataLayout
    items: list[ConfigurationItem]


class CountedQueues(TypedDict):
    """The number of queues, and of the workers that serve them.

    Usually both are numbers. ``queues`` is a list if the request asks for details. For the command
    line client both are objects of numbers by state.
    """

    queues: Count | dict[str, Count] | list[QueueDurations]
    queues_counted: Count
    as_of: NotRequired[Moment]
    workers: NotRequired[Count | dict[str, Count]]


class ClusterStats(CountedQueues):
    """The statistics of all queues together, or of one queue."""

    jobs: StateCounts
    dead_letters: Count
    throughput: QueueThroughput
    uptime_seconds: Count
    maintenance: MaintenanceMembers


class ShownMute(TypedDict):
    """Why a problem is muted. Without ``ends_at`` the mute ends with the problem."""

    ends_at: NotRequired[Moment]
    reason: str
    muted_by: str


class ShownProblem(TypedDict):
    """A problem of the cluster.

    ``id`` stays the same while the problem lasts: the rule, and what the problem is about if the
    rule can find several at a time. A ``critical`` problem keeps jobs from running. ``since`` is
    there once the problem is recorded, and before if the rule knows the time. ``link`` is there if
    a page of the dashboard shows more; it is relative to the address of the server. A problem that
    is not ``open`` has a ``mute``.
    """

    id: str
    rule: Rule
    severity: Literal["critical", "warning"]
    state: Literal["open", "acknowledged", "muted"]
    since: NotRequired[Moment]
    text: str
    action: str
    link: NotRequired[str]
    mute: NotRequired[ShownMute]


class MutedProblem(TypedDict):
    """A problem that is muted now."""

    id: str
    state: Literal["acknowledged", "muted"]
    mute: ShownMute


class UnmutedProblem(TypedDict):
    """A problem that is not muted any more."""

    id: str
    state: Literal["open"]


class ProblemList(TypedDict):
    """The problems of the cluster: open ones first, and critical ones first among them."""

    items: list[ShownProblem]
    total: Count


class ShownOutboxEntry(TypedDict):
    """An effect that failed too often."""

    id: str
    kind: str
    shard: Count
    attempts: Count
    last_tried_at: Moment
    payload: str
    last_error: str


class OutboxList(TypedDict):
    """A page of outbox dead letters."""

    entries: list[ShownOutboxEntry]
    total: Count
    pagination: Pagination


class OutboxRetried(TypedDict):
    """How many entries were retried, and how many remain or are unknown."""

    retried: Count
    left: NotRequired[Count]
    not_found: NotRequired[list[str]]
