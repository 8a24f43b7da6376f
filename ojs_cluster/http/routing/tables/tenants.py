"""The routes about tenants. A request for one tenant gets 403: they are about all tenants."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.admin import tenants
from ojs_cluster.http.routing.router import V1, Route

_TENANT: Final = f"{V1}/admin/tenants/{{id}}"

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", f"{_TENANT}/stats", tenants.stats, Scope.ADMIN_READ),
    Route("GET", f"{_TENANT}/jobs", tenants.list_jobs, Scope.ADMIN_READ),
)
