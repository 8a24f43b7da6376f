"""The first door: a Quart-trio application for hypercorn that serves the route table.

Requests are answered from inside Quart's connection class (its documented extension point,
``asgi_http_class``), before Quart routes anything. So unknown paths, odd methods and every error
come from the dispatcher with its headers, and the raw path decides. A ``before_request`` hook was
refused: it runs after Quart has built a request and an URL adapter from the decoded path, which
costs more than the rest of a small request. Pages and WebSockets registered with Quart are served
by Quart: a path that the table does not know is offered to it.

A client that hangs up: hypercorn sends ``http.disconnect``, and `_Connection._listen` cancels a
handler that only reads or waits. A client that closes just its sending side looks the same.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from msgspec import structs
from quart import current_app, has_request_context
from quart import request as quart_request
from quart import websocket as quart_websocket
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import HTTPException

from ojs_cluster.core.errors import Internal, InvalidRequest, MethodNotAllowed, NotFound, OJSError
from ojs_cluster.http.app import App
from ojs_cluster.http.body_memory import SMALL, Held, no_room
from ojs_cluster.http.dispatch import prepare, refuse, run, too_large, too_late, undo
from ojs_cluster.http.hypercorn.asgi import read_head, send_body, send_response, send_start
from ojs_cluster.http.messages import Request, Response


def create_quart_app(app: App) -> OJSQuart:
    """A Quart application that serves ``app``. Opening and closing the store is the caller's."""
    quart = OJSQuart("ojs_cluster", static_folder=None, template_folder=None)
    quart.ojs = app
    quart.register_error_handler(HTTPException, _error_page)
    return quart


class OJSQuart(QuartTrio):
    """Quart whose HTTP connections first ask the route table of ``ojs``."""

    ojs: App

    def has_page(self, request: Request, path: str) -> bool:
        """Whether a page registered with Quart answers this method on the decoded ``path``."""
        return self.url_map.bind("").test(path, request.method)


