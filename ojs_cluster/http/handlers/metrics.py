"""Serve metrics to Prometheus (spec: ojs-observability)."""

from __future__ import annotations

import time

from ojs_cluster.core.jobs.states import State
from ojs_cluster.http import exposition, metric_families, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.system import MetricsSummary


async def scrape(app: App, request: Request) -> Response:
    """Return the metrics of the cluster, and the metrics of this node's responses.

    (spec: ojs-observability)
    """
    node = [*metric_families.traffic_families(app.traffic), app.maintenance.family()]
    return await exposition.exposition(request, node, app.cluster_exposition)


async def summary(app: App, request: Request) -> Response:
    """Return the most important numbers of the cluster as JSON.

    With ``format=prometheus`` the response is that of ``/metrics``. The counters sum the queues
    that ``/metrics`` shows.
    """
    if query.parameters(request.query).get("format") == "prometheus":
        return await scrape(app, request)
    found = await app.overview.get()
    queues = (await app.cached_metrics.get()).queues.values()
    stats = found.stats
    return replies.json_response(
        200,
        MetricsSummary(
            uptime_seconds=int(time.monotonic() - app.started),
            jobs_enqueued_total=sum(queue.enqueued for queue in queues),
            jobs_completed_total=sum(queue.completed for queue in queues),
            jobs_failed_total=sum(queue.discarded for queue in queues),
            jobs_active=stats.counts[State.ACTIVE],
            jobs_available=stats.counts[State.AVAILABLE],
            queues_active=found.counted - found.paused,
            workers_active=found.workers - found.worker_states.get("stale", 0),
            avg_latency_ms=stats.avg_wait_ms,
            avg_duration_ms=stats.avg_duration_ms,
            throughput_per_second=round(stats.completed_per_minute / 60, 3),
        ),
    )
