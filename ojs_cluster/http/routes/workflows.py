"""The routes of workflows."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import workflows
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        f"{V1}/workflows",
        workflows.create,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        batch=True,
        request_class="enqueue",
    ),
    Route(
        "GET",
        f"{V1}/workflows",
        workflows.list_workflows,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route("GET", f"{V1}/workflows/{{id}}", workflows.get, Scope.DATA_READ, QueueAccess.WORKFLOW),
    Route(
        "DELETE", f"{V1}/workflows/{{id}}", workflows.cancel, Scope.DATA_WRITE, QueueAccess.WORKFLOW
    ),
    Route(
        "POST",
        f"{V1}/workflows/{{id}}/cancel",
        workflows.cancel,
        Scope.DATA_WRITE,
        QueueAccess.WORKFLOW,
    ),
    Route(
        "GET",
        f"{V1}/workflows/{{id}}/progress",
        workflows.progress,
        Scope.DATA_READ,
        QueueAccess.WORKFLOW,
    ),
)
