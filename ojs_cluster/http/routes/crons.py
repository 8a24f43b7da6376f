"""The routes of cron jobs."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import cron, cron_backfill
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        f"{V1}/cron",
        cron.list_crons,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "POST",
        f"{V1}/cron",
        cron.register,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route("GET", f"{V1}/cron/{{name}}", cron.get, Scope.DATA_READ, QueueAccess.CRON),
    Route("PATCH", f"{V1}/cron/{{name}}", cron.change, Scope.DATA_WRITE, QueueAccess.CRON),
    Route("DELETE", f"{V1}/cron/{{name}}", cron.drop, Scope.DATA_WRITE, QueueAccess.CRON),
    Route(
        "POST",
        f"{V1}/cron/{{name}}/trigger",
        cron.trigger,
        Scope.DATA_WRITE,
        QueueAccess.CRON,
        request_class="enqueue",
    ),
    Route(
        "POST",
        f"{V1}/cron/{{name}}/backfill",
        cron_backfill.run,
        Scope.DATA_WRITE,
        QueueAccess.CRON,
        request_class="enqueue",
    ),
    Route("POST", f"{V1}/cron/{{name}}/pause", cron.pause, Scope.DATA_WRITE, QueueAccess.CRON),
    Route("POST", f"{V1}/cron/{{name}}/resume", cron.resume, Scope.DATA_WRITE, QueueAccess.CRON),
    Route("GET", f"{V1}/cron/{{name}}/history", cron.history, Scope.DATA_READ, QueueAccess.CRON),
    Route(
        "GET",
        f"{V1}/crons",
        cron.list_crons,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "POST",
        f"{V1}/crons",
        cron.register,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route("GET", f"{V1}/crons/{{name}}", cron.get, Scope.DATA_READ, QueueAccess.CRON),
    Route("PATCH", f"{V1}/crons/{{name}}", cron.change, Scope.DATA_WRITE, QueueAccess.CRON),
    Route("DELETE", f"{V1}/crons/{{name}}", cron.drop, Scope.DATA_WRITE, QueueAccess.CRON),
)
