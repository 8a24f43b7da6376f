"""The routes of what the users of the dashboard share."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers.admin import marks
from ojs_cluster.http.routing.router import V1, Route

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", f"{V1}/admin/marks", marks.list_marks, Scope.ADMIN_READ),
    Route("POST", f"{V1}/admin/marks", marks.add, Scope.ADMIN_WRITE, action="mark.add"),
    Route(
        "DELETE", f"{V1}/admin/marks/{{id}}", marks.drop, Scope.ADMIN_WRITE, action="mark.delete"
    ),
)
