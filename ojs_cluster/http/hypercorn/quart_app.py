"""The hypercorn entry point: a Quart-trio application that serves the route table.

``_QuartConnection`` answers requests before Quart routes them. It is Quart's documented extension
point ``asgi_http_class``. So the dispatcher sees the raw path, and it also answers unknown paths,
unusual methods and errors. A ``before_request`` hook was refused: it runs after Quart has built a
request and a URL adapter from the decoded path, which costs more than the rest of a small request.
Quart gets only the requests whose path is not in the route table. It serves the pages and
WebSockets that are registered with it.

When a client disconnects, hypercorn sends ``http.disconnect``, and ``_QuartConnection._listen``
cancels a handler that only reads or waits. hypercorn sends the same message when a client closes
only its sending side, so such a client counts as disconnected, too.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, WebsocketScope
from msgspec import structs
from quart import current_app, has_request_context
from quart import request as quart_request
from quart import websocket as quart_websocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.errors import Internal, InvalidRequest, MethodNotAllowed, NotFound, OJSError
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import (
    body_timeout,
    body_too_large,
    prepare,
    refusal_response,
    run,
    undo_undelivered,
)
from ojs_cluster.http.hypercorn.asgi import read_head, send_body, send_response, send_start
from ojs_cluster.http.hypercorn.refreshes import RefreshConnection, is_refresh
from ojs_cluster.http.messages import DIRECT, BodyStream, Request, Response
from ojs_cluster.http.pages import FoundPage, PageView
from ojs_cluster.http.request_body.memory import (
    MAX_SMALL_BODY,
    BodyReservation,
    body_memory_exhausted,
)
from ojs_cluster.http.websocket import connection as websocket


def create_quart_app(app: App) -> OJSQuart:
    """Return a Quart application that serves ``app``; the caller opens and closes the store."""
    quart = OJSQuart("ojs_cluster", static_folder=None, template_folder=None)
    quart.ojs, quart.views = app, {}
    quart.register_error_handler(HTTPException, _error_page)
    return quart


class OJSQuart(QuartTrio):
    """Quart whose HTTP connections use the route table of ``ojs`` first."""

    ojs: App
    page_prefixes: tuple[str, ...] = ()
    """Prefixes of paths that need no API key: the dashboard has sessions of its own."""
    views: dict[str, PageView]
    """The views that answer GET requests without Quart, by endpoint."""

    def is_dashboard(self, path: str) -> bool:
        """Return whether the raw ``path`` belongs to the dashboard."""
        return any(path == prefix or path.startswith(prefix + "/") for prefix in self.page_prefixes)

    def find_view(self, path: str) -> FoundPage | None:
        """Return the page at a decoded path; None if it has no view."""
        try:
            endpoint, params = self.url_map.bind("").match(path, "GET")
        except HTTPException:
            return None
        view = self.views.get(endpoint)
        return None if view is None else (view, params)

    def find_page(self, raw_path: str) -> FoundPage | None:
        """Implement ``Pages.find_page``."""
        return self.find_view(unquote(raw_path)) if self.is_dashboard(raw_path) else None

    def has_page(self, request: Request, path: str) -> bool:
        """Return whether Quart has a page for this method on the decoded ``path``.

        "/" is a page for browsers only, which do not get here (``_is_browser_at_root``).
        """
        return path != "/" and self.url_map.bind("").test(path, request.method)


class _QuartConnection(TrioASGIHTTPConnection):
    """One request and its response."""

    app: OJSQuart

    def __init__(self, app: OJSQuart, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        self._head = read_head(scope)
        self._prepared = prepare(app.ojs, self._head)
        length = self._head.headers.get("content-length", "")
        self._declared = int(length) if length.isdigit() else None
        self._body = bytearray()
        self._reservation = BodyReservation(app.ojs.body_memory)
        self._reserved = True
        """Whether the body has fitted into the body memory budget so far."""
        self._body_decided = trio.Event()
        """Set when the body is complete, too large for the route, or too large for the budget."""
        self._body_ended = trio.Event()
        """Set when the last byte of the body has arrived."""
        self._listening = trio.CancelScope()
        self._answering = trio.CancelScope()
        self._streaming = trio.CancelScope()

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        refusal = self._prepared.refusal
        if refusal is not None and refusal.status == 404:
            path = self.scope["path"]
            # ``_connection`` has sent the dashboard to Quart. Here its path can only be an escaped
            # spelling, which a proxy that compares bytes would not protect.
            is_page = path.startswith("/") and not self.app.is_dashboard(path)
            if is_page and self.app.has_page(self._head, path):
                await super().__call__(receive, send)
                return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, receive)
            response: Response | None = None
            with self._answering, self._reservation:
                response = await self._answer()
            if response is not None and response.stream is not None:
                await self._send_stream(response, response.stream, send)
            elif response is not None:
                await self._send(response, receive, send)
            nursery.cancel_scope.cancel()

    async def _listen(self, receive: ASGIReceiveCallable) -> None:
        """Collect the body up to its limit, and notice when the client disconnects."""
        with self._listening:
            while True:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    if self._may_cancel():
                        self._answering.cancel()
                    self._streaming.cancel()
                    return
                more = message.get("more_body", False)
                self._collect(message.get("body", b""), more=more)
                if not more:
                    self._body_decided.set()
                    self._body_ended.set()

    def _collect(self, piece: bytes, *, more: bool) -> None:
        max_body = self._prepared.max_body
        if self._reserved and len(self._body) <= max_body:
            # One byte more than ``max_body`` is kept, to recognize a body that is too large.
            self._body += piece[: max_body + 1 - len(self._body)]
            size = len(self._body)
            self._reserve(size, complete=not more or size == self._declared)
            if len(self._body) > max_body:
                self._body_decided.set()

    def _reserve(self, size: int, *, complete: bool = True) -> None:
        self._reserved = self._reserved and self._reservation.reserve(size, complete=complete)
        if not self._reserved:
            self._body.clear()
            self._body_decided.set()

    def _may_cancel(self) -> bool:
        """Return whether the handler may be cancelled: it has not begun, or it reads or waits.

        A handler that writes runs to its end. Otherwise a client that disconnects could leave half
        of a batch stored. The sending of a response is never cancelled. The reason is that
        hypercorn also sends ``http.disconnect`` after every complete response, while it prepares
        the connection for the next request. A cancellation at that time would leave the connection
        open without a timeout.
        """
        route = self._prepared.route
        begun = self._body_ended.is_set()
        return not begun or route is None or route.waits_for_jobs or route.method == "GET"

    async def _send(
        self, response: Response, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        # hypercorn ignores failed writes. But if a client disconnects in the middle of its request,
        # the socket is closed while the response is sent, and trio raises these errors.
        with suppress(trio.BusyResourceError, trio.ClosedResourceError):
            if response.undo is None:
                await send_response(response, send)
            elif self._answering.cancel_called:
                await undo_undelivered(response)
            else:
                self._listening.cancel()
                await _deliver(response, receive, send)

    async def _send_stream(
        self, response: Response, stream: BodyStream, send: ASGISendCallable
    ) -> None:
        """Send a body without a known end, until it ends or the client disconnects.

        ``http.disconnect`` comes before the end of the response only if the client has
        disconnected. So this message cancels the sending of a stream, but not of other responses.
        """
        if self.scope["http_version"] != "2":
            # A stream often ends because the process shuts down. So the connection closes after it.
            headers = (*response.headers, ("Connection", "close"))
            response = structs.replace(response, headers=headers)
        try:
            with self._streaming, suppress(trio.BusyResourceError, trio.ClosedResourceError):
                await send_start(response, send)
                direct: Any = dict(self.scope).get(DIRECT)
                await stream.run(partial(send_body, send=send, more=True), direct)
                await send_body(b"", send, more=False)
        finally:
            stream.close()

    async def _answer(self) -> Response:
        prepared, head = self._prepared, self._head
        response = prepared.refusal
        if response is None:
            try:
                body = await self._read_body()
            except OJSError as error:
                response = refusal_response(head, prepared, error)
            else:
                request = structs.replace(head, body=body)
                return await run(self.app.ojs, prepared, request)
        # A response that is sent before the body has arrived closes the connection, and many
        # clients then report a broken pipe instead of the error. So the server first reads the rest
        # of the body for ``linger_s``. An HTTP/2 connection stays open, so it needs no such wait.
        if not self._body_ended.is_set() and self.scope["http_version"] != "2":
            with trio.move_on_after(self.app.ojs.settings.bodies.linger_s):
                await self._body_ended.wait()
        return response

    async def _read_body(self) -> bytes:
        if self._declared is not None:
            if self._declared > self._prepared.max_body:
                raise body_too_large(self._prepared)
            if self._declared > MAX_SMALL_BODY:
                self._reserve(self._declared)
        timeout_s = self.app.ojs.settings.bodies.timeout_s
        with trio.move_on_after(timeout_s):
            await self._body_decided.wait()
        if not self._body_decided.is_set():
            raise body_timeout(timeout_s)
        if not self._reserved:
            raise body_memory_exhausted()
        if len(self._body) > self._prepared.max_body:
            raise body_too_large(self._prepared)
        body = bytes(self._body)
        self._body.clear()
        return body


class _QuartWebSocket(TrioASGIWebsocketConnection):
    """One WebSocket. Quart serves those whose path is not ``websocket.PATH``."""

    app: OJSQuart

    def __init__(self, app: OJSQuart, scope: WebsocketScope) -> None:
        super().__init__(app, scope)
        self._head = read_head(scope)

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if self._head.path != websocket.PATH:
            await super().__call__(receive, send)
            return
        prepared = prepare(self.app.ojs, self._head)
        await websocket.serve(prepared, self._head, self.scope, receive, send)


def _connection(app: OJSQuart, scope: HTTPScope) -> TrioASGIHTTPConnection:
    """Return the connection that serves a request. The dashboard has no route in the table."""
    raw_path = scope["raw_path"].decode("latin-1")
    if app.page_prefixes and (app.is_dashboard(raw_path) or _is_browser_at_root(scope)):
        return (RefreshConnection if is_refresh(scope) else TrioASGIHTTPConnection)(app, scope)
    return _QuartConnection(app, scope)


def _is_browser_at_root(scope: HTTPScope) -> bool:
    """Return whether a browser requests the path ``/``."""
    if scope["raw_path"] != b"/" or scope["method"] != "GET":
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


# The base class declares another type of ``app``, but Quart always passes an OJSQuart.
OJSQuart.asgi_http_class = staticmethod(_connection)  # type: ignore[assignment]
OJSQuart.asgi_websocket_class = _QuartWebSocket  # type: ignore[assignment]


async def _deliver(
    response: Response, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Send a response, and undo it if the client disconnects before it is complete.

    hypercorn ignores a failed write and queues the message ``http.disconnect`` before ``send``
    returns. A client that disconnects after the complete response causes the same message, but its
    response must not be undone. So this function sends all bytes but the last one, checks for the
    message, and then sends the last byte or undoes the response. A client that disconnects before
    the check never gets a complete response. After the check the response is not undone.

    The body of the request is complete, so the next message can only be ``http.disconnect``. The
    check is a ``receive`` whose deadline has passed: if no message is queued, trio cancels it in
    the next pass of the event loop.
    """
    delivered = False
    try:
        await send_start(response, send)
        await send_body(response.body[:-1], send, more=True)
        with trio.CancelScope() as check:
            check.deadline = trio.current_time()
            await receive()
        delivered = check.cancelled_caught
    finally:
        if not delivered:
            await undo_undelivered(response)
    if delivered:
        await send_body(response.body[-1:], send, more=False)


async def _error_page(error: HTTPException) -> TrioResponse:
    """Return the OJS error response for an error of Quart: an unknown page, or a page that fails.

    A client without a valid API key gets 401 instead.
    """
    context: Any = quart_request if has_request_context() else quart_websocket
    head = read_head(context.scope)
    quart = cast(OJSQuart, current_app)
    prepared = prepare(quart.ojs, head)
    response = prepared.refusal
    if response is None or response.status != 401:
        response = refusal_response(head, prepared, _page_error(error, head))
    return TrioResponse(response.body, response.status, dict(response.headers))


def _page_error(error: HTTPException, head: Request) -> OJSError:
    if error.code == 404:
        return NotFound("endpoint", head.path[:200])
    if error.code == 405:
        return MethodNotAllowed(f"{head.method[:32]} is not allowed here")
    if error.code is not None and error.code < 500:
        return InvalidRequest(error.description or "the request cannot be served")
    return Internal("a page failed")
