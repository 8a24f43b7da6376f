"""Serve a request that a page of the dashboard makes for its user, in this process.

Such a request has the principal that the page has authenticated. It passes the same checks as a
request from outside: the scope, the request rate and the queues of the API key, maintenance mode,
and the audit.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.access.tenants import check_route
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import PreparedRequest, run
from ojs_cluster.http.errors import entry_for, error_response
from ojs_cluster.http.messages import PageRequest, Response
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.http.routes.all_routes import router_for
from ojs_cluster.http.routing.router import Route

_CHANGE_S: Final = 60.0
"""Maximum time in seconds of a change after its client has disconnected."""


async def call_as(app: App, request: PageRequest, action: str = "") -> Response:
    """Return the response to a request of a page.

    A change runs to its end although the client disconnects. Otherwise half of it could be made.

    Args:
        app: the state of the process.
        request: the request. Its headers and peer name the client in the audit.
        action: the name of the change in the audit, if the route has none of its own. Changes that
            workers and producers make are not audited, but the same changes by people are.
    """
    prepared = _prepare(app, request, action)
    with trio.CancelScope(shield=request.method != "GET") as scope:
        if scope.shield:
            scope.deadline = trio.current_time() + _CHANGE_S
        return await run(app, prepared, request)
    raise RuntimeError("a change did not end in time")


def _prepare(app: App, request: PageRequest, action: str) -> PreparedRequest:
    """Find the route of a request and check the principal's scope, or refuse it."""
    principal = request.principal
    began, request_id = time.perf_counter(), new_request_id()
    route: Route | None = None
    params: tuple[str, ...] = ()
    try:
        route, params = router_for(app.settings.test_hooks).match(request.method, request.path)
        route = replace(route, action=route.action or action)
        app.access.authorize(principal, route)
        check_route(route, principal.tenant)
    except OJSError as error:
        status = entry_for(error).status
        app.audit.record_refusal(
            request, request_id, error, status, route=route, params=params, principal=principal
        )
        refusal = error_response(error, request_id)
        app.traffic.count(None, refusal.status, time.perf_counter() - began)
        return PreparedRequest(request_id, None, (), 0, refusal, began, app)
    max_body = app.settings.bodies.max_bytes
    return PreparedRequest(
        request_id, route, params, max_body, None, began, app, None, principal, principal.tenant
    )
