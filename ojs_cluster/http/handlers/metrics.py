"""Serve metrics to Prometheus (spec: ojs-observability)."""

from __future__ import annotations

from ojs_cluster.http import exposition
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response


async def scrape(app: App, request: Request) -> Response:
    """Return the metrics of the cluster, and those of this node's responses.

    ``GET /metrics`` (spec: ojs-observability)
    """
    found = await exposition.cluster_families(
        app.store, app.collected, app.settings.health_timeout_s
    )
    return exposition.exposition(request, [*found, *exposition.traffic_families(app.traffic)])
