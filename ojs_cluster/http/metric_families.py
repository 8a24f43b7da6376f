"""The metrics of a process and of a cluster, as families that prometheus_client encodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ojs_cluster import __version__
from ojs_cluster.core.histograms import RUN_BOUNDS_MS, WAIT_BOUNDS_MS
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.traffic import BOUNDS_S, Traffic
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.job_counts import RUN_BUCKETS, WAIT_BUCKETS
from ojs_cluster.store.operators.operations.cluster_counts import ClusterCounts
from ojs_cluster.store.operators.operations.metrics import (
    ClusterMetrics,
    QueueMetrics,
)

Families = list[Metric]
Tenants = Mapping[str, Mapping[str, int]]
Problems = Mapping[tuple[str, str, str], int]
"""The numbers of problems by rule, severity and state."""


def status_families(store: Store, *, is_up: bool) -> Families:
    """Return what this process knows about Redis without asking it."""
    redis = store.redis
    return [
        plain_gauge("ojs_redis_up", "1 if Redis responds to this process, otherwise 0", int(is_up)),
        plain_gauge(
            "ojs_redis_masters",
            "Number of masters of Redis that this process knows",
            len(redis.topology.masters),
        ),
        plain_gauge(
            "ojs_redis_covered",
            "1 if every hash slot of Redis has a master, otherwise 0",
            int(redis.healthy),
        ),
        plain_gauge(
            "ojs_clock_ahead_seconds",
            "How far the clock of this process is ahead of Redis; negative if it is behind",
            store.clock.process_ahead_ms / 1000,
        ),
        plain_gauge(
            "ojs_redis_clocks_apart_seconds",
            "Largest difference between the clocks of two masters of Redis",
            store.clock.masters_apart_ms / 1000,
        ),
        CounterMetricFamily(
            "ojs_webhooks_unread_seconds",
            "Time for which this process has worked without having read the webhook subscriptions",
            value=store.webhooks.unread_s,
        ),
        build_info(),
    ]


def build_info() -> Metric:
    """Return the metric that shows the version of the server."""
    info = GaugeMetricFamily(
        "ojs_build_info",
        "Always 1; the label version is the version of the server",
        labels=["version"],
    )
    info.add_metric([__version__], 1)
    return info


def traffic_families(traffic: Traffic) -> Families:
    """Return the metrics of the responses of this node's processes."""
    requests = CounterMetricFamily(
        "ojs_http_requests",
        "Number of HTTP responses that this node has sent",
        labels=["method", "route", "status"],
    )
    seconds = HistogramMetricFamily(
        "ojs_http_request_duration_seconds",
        "Time from the head of an HTTP request to its response, including waits for jobs",
        labels=["method", "route"],
    )
    for row in traffic.rows():
        labels = [row.method or "other", row.template or "other"]
        for status, count in row.statuses.items():
            requests.add_metric([*labels, status], count)
        bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(row.buckets), strict=True))
        seconds.add_metric(labels, buckets, row.seconds)
    return [requests, seconds, audit_family(traffic)]


def audit_family(traffic: Traffic) -> Metric:
    """Return the metric of the audit entries of this node."""
    return counter(
        "ojs_audit_entries",
        "Number of audit entries that were written to Redis, or dropped because Redis was not "
        "available or rejected them",
        "outcome",
        [("written", traffic.total("audit_written")), ("dropped", traffic.total("audit_dropped"))],
    )


def gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def counter(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """Return a counter with one label; ``_total`` is added to its name."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def plain_gauge(name: str, text: str, value: float) -> Metric:
    """Return a gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def queue_families(numbers: ClusterMetrics) -> Families:
    """Return the metrics of the queues."""

    def by_queue(read: Callable[[QueueMetrics], float]) -> list[tuple[str, float]]:
        return [(name, read(queue)) for name, queue in numbers.queues.items()]

    counts = (
        counter(f"ojs_job_{name}", f"Number of {text}", "queue", by_queue(read))
        for name, text, read in _QUEUE_COUNTERS
    )
    waiting = {"oldest_available_age_seconds", "paused"}
    gauges = (
        gauge(
            f"ojs_queue_{name}",
            text,
            "queue",
            [
                *by_queue(read),
                *(
                    (each, read(queue))
                    for each, queue in numbers.waiting.items()
                    if name in waiting
                ),
            ],
        )
        for name, text, read in _QUEUE_GAUGES
    )
    return [
        *counts,
        *_type_families(numbers),
        *_time_families(numbers),
        _jobs_by_state(numbers),
        *gauges,
    ]


_WAITING = tuple(
    state for state in QueueMetrics().jobs if state.value in ("available", "scheduled", "retryable")
)
_QUEUE_COUNTERS: Final[Sequence[tuple[str, str, Callable[[QueueMetrics], float]]]] = (
    ("enqueued", "jobs that were enqueued", lambda queue: queue.enqueued),
    ("completed", "jobs that were completed", lambda queue: queue.completed),
    ("failed", "jobs that were discarded", lambda queue: queue.discarded),
    ("retried", "jobs that get another attempt after a failed one", lambda queue: queue.retried),
    ("cancelled", "jobs that were cancelled", lambda queue: queue.cancelled),
    ("expired", "jobs that expired before they started", lambda queue: queue.expired),
    ("failed_attempts", "attempts that failed", lambda queue: queue.failed_attempts),
)
_QUEUE_GAUGES: Final[Sequence[tuple[str, str, Callable[[QueueMetrics], float]]]] = (
    (
        "depth",
        "Number of jobs that are available, scheduled or retryable",
        lambda queue: sum(queue.jobs[state] for state in _WAITING),
    ),
    (
        "oldest_available_age_seconds",
        "Time since the oldest available job became available; 0 if no job is available",
        lambda queue: queue.oldest_ms / 1000,
    ),
    ("paused", "1 if the queue is paused, otherwise 0", lambda queue: queue.paused),
    ("dead_letters", "Number of dead letters", lambda queue: queue.dead_letters),
)


def _jobs_by_state(numbers: ClusterMetrics) -> Metric:
    jobs = GaugeMetricFamily(
        "ojs_queue_jobs",
        "Number of jobs in a queue by state; a finished job counts until its retention ends",
        labels=["queue", "state"],
    )
    for name, queue in numbers.queues.items():
        for state, count in queue.jobs.items():
            jobs.add_metric([name, state.value], count)
    return jobs


def tenant_families(tenants: Tenants) -> Families:
    """Return the metrics of the tenants."""
    jobs = GaugeMetricFamily(
        "ojs_tenant_jobs",
        "Number of jobs of a tenant by state; a finished job counts until its retention ends",
        labels=["tenant_id", "state"],
    )
    for tenant, numbers in tenants.items():
        for state in State:
            jobs.add_metric([tenant, state.value], numbers[state.value])
    return [
        jobs,
        *(
            counter(
                f"ojs_tenant_jobs_{name}",
                f"Number of jobs of a tenant that were {text}",
                "tenant_id",
                [(tenant, numbers[field]) for tenant, numbers in tenants.items()],
            )
            for name, text, field in _TENANT_COUNTERS
        ),
    ]


_TENANT_COUNTERS: Final = (
    ("enqueued", "enqueued", "enqueued"),
    ("processed", "completed", "acked"),
    ("failed", "discarded", "discarded_total"),
)


def problem_families(problems: Problems | None) -> Families:
    """Return the metric of the recorded problems; none if they are unknown."""
    if problems is None:
        return []
    family = GaugeMetricFamily(
        "ojs_problem",
        "Number of problems that the overview of the dashboard shows, by what has found them",
        labels=["rule", "severity", "state"],
    )
    for labels, count in sorted(problems.items()):
        family.add_metric(labels, count)
    return [family]


def _time_families(numbers: ClusterMetrics) -> Families:
    durations = HistogramMetricFamily(
        "ojs_job_duration_seconds", "Execution time of completed jobs", labels=["queue"]
    )
    queue_times = HistogramMetricFamily(
        "ojs_job_queue_time_seconds",
        "Time that jobs were available before their first attempt",
        labels=["queue"],
    )
    for name, queue in numbers.queues.items():
        waits, runs = queue.times[WAIT_BUCKETS], queue.times[RUN_BUCKETS]
        wait_ms, run_ms = queue.times[-2:]
        queue_times.add_metric([name], _buckets(WAIT_BOUNDS_MS, waits), wait_ms / 1000)
        durations.add_metric([name], _buckets(RUN_BOUNDS_MS, runs), run_ms / 1000)
    return [durations, queue_times]


def _type_families(numbers: ClusterMetrics) -> Families:
    families: Families = []
    for event, (name, text) in enumerate(
        [("enqueued", "enqueued"), ("completed", "completed"), ("failed", "discarded")]
    ):
        family = CounterMetricFamily(
            f"ojs_job_type_{name}",
            f"Number of jobs that API processes have {text}, by type",
            labels=["queue", "type"],
        )
        for queue, found in numbers.queues.items():
            for job_type, counts in sorted(found.types.items()):
                family.add_metric([queue, job_type], counts[event])
        families.append(family)
    return families


def _buckets(bounds_ms: Sequence[int], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Return the cumulative buckets of a histogram in seconds."""
    bounds = [*(f"{bound / 1000:g}" for bound in bounds_ms), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))


def count_families(counts: ClusterCounts) -> Families:
    """Return the metrics of what belongs to no queue, without what could not be read."""
    families: Families = []
    if counts.workers is not None:
        text = "Number of workers by status"
        families.append(gauge("ojs_workers", text, "status", counts.workers.items()))
    gauges = (
        ("ojs_jobs_active", "Number of jobs that workers have, in all queues", counts.active),
        ("ojs_workflows_running", "Number of workflows that have not ended", counts.workflows),
        (
            "ojs_cron_late",
            "Number of cron jobs that have not run although they were due",
            counts.late_crons,
        ),
    )
    families += [
        plain_gauge(name, text, value) for name, text, value in gauges if value is not None
    ]
    if counts.cron:
        text = "Number of occurrences of cron jobs by what became of them"
        families.append(counter("ojs_cron_occurrences", text, "outcome", counts.cron.items()))
    text = "Unix time of a mark on the charts, such as a deployment"
    times = {mark.label: mark.at_ms / 1000 for mark in counts.marks}
    families.append(gauge("ojs_mark_timestamp_seconds", text, "label", times.items()))
    if counts.memory:
        used = {address: used for address, (used, _) in sorted(counts.memory.items())}
        limit = {address: limit for address, (_, limit) in sorted(counts.memory.items())}
        families += [
            gauge("ojs_redis_memory_bytes", "Memory of a Redis master", "master", used.items()),
            gauge(
                "ojs_redis_memory_limit_bytes",
                "Limit of the memory of a Redis master; 0 for none",
                "master",
                limit.items(),
            ),
        ]
    return families


def store_families(numbers: ClusterMetrics) -> Families:
    """Return the metrics of all other data."""
    late = ((loop, ms / 1000) for loop, ms in sorted(numbers.late_ms.items()))
    queues: Families = []
    if numbers.registered is not None:
        text = "Number of all queues, including queues without metrics of their own"
        queues.append(plain_gauge("ojs_queues", text, numbers.registered))
        text = "Number of queues without metrics that may need attention"
        queues.append(plain_gauge("ojs_queues_unwatched", text, numbers.unwatched))
    if numbers.bulk_operations is not None:
        text = "Number of bulk operations that are not over"
        queues.append(plain_gauge("ojs_bulk_operations", text, numbers.bulk_operations))
    return [
        *queues,
        *count_families(numbers.counts),
        plain_gauge(
            "ojs_shards_unreachable",
            "Number of shards that do not respond to this process",
            numbers.unreachable,
        ),
        plain_gauge(
            "ojs_outbox_waiting",
            "Number of effects that are not delivered to their shards yet",
            numbers.outbox_entries,
        ),
        plain_gauge(
            "ojs_outbox_dead_letters",
            "Number of effects that failed too often and wait for an operator",
            numbers.outbox_dead_letters,
        ),
        counter(
            "ojs_webhook_deliveries",
            "Number of attempts to deliver webhooks, and of events that were dropped, by status",
            "status",
            [
                # "full" counts events that were dropped because too many deliveries were pending.
                ("dropped" if status == "full" else status, number)
                for status, number in numbers.webhooks.items()
                if status != "pending"
            ],
        ),
        plain_gauge(
            "ojs_webhook_pending",
            "Number of webhook deliveries that have not ended",
            numbers.webhooks["pending"],
        ),
        gauge(
            "ojs_scheduler_late_seconds",
            "How long the oldest work of a scheduler loop has been due without being done",
            "loop",
            late,
        ),
    ]
