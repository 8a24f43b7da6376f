"""The routes of the manifest, of health and of metrics."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import metrics, system
from ojs_cluster.http.openapi.parameters import text
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import system as shapes

_TEXT: Final = "text/plain"
_OPEN_METRICS: Final = "application/openmetrics-text"

ROUTES: Final = table(
    Route("GET /ojs/manifest", system.manifest, a.READ_NO_QUEUE, {200: shapes.Manifest}),
    Route(
        "GET /ojs/v1/health",
        system.health,
        a.OPEN,
        {
            200: shapes.HealthAnswer,
            503: Answer(shapes.HealthAnswer, "No master of Redis responds."),
        },
        fast=True,
    ),
    Route("GET /health", system.alive, a.OPEN, {200: shapes.HealthAnswer}, fast=True),
    Route(
        "GET /live", system.live, a.OPEN, {200: shapes.Alive}, fast=True, aliases=("GET /healthz",)
    ),
    Route(
        "GET /ready",
        system.ready,
        a.OPEN,
        {200: shapes.Ready, 503: Answer(shapes.Ready, "The process cannot serve requests.")},
        fast=True,
        aliases=("GET /readyz",),
    ),
    Route(
        "GET /metrics",
        metrics.scrape,
        a.ADMIN_READ,
        {200: Answer(str, "The metrics, for Prometheus.", _TEXT, also=(_OPEN_METRICS,))},
        is_scrape=True,
    ),
    Route(
        "GET /ojs/v1/metrics",
        metrics.summary,
        a.ADMIN_READ,
        {200: Answer(shapes.MetricsSummary, also=(_TEXT, _OPEN_METRICS))},
        parameters=(
            text("format", "`prometheus` for the response of `/metrics`.", enum=["prometheus"]),
        ),
    ),
)
