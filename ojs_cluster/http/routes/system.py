"""The routes of the manifest, of health and of metrics."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import metrics, system
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        "/ojs/manifest",
        system.manifest,
        Scope.DATA_READ,
        QueueAccess.NONE,
        TenantAccess.NONE,
    ),
    Route("GET", f"{V1}/health", system.health, open=True, fast=True),
    Route("GET", "/health", system.alive, open=True, fast=True),
    Route("GET", "/live", system.live, open=True, fast=True),
    Route("GET", "/ready", system.ready, open=True, fast=True),
    Route("GET", "/healthz", system.live, open=True, fast=True),
    Route("GET", "/readyz", system.ready, open=True, fast=True),
    Route("GET", "/metrics", metrics.scrape, Scope.ADMIN_READ, is_scrape=True),
    Route("GET", f"{V1}/metrics", metrics.summary, Scope.ADMIN_READ),
)
