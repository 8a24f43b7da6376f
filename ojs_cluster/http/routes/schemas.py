"""The routes of the registry of schemas.

Every key with a scope to read may read schemas, also one that is restricted to some queues: a
producer needs them, and they contain no data of jobs. A schema changes what is accepted in all
queues, so a restricted key may not register one.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.schemas import by_uri, by_version
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

_DATA: Final = f"{V1}/schemas"
_ADMIN: Final = f"{V1}/admin/schemas"

ROUTES: Final[tuple[Route, ...]] = (
    *(
        Route("GET", template, handler, Scope.DATA_READ, QueueAccess.NONE, TenantAccess.NONE)
        for template, handler in (
            (_DATA, by_uri.list_schemas),
            (f"{_DATA}/{{name}}", by_uri.get),
            (f"{_DATA}/{{type}}/versions", by_uri.list_versions),
            (f"{_DATA}/{{type}}/{{version}}", by_uri.get_version),
        )
    ),
    Route("POST", _DATA, by_uri.register, Scope.ADMIN_WRITE, action="schema.register"),
    Route("DELETE", f"{_DATA}/{{name}}", by_uri.drop, Scope.ADMIN_WRITE, action="schema.delete"),
    Route(
        "DELETE",
        f"{_DATA}/{{type}}/{{version}}",
        by_uri.drop_version,
        Scope.ADMIN_WRITE,
        action="schema.delete",
    ),
    *(
        Route("GET", template, handler, Scope.ADMIN_READ, QueueAccess.NONE, TenantAccess.NONE)
        for template, handler in (
            (_ADMIN, by_version.list_schemas),
            (f"{_ADMIN}/{{type}}", by_version.get_latest),
            (f"{_ADMIN}/{{type}}/versions", by_version.list_versions),
            (f"{_ADMIN}/{{type}}/{{version}}", by_version.get),
        )
    ),
    Route(
        "PUT",
        f"{_ADMIN}/{{type}}",
        by_version.set_policy,
        Scope.ADMIN_WRITE,
        action="schema.configure",
    ),
    Route(
        "PUT",
        f"{_ADMIN}/{{type}}/{{version}}",
        by_version.register,
        Scope.ADMIN_WRITE,
        action="schema.register",
    ),
    Route(
        "DELETE",
        f"{_ADMIN}/{{type}}/{{version}}",
        by_version.drop,
        Scope.ADMIN_WRITE,
        action="schema.delete",
    ),
)
