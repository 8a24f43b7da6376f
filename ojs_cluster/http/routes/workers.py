"""The routes of workers."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import progress
from ojs_cluster.http.handlers.workers import fetch, heartbeat, settle, settle_many
from ojs_cluster.http.handlers.workers import list_workers as workers
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess, with_aliases

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        f"{V1}/workers/fetch",
        fetch.fetch,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        waits_for_jobs=True,
        fast=True,
        request_class="fetch",
    ),
    Route(
        "POST",
        f"{V1}/workers/ack",
        settle.ack,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        fast=True,
    ),
    Route(
        "POST",
        f"{V1}/workers/nack",
        settle.nack,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        fast=True,
    ),
    Route(
        "POST",
        f"{V1}/workers/ack/batch",
        settle_many.ack_many,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        batch=True,
        fast=True,
    ),
    Route(
        "POST",
        f"{V1}/workers/nack/batch",
        settle_many.nack_many,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        batch=True,
        fast=True,
    ),
    *with_aliases(
        Route(
            "POST",
            f"{V1}/workers/heartbeat",
            heartbeat.receive,
            Scope.WORKER,
            QueueAccess.HANDLER,
            TenantAccess.HANDLER,
            fast=True,
        ),
        f"{V1}/workers/beat",
    ),
    Route(
        "POST",
        f"{V1}/workers/progress",
        progress.report,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route("GET", f"{V1}/workers", workers.list_workers, Scope.DATA_READ),
    # Any worker key could send the heartbeat that this needs, so the queues of a key do not matter.
    Route(
        "DELETE",
        f"{V1}/workers/{{id}}",
        heartbeat.deregister,
        Scope.WORKER,
        QueueAccess.NONE,
        TenantAccess.NONE,
    ),
    Route("GET", f"{V1}/workers/{{id}}/health", workers.health, Scope.DATA_READ),
)
