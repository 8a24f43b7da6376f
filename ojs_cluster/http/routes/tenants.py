"""The routes about tenants.

Those about one tenant also serve requests for this tenant. The others are about all tenants, so a
request for one tenant gets 403.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.admin import tenants
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

_TENANTS: Final = f"{V1}/admin/tenants"
_TENANT: Final = f"{_TENANTS}/{{id}}"
_OWN: Final = (Scope.ADMIN_READ, QueueAccess.CLUSTER, TenantAccess.HANDLER)

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", _TENANTS, tenants.list_tenants, Scope.ADMIN_READ),
    Route("GET", _TENANT, tenants.get, *_OWN),
    Route("PUT", _TENANT, tenants.put, Scope.ADMIN_WRITE, action="tenant.set"),
    Route("DELETE", _TENANT, tenants.drop, Scope.ADMIN_WRITE, action="tenant.delete"),
    Route(
        "PUT",
        f"{_TENANT}/limits",
        tenants.put_limits,
        Scope.ADMIN_WRITE,
        action="tenant.set_limits",
    ),
    Route("GET", f"{_TENANT}/stats", tenants.stats, *_OWN),
    Route("GET", f"{_TENANT}/jobs", tenants.list_jobs, *_OWN),
)
