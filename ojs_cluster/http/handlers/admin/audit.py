"""Read the audit: administrative changes and refused requests."""

from __future__ import annotations

from ojs_cluster.http import fields, query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.bulk import AuditList
from ojs_cluster.store.operators.operations import audit as store_audit
from ojs_cluster.store.operators.operations.audit import AuditFilter


async def list_entries(app: App, request: Request) -> Response:
    """List audit entries, newest first.

    A page may have fewer entries than ``limit`` although other pages follow. If other pages follow,
    it has a ``next_cursor``.
    """
    given = query.parameters(request.query)
    limit = query.integer(given, "limit", 50, low=1, high=500)
    wanted = AuditFilter(
        principal=given.get("principal") or None,
        action=given.get("action") or None,
        object=given.get("object") or None,
        since_ms=fields.absolute_time_ms(given.get("since") or None, field="since"),
        until_ms=fields.absolute_time_ms(given.get("until") or None, field="until"),
    )
    page = await store_audit.read_entries(
        app.store, wanted, limit=limit, cursor=given.get("cursor") or None
    )
    pages = replies.pagination(limit=limit, shown=len(page.entries), cursor=page.cursor)
    return replies.json_response(200, AuditList(entries=page.entries, pagination=pages))
