"""Accept WebSocket connections (spec: ojs-realtime 3.1).

A refused connection gets an HTTP response with an error, like any other request.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

from msgspec import structs

from ojs_cluster.core.errors import OJSError, StreamRefused
from ojs_cluster.http.access.browsers import check_origin
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import PreparedRequest, refusal_response
from ojs_cluster.http.messages import DIRECT, Request, Response
from ojs_cluster.http.push.access import STREAM_SCOPE, StreamAccess
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.websocket.session import WebSocketSession
from ojs_cluster.redis.deadline import start_deadline

PATH: Final = "/ojs/v1/ws"
SUBPROTOCOL: Final = "ojs.v1"
_SWITCHING_PROTOCOLS: Final = 101
"""The HTTP status of an accepted connection."""


async def serve(
    prepared: PreparedRequest, request: Request, scope: Any, receive: Any, send: Any
) -> None:
    """Serve a WebSocket connection to ``PATH``.

    Args:
        prepared: what ``prepare`` returned for its request.
        request: the request.
        scope: its ASGI scope.
        receive: returns the next ASGI message.
        send: sends an ASGI message.
    """
    app = prepared.app
    start_deadline()  # each later call to Redis gets a deadline of its own
    await receive()  # websocket.connect
    response = prepared.refusal
    session: WebSocketSession | None = None
    if response is None and prepared.route is not None:
        request = structs.replace(request, queues=prepared.principal.queues, tenant=prepared.tenant)
        try:
            session = _open(app, prepared, prepared.route, request)
        except OJSError as error:
            response = refusal_response(request, prepared, error)
    if session is None:
        if response is not None:
            await _refuse(response, send)
        return
    try:
        chosen = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": []})
        app.traffic.count(
            prepared.route, _SWITCHING_PROTOCOLS, time.perf_counter() - prepared.began
        )
        if prepared.span is not None:
            prepared.span.end(_SWITCHING_PROTOCOLS)
        code = await session.run(receive, partial(_send_text, send), scope.get(DIRECT))
        await send({"type": "websocket.close", "code": code, "reason": ""})
    finally:
        session.close()


def _open(app: App, prepared: PreparedRequest, route: Route, request: Request) -> WebSocketSession:
    """Return a session for a request.

    Raises:
        PermissionDenied: a page of another origin has opened the connection.
        StreamRefused: the process shuts down, or has as many streams as it may have.
        RateLimited: the client has as many streams as it may have.
    """
    check_origin(request, app.settings.cors_origins)
    if app.draining.is_set():
        raise StreamRefused("this process shuts down")
    access = StreamAccess(app, request, STREAM_SCOPE)
    client = access.client_name
    app.push.open(client)
    # Authorizing each message also counts it against the request rate of the API key.
    count_message = partial(app.access.authorize, prepared.principal, route)
    return WebSocketSession(access, client, count_message)


async def _refuse(response: Response, send: Any) -> None:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers
    ]
    headers.append((b"content-length", b"%d" % len(response.body)))
    await send(
        {
            "type": "websocket.http.response.start",
            "status": response.status,
            "headers": headers,
        }
    )
    await send({"type": "websocket.http.response.body", "body": response.body, "more_body": False})


async def _send_text(send: Any, text: str) -> None:
    await send({"type": "websocket.send", "bytes": None, "text": text})
