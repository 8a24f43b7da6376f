"""The routes of worker pools."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.admin import pools
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        f"{V1}/admin/pools",
        pools.list_pools,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "GET",
        f"{V1}/admin/pools/{{name}}",
        pools.get,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "PUT",
        f"{V1}/admin/pools/{{name}}",
        pools.put,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
        action="pool.set",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/pools/{{name}}",
        pools.drop,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
        action="pool.delete",
    ),
    Route(
        "GET",
        f"{V1}/admin/scheduling/stats",
        pools.stats,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
)
