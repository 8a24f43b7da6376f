"""One connection in the fast lane, and its task.

The ``Driver`` of a connection without TLS serves most requests without this task. The task serves
connections with TLS, bodies that arrive in pieces, requests that wait, clients that read slowly,
requests that arrive during a drain, and the pages of the dashboard.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from math import inf
from time import perf_counter
from typing import Protocol, TypeVar

import trio

from ojs_cluster.http.access.certificate_subject import peer_of, subject_of
from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import (
    body_timeout,
    prepare,
    refusal_response,
    run,
    undo_undelivered,
)
from ojs_cluster.http.errors import BodyTimeout
from ojs_cluster.http.fast_lane.driver import Driver, TaskHandoff
from ojs_cluster.http.fast_lane.idle_connections import IdleConnections
from ojs_cluster.http.fast_lane.parser import HeadCache, RequestHead, UnsupportedRequest
from ojs_cluster.http.fast_lane.plain.verbs import PlainVerbs
from ojs_cluster.http.fast_lane.replies import encode
from ojs_cluster.http.fast_lane.routes import is_fast
from ojs_cluster.http.fast_lane.transport import (
    Disconnected,
    SocketLaneTransport,
    TlsStream,
    transport_for,
)
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.pages import BrowserRequest, FoundPage, Pages, has_body
from ojs_cluster.http.request_body.memory import MAX_SMALL_BODY, BodyReservation
from ojs_cluster.redis.deadline import start_deadline, use_deadline

AnyResponse = TypeVar("AnyResponse", Response, Response | None)


class Lane(Protocol):
    """The part of the fast lane that a connection uses.

    Attributes:
        stop: set when the process shuts down; connections that wait for a request then end.
        drained: whether a drain has begun. A connection then ends after the requests that have
            arrived.
        idle_connections: the connections that wait for a request.
        pages: the pages of the dashboard; None if the process serves none.
        verbs: serves plain requests; None if there is no application yet.
    """

    stop: trio.Event
    drained: bool
    idle_connections: IdleConnections
    pages: Pages | None
    verbs: PlainVerbs | None


class LaneConnection:
    """One connection while the fast lane serves it."""

    def __init__(self, lane: Lane, app: App, stream: trio.SocketStream | TlsStream) -> None:
        """Use the descriptor of ``stream`` until ``run`` ends."""
        self._lane = lane
        self.app = app
        self.heads = HeadCache()
        self.data = b""
        """Bytes that are read and not served yet."""
        self._tls_subject = subject_of(stream)
        self._peer = peer_of(stream)
        self._reservation = BodyReservation(app.body_memory)
        self.deadline = start_deadline()
        self._nursery: trio.Nursery
        self._watching: trio.CancelScope | None = None
        self.scope = trio.CancelScope()
        """The scope of ``run``.

        It is cancelled when an idle connection has to end, and when the client disconnects while a
        handler waits.
        """
        self.idle_since = perf_counter()
        """When the connection began to wait for a complete head, by ``perf_counter``.

        Infinity while it does not wait for one.
        """
        self.head_since = inf
        """When the first byte of an incomplete head arrived; infinity if there is none."""
        # The transport is created last. If an exception dropped it, its socket object would close
        # the descriptor, which belongs to ``stream``.
        self._transport = transport_for(stream)
        self._driver: Driver | None = None
        if isinstance(self._transport, SocketLaneTransport):
            self._driver = Driver(self, self._transport.socket, lane.idle_connections, lane.verbs)

    @property
    def stopping(self) -> bool:
        """Whether the process shuts down, so that the next response ends the connection."""
        return self._lane.stop.is_set()

    async def run(self) -> bytes | None:
        """Serve the connection, but do not close it; return what ``FastLane.serve`` returns."""
        try:
            with self.scope:
                async with trio.open_nursery() as self._nursery:
                    with suppress(Disconnected):
                        return await self._serve()
            return None
        finally:
            self._reservation.release()
            self._transport.release()

    async def _serve(self) -> bytes | None:
        while True:
            driver = self._driver
            if driver is not None and driver.usable and not self.scope.cancel_called:
                handoff = await driver.run_until_handoff()
                if handoff.ends:
                    return None
                if handoff.yields:
                    await trio.lowlevel.checkpoint()
                    continue
                has_error, has_response = handoff.error is not None, handoff.response is not None
                if has_error or has_response or handoff.coroutine is not None:
                    if not await self._complete(driver, handoff):
                        return None
                    self.idle_since = perf_counter()
                    continue
            try:
                head = await self._next_head()
                if head is None or self.scope.cancel_called:
                    # If the idle timeout has cancelled the connection, the request must not begin,
                    # because the cancellation would interrupt it.
                    return None
                if is_fast(head.method, head.path):
                    self.idle_since = inf
                    keep_alive = await self._exchange(head)
                else:
                    page = self._page_of(head)
                    if page is None:
                        return self.data
                    self.idle_since = inf
                    keep_alive = await self._show(head, page)
                self._reservation.release()
            except UnsupportedRequest:
                return self.data
            if not keep_alive:
                return None
            self.idle_since = perf_counter()

    async def _complete(self, driver: Driver, handoff: TaskHandoff) -> bool:
        """Complete the request that the driver has begun.

        Returns:
            Whether another request may follow on the connection.

        Raises:
            Disconnected: the client disconnected while the handler waited.
            Exception: ``handoff.error``.
        """
        response = await self._finish(driver.finish(handoff))
        if handoff.error is not None:
            if response is not None:
                await undo_undelivered(response)
            raise handoff.error
        draining = self.stopping and not handoff.sent
        if response is not None:
            data = handoff.data if handoff.sent else b""
            data = data or encode(response, draining=draining, asked_to_close=driver.closes)
            await self._deliver(response, data, sent=handoff.sent)
        return not (draining or driver.closes)

    # -- reading ------------------------------------------------------------------------------

    async def _next_head(self) -> RequestHead | None:
        """Return the next request's head.

        Returns:
            The head; None if the client closed its side between two requests, or a drain has begun.

        Raises:
            UnsupportedRequest: hypercorn has to read the request, because it is not simple, it does
                not fit into the body memory budget, or the stream ended in the middle of the head.
        """
        while True:
            if self.data:
                head = self.heads.read(self.data)
                if head is not None:
                    self.head_since = inf
                    return head
                if self.head_since == inf:
                    self.head_since = perf_counter()
                if not self._reservation.reserve(len(self.data), complete=False):
                    raise UnsupportedRequest
            if self._lane.drained and not self.has_unread():
                return None
            piece = await self._transport.receive()
            if not piece:
                if self.data:
                    raise UnsupportedRequest
                return None
            self.data = self.data + piece if self.data else piece

    async def _read_until(self, end: int, timeout_s: float, *, small: bool) -> bool:
        """Read until ``data`` has ``end`` bytes.

        Args:
            end: the number of bytes.
            timeout_s: how long to read, in seconds.
            small: whether the body has at most ``MAX_SMALL_BODY`` bytes. The caller has reserved
                the memory of a larger body. For a small one, this method reserves what ``data``
                has, up to ``MAX_SMALL_BODY``, because ``data`` may also contain later requests.

        Returns:
            Whether ``data`` has that many bytes.

        Raises:
            UnsupportedRequest: the stream ended before ``end`` bytes had arrived, or the body
                memory budget is exhausted.
        """
        data = bytearray(self.data)
        try:
            with trio.move_on_after(timeout_s):
                while len(data) < end:
                    size = min(len(data), MAX_SMALL_BODY)
                    if small and not self._reservation.reserve(size, complete=False):
                        raise UnsupportedRequest
                    piece = await self._transport.receive()
                    if not piece:
                        raise UnsupportedRequest
                    data += piece
        finally:
            self.data = bytes(data)
        return len(data) >= end

    # -- answering ----------------------------------------------------------------------------

    async def _exchange(self, head: RequestHead) -> bool:
        """Serve the request with this head; return whether another request may follow.

        Raises:
            UnsupportedRequest: hypercorn has to serve the request.
        """
        app, end = self.app, head.size + head.length
        if head.closes and len(self.data) > end:
            raise UnsupportedRequest  # hypercorn rejects bytes after the last request
        arrived = len(self.data) >= end
        request = self.request(head, end if arrived else head.size)
        prepared = prepare(app, request, tentative=not arrived)
        timeout: BodyTimeout | None = None
        if not arrived:
            if prepared.route is None or head.length > prepared.max_body:
                raise UnsupportedRequest  # hypercorn can answer while a body still arrives
            if not self._reservation.reserve(head.length):
                raise UnsupportedRequest
            timeout_s, small = app.settings.bodies.timeout_s, head.length <= MAX_SMALL_BODY
            arrived = await self._read_until(end, timeout_s, small=small)
            if arrived:
                request = self.request(head, end)
            else:
                timeout = body_timeout(timeout_s)
                # The rest of the body is read before the response is sent: many clients report a
                # broken pipe when a response arrives while they still send.
                arrived = await self._read_until(end, app.settings.bodies.linger_s, small=small)
        self.data = self.data[end:]
        if timeout is not None:
            response = refusal_response(request, prepared, timeout)
        else:
            response = await self._finish(run(app, prepared, request, self.deadline))
        draining = self.stopping
        await self._deliver(
            response, encode(response, draining=draining, asked_to_close=head.closes)
        )
        return arrived and not draining and not head.closes

    def _page_of(self, head: RequestHead) -> FoundPage | None:
        """Return the page that a request asks for; None if hypercorn has to serve the request.

        A page may have to know that a header is repeated, which ``RequestHead.headers`` hides.
        """
        pages = self._lane.pages
        if head.page is not None or pages is None or head.method != "GET":
            return head.page
        if not head.repeats and not has_body(head.headers):
            head.page = pages.find_page(head.path)
        return head.page

    async def _show(self, head: RequestHead, page: FoundPage) -> bool:
        """Serve a page; return whether another request may follow.

        Raises:
            UnsupportedRequest: hypercorn has to serve the request.
        """
        end = head.size
        if head.closes and len(self.data) > end:
            raise UnsupportedRequest  # hypercorn rejects bytes after the last request
        request = self.request(head, end)
        self.data = self.data[end:]
        view, params = page
        raw = ((name.encode(), value.encode("latin-1")) for name, value in head.headers.items())
        scheme = "http" if self._driver is not None else "https"
        try:
            response = await self._finish(view(BrowserRequest(request, scheme, raw), **params))
        finally:
            use_deadline(self.deadline)  # the page has started one for each call of the API
        draining = self.stopping
        await self._deliver(
            response, encode(response, draining=draining, asked_to_close=head.closes)
        )
        if self.data:
            # A page may be answered without waiting for anything, and a client may send hundreds
            # of requests in one piece.
            await trio.lowlevel.checkpoint()
        return not draining and not head.closes

    def request(self, head: RequestHead, end: int) -> Request:
        """Return the request with this head whose body ends at byte ``end`` of ``data``."""
        return self.request_with(head, self.data[head.size : end])

    def request_with(self, head: RequestHead, body: bytes) -> Request:
        """Return the request with this head and this body."""
        return Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            body,
            self._on_wait,
            self._tls_subject,
            self._peer,
        )

    async def _finish(self, work: Awaitable[AnyResponse]) -> AnyResponse:
        """Await the coroutine of a request, then stop watching whether the client disconnects.

        Raises:
            Disconnected: the client disconnected while the handler waited.
        """
        response = await work
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            if self.scope.cancel_called:  # the handler ended before the cancellation reached it
                if response is not None:
                    await undo_undelivered(response)
                raise Disconnected
        return response

    def _on_wait(self) -> None:
        """Start to watch whether the client disconnects, because the handler begins to wait.

        Watching takes a task, which would cost too much for every request. So only requests that
        wait are watched. For other requests the send of the response shows a disconnected client.
        """
        if self._watching is None and not self.data:
            self._watching = trio.CancelScope()
            self._nursery.start_soon(self._watch, self._watching)

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel the connection when the client disconnects; return when it sends bytes."""
        with scope:
            if not await self._transport.wait_for_input():
                self.scope.cancel()

    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not read yet."""
        return self._transport.has_unread()

    async def _client_left(self) -> bool:
        """Return whether the client has closed its side and has sent no further request.

        A client may send several requests, close its side, and read the responses. Such a client
        has not disconnected. The hypercorn entry decides in the same way.
        """
        return not self.data and await self._transport.disconnected()

    async def _deliver(self, response: Response, data: bytes, *, sent: int = 0) -> None:
        """Send a response; call ``response.undo``, if there is one, when it cannot be sent.

        A response counts as sent when its last byte is written to the socket. The hypercorn entry
        decides in the same way.

        Args:
            response: the response.
            data: the response as bytes.
            sent: how many bytes are sent already.

        Raises:
            Disconnected: the client has disconnected.
        """
        if response.undo is None:
            await self._transport.send(data, sent=sent)
            return
        delivered = False
        try:
            if not sent and await self._client_left():
                raise Disconnected
            await self._transport.send(data, hold_last_byte=not self.data, sent=sent)
            delivered = True
        finally:
            if not delivered:
                await undo_undelivered(response)
