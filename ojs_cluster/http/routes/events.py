"""The routes of events and their streams."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import event_streams, events
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        f"{V1}/events",
        events.list_events,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "GET",
        f"{V1}/events/stream",
        event_streams.stream_events,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "GET",
        f"{V1}/ws",
        event_streams.upgrade,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
)
