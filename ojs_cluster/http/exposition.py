"""ClusterMetrics in the forms that Prometheus reads (docs/metrics.md is the list of them)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from ojs_cluster import __version__
from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.traffic import BOUNDS_S, Traffic
from ojs_cluster.store.context import Store
from ojs_cluster.store.operations.metrics import CachedMetrics, ClusterMetrics, QueueMetrics

Families = list[Metric]


class _Given:
    """A collector of what has been collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(request: Request, families: Families) -> Response:
    """Answer a scrape, in the format that it accepts."""
    accept = request.headers.get("accept", "")
    try:
        encode, content_type = choose_encoder(accept)
    except TypeError:  # a version that is no version
        encode, content_type = choose_encoder("")
    if accept.strip().lower() == "text/plain":
        content_type = "text/plain"  # who asks for just this compares it (ext-observability)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(families))
    headers = (("Content-Type", content_type), ("Cache-Control", "no-store"))
    return Response(200, encode(registry), headers)


async def cluster_families(store: Store, collected: CachedMetrics, timeout_s: float) -> Families:
    """What Redis knows, and whether it answers. Redis being away is an answer, not a failure."""
    numbers: ClusterMetrics | None = None
    with trio.move_on_after(timeout_s):
        try:
            numbers = await collected.get()
        except OJSError:
            numbers = None
    redis = store.redis
    families: Families = [
        number("ojs_redis_up", "Whether Redis answered this process", int(numbers is not None)),
        number("ojs_redis_masters", "Masters known", len(redis.topology.masters)),
        number("ojs_redis_covered", "Whether every slot has a master", int(redis.healthy)),
        build_info(),
    ]
    return families if numbers is None else [*families, *_queues(numbers), *_cluster(numbers)]


def build_info() -> Metric:
    """Which version is running."""
    info = GaugeMetricFamily("ojs_build_info", "Always 1", labels=["version"])
    info.add_metric([__version__], 1)
    return info


def traffic_families(traffic: Traffic) -> Families:
    """What this node's processes have answered."""
    requests = CounterMetricFamily(
        "ojs_http_requests", "Responses of this node", labels=["method", "route", "status"]
    )
    seconds = HistogramMetricFamily(
        "ojs_http_request_duration_seconds",
        "Time from a request's head to its response, long polls included",
        labels=["method", "route"],
    )
    for row in traffic.rows():
        names = [row.method or "other", row.template or "other"]
        for status, count in row.statuses.items():
            requests.add_metric([*names, status], count)
        bounds = [*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"]
        buckets = list(zip(bounds, accumulate(row.buckets), strict=True))
        seconds.add_metric(names, buckets, row.seconds)
    return [requests, seconds, audit_family(traffic)]


def audit_family(traffic: Traffic) -> Metric:
    """What became of audit entries of this node."""
    return counter(
        "ojs_audit_entries",
        "Audit entries written to Redis, or dropped because it was away for long",
        "outcome",
        [("written", traffic.total("audit_written")), ("dropped", traffic.total("audit_dropped"))],
    )


def gauge(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """One gauge with one label."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def counter(name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
    """One counter with one label; ``_total`` is added to its name."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in values:
        family.add_metric([value], number)
    return family


def number(name: str, text: str, value: float) -> Metric:
    """One gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def _queues(numbers: ClusterMetrics) -> Families:
    queues = numbers.queues

    def each(of: Any) -> list[tuple[str, float]]:
        return [(name, of(queue)) for name, queue in queues.items()]

    jobs = GaugeMetricFamily(
        "ojs_queue_jobs", "Jobs now, finished ones until retention ends", labels=["queue", "state"]
    )
    ran = SummaryMetricFamily(
        "ojs_job_duration_seconds", "Execution of completed jobs", labels=["queue"]
    )
    waited = SummaryMetricFamily(
        "ojs_job_queue_time_seconds",
        "Wait of completed jobs before their last attempt",
        labels=["queue"],
    )
    for name, queue in queues.items():
        for state, count in queue.jobs.items():
            jobs.add_metric([name, state.value], count)
        ran.add_metric([name], queue.completed, queue.run_ms / 1000)
        waited.add_metric([name], queue.completed, queue.wait_ms / 1000)
    return [
        counter("ojs_job_enqueued", "Jobs enqueued", "queue", each(lambda q: q.enqueued)),
        counter("ojs_job_completed", "Jobs completed", "queue", each(lambda q: q.completed)),
        counter("ojs_job_failed", "Attempts failed", "queue", each(lambda q: q.failed)),
        ran,
        waited,
        gauge(
            "ojs_queue_depth",
            "Jobs that wait: available, scheduled, retryable",
            "queue",
            each(_depth),
        ),
        jobs,
        gauge(
            "ojs_queue_oldest_available_age_seconds",
            "How long the longest waiting available job has been available; 0 without any",
            "queue",
            each(lambda q: q.oldest_ms / 1000),
        ),
        gauge("ojs_queue_paused", "Whether it is paused", "queue", each(lambda q: int(q.paused))),
        gauge("ojs_queue_dead_letters", "Dead letters", "queue", each(lambda q: q.dead_letters)),
    ]


def _depth(queue: QueueMetrics) -> int:
    return sum(queue.jobs[state] for state in _WAITING)


_QUEUES = "Queues, also those that are not shown"
_WAITING = tuple(
    state for state in QueueMetrics().jobs if state.value in ("available", "scheduled", "retryable")
)


def _cluster(numbers: ClusterMetrics) -> Families:
    late = ((loop, ms / 1000) for loop, ms in sorted(numbers.late_ms.items()))
    registered = numbers.registered
    queues = [] if registered is None else [number("ojs_queues", _QUEUES, registered)]
    return [
        *queues,
        number("ojs_shards_away", "Shards that did not answer this process", numbers.unreachable),
        number("ojs_outbox_waiting", "Effects owed and not delivered yet", numbers.outbox_entries),
        number(
            "ojs_outbox_parked",
            "Effects given up until an operator looks",
            numbers.outbox_dead_letters,
        ),
        gauge(
            "ojs_scheduler_late_seconds",
            "How long the first due work of a kind has waited for a scheduler",
            "loop",
            late,
        ),
    ]
