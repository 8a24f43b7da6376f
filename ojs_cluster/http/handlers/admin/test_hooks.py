"""Delete all data, for conformance suites."""

from __future__ import annotations

from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.operators.operations.admin import reset as store_reset


async def reset(app: App, _request: Request) -> Response:
    """Delete all data. The route exists only with test hooks."""
    removed = await store_reset(app.store)
    return replies.json_response(200, {"reset": True, "keys_removed": removed})