class _Connection(TrioASGIHTTPConnection):
    """One request and its response."""

    app: OJSQuart

    def __init__(self, app: OJSQuart, scope: HTTPScope) -> None:
        super().__init__(app, scope)
        self._head = read_head(scope)
        self._call = prepare(app.ojs, self._head)
        length = self._head.headers.get("content-length", "")
        self._declared = int(length) if length.isdigit() else None
        self._body = bytearray()
        self._room = Held(app.ojs.room)
        self._fits = True
        self._enough = trio.Event()
        """The body is complete, or larger than the route takes, or than there is room for."""
        self._ended = trio.Event()
        self._listening = trio.CancelScope()
        self._answering = trio.CancelScope()

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        refusal = self._call.refusal
        if refusal is not None and refusal.status == 404:
            path = self.scope["path"]
            if path.startswith("/") and self.app.has_page(self._head, path):
                await super().__call__(receive, send)
                return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, receive)
            response: Response | None = None
            with self._answering, self._room:
                response = await self._answer()
            if response is not None:
                await self._send(response, receive, send)
            nursery.cancel_scope.cancel()

    async def _listen(self, receive: ASGIReceiveCallable) -> None:
        """Collect the body, drop what is too much of it, and notice when the client is gone."""
        with self._listening:
            while True:
                message: Any = await receive()
                if message["type"] == "http.disconnect":
                    if self._leaves_nothing_undone():
                        self._answering.cancel()
                    return
                more = message.get("more_body", False)
                self._take(message.get("body", b""), more=more)
                if not more:
                    self._enough.set()
                    self._ended.set()

    def _take(self, piece: bytes, *, more: bool) -> None:
        limit = self._call.max_body
        if self._fits and len(self._body) <= limit:
            # One byte too many is kept: it tells that there were more.
            self._body += piece[: limit + 1 - len(self._body)]
            size = len(self._body)
            self._make_room(size, complete=not more or size == self._declared)
            if len(self._body) > limit:
                self._enough.set()

    def _make_room(self, size: int, *, complete: bool = True) -> None:
        self._fits = self._fits and self._room.fits(size, complete=complete)
        if not self._fits:
            self._body.clear()
            self._enough.set()

    def _leaves_nothing_undone(self) -> bool:
        """Whether the handler may be cancelled where it is: it has not begun, or it reads or waits.

        One that writes goes on to its end, for the client would otherwise decide by when it hangs
        up which half of a batch is stored. Sending is never cancelled: the message also follows
        every complete response, while hypercorn still prepares the connection for the next request,
        and a cancellation there leaves it neither closed nor timed.
        """
        route = self._call.route
        return not self._ended.is_set() or route is None or route.waits or route.method == "GET"

    async def _send(
        self, response: Response, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        # hypercorn lets failed writes pass in silence, but for one: when a client hangs up in the
        # middle of its request, the socket is closed under our response.
        with suppress(trio.BusyResourceError, trio.ClosedResourceError):
            if response.undelivered is None:
                await send_response(response, send)
            elif self._answering.cancel_called:
                await undo(response)
            else:
                self._listening.cancel()
                await _deliver(response, receive, send)

    async def _answer(self) -> Response:
        call, head = self._call, self._head
        response = call.refusal
        if response is None:
            try:
                body = await self._read_body()
            except OJSError as error:
                response = refuse(head, call, error)
            else:
                request = structs.replace(head, body=body)
                return await run(self.app.ojs, call, request)
        # Answering while the client still sends closes the connection under it, and many clients
        # then report a broken pipe instead of the error. So the rest is read for a moment.
        # Over HTTP/2 the stream ends alone, and lingering would hold its headers for nothing.
        if not self._ended.is_set() and self.scope["http_version"] != "2":
            with trio.move_on_after(self.app.ojs.settings.linger_s):
                await self._ended.wait()
        return response

    async def _read_body(self) -> bytes:
        if self._declared is not None:
            if self._declared > self._call.max_body:
                raise too_large(self._call)
            if self._declared > SMALL:
                self._make_room(self._declared)
        timeout_s = self.app.ojs.settings.body_timeout_s
        with trio.move_on_after(timeout_s):
            await self._enough.wait()
        if not self._enough.is_set():
            raise too_late(timeout_s)
        if not self._fits:
            raise no_room()
        if len(self._body) > self._call.max_body:
            raise too_large(self._call)
        body = bytes(self._body)
        self._body.clear()
        return body


OJSQuart.asgi_http_class = _Connection  # type: ignore[assignment] # its app is always an OJSQuart


async def _deliver(
    response: Response, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Send a response that has to be undone when it cannot be sent.

    The request's body has been received, so the next message can only be ``http.disconnect``.
    hypercorn swallows a failed write and queues that message before ``send`` returns. A client that
    got everything and hung up causes the same message a moment later, and its jobs must stay its
    own. So the last byte waits until the queue has been looked at: whoever hung up before it has no
    complete response, and after it nothing is undone. The look is a receive whose deadline is past:
    it strikes in the next turn of the event loop.
    """
    delivered = False
    try:
        await send_start(response, send)
        await send_body(response.body[:-1], send, more=True)
        with trio.CancelScope() as look:
            look.deadline = trio.current_time()
            await receive()
        delivered = look.cancelled_caught
    finally:
        if not delivered:
            await undo(response)
    if delivered:
        await send_body(response.body[-1:], send, more=False)


async def _error_page(error: HTTPException) -> TrioResponse:
    """Quart's own errors (a WebSocket to nowhere, a page that fails) in the shape of all others."""
    context: Any = quart_request if has_request_context() else quart_websocket
    head = read_head(context.scope)
    quart = cast(OJSQuart, current_app)
    call = prepare(quart.ojs, head)
    response = call.refusal
    if response is None or response.status != 401:
        response = refuse(head, call, _page_error(error, head))
    return TrioResponse(response.body, response.status, dict(response.headers))


def _page_error(error: HTTPException, head: Request) -> OJSError:
    if error.code == 404:
        return NotFound("endpoint", head.path[:200])
    if error.code == 405:
        return MethodNotAllowed(f"{head.method[:32]} is not allowed here")
    if error.code is not None and error.code < 500:
        return InvalidRequest(error.description or "the request cannot be served")
    return Internal("a page failed")
