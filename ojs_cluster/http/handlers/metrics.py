"""Serve metrics to Prometheus (spec: ojs-observability)."""

from __future__ import annotations

from ojs_cluster.http import exposition
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response


async def scrape(app: App, request: Request) -> Response:
    """Return the metrics of the cluster, and the metrics of this node's responses.

    ``GET /metrics`` (spec: ojs-observability)
    """
    cluster = await exposition.cluster_families(
        app.store, app.cached_metrics, app.settings.health_timeout_s
    )
    return exposition.exposition(request, [*cluster, *exposition.traffic_families(app.traffic)])
