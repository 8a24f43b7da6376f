"""The manifest, health, metrics, and the document itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import metrics, system
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.openapi.endpoint import DocumentEndpoint
from ojs_cluster.http.openapi.parameters import IF_NONE_MATCH, text
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import system as shapes

_HEALTH: Final = OperationDetails(
    {200: shapes.HealthAnswer, 503: Answer(shapes.HealthAnswer, "No master of Redis responds.")}
)
_TEXT: Final = "text/plain"
_OPEN_METRICS: Final = "application/openmetrics-text"
_DOCUMENT: Final = Answer(
    dict,
    "The document.",
    "application/json",
    {"ETag": "The entity tag of the document.", "Cache-Control": "Always `no-cache`."},
)

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    system.manifest: OperationDetails({200: shapes.Manifest}),
    system.health: _HEALTH,
    system.alive: OperationDetails({200: shapes.HealthAnswer}),
    system.live: OperationDetails({200: shapes.Alive}),
    system.ready: OperationDetails(
        {200: shapes.Ready, 503: Answer(shapes.Ready, "The process cannot serve requests.")}
    ),
    metrics.scrape: OperationDetails(
        {200: Answer(str, "The metrics, for Prometheus.", _TEXT, also=(_OPEN_METRICS,))}
    ),
    metrics.summary: OperationDetails(
        {200: Answer(shapes.MetricsSummary, also=(_TEXT, _OPEN_METRICS))},
        parameters=(
            text("format", "`prometheus` for the response of `/metrics`.", enum=["prometheus"]),
        ),
    ),
    DocumentEndpoint.get: OperationDetails(
        {200: _DOCUMENT, 304: Answer(description="The copy of the client is current.")},
        parameters=(IF_NONE_MATCH,),
    ),
}
