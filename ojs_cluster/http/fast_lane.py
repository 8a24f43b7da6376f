"""The second door: the hot routes over HTTP/1.1, on our own small loop.

A connection is first served here. As long as its requests are plain (`lane_parser`) and for routes
marked ``fast`` in the route table, they go through the same `prepare` and `run` as in the first
door, and the answers have the same bytes. With the first request that is not, `FastLane.serve`
gives back the bytes that were read, and the connection is hypercorn's for the rest of its life. So
the lane knows nothing of chunks, upgrades and HTTP/2, and never says that a request is malformed.

What makes it fast: no task and no cancel scope per request (one nursery per connection), one write
per response, no await for a write that the kernel takes at once, and one task that looks at the
deadlines of all idle connections (trio keeps deadlines in a heap: setting one twice per request
costs as much as parsing it). Without TLS it works on the socket itself (`lane_wires`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from math import inf
from typing import Final

import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.certificates import peer_of, subject_of
from ojs_cluster.http.dispatch import Call, prepare, refuse, run, too_late, undo
from ojs_cluster.http.errors import BodyTimeout
from ojs_cluster.http.lane_parser import Head, Heads, Odd
from ojs_cluster.http.lane_replies import encode
from ojs_cluster.http.lane_wires import Left, TlsStream, wire_over
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.room import SMALL, Held
from ojs_cluster.http.routes import ROUTES
from ojs_cluster.redis.deadline import begin

_LOOKS_PER_TIMEOUT: Final = 8
_LONGEST_LOOK_S: Final = 1.0

_FAST: Final = [(route.method, route.template) for route in ROUTES if route.fast]
_EXACT: Final = frozenset(pair for pair in _FAST if "{" not in pair[1])
_PATTERN: Final = re.compile(
    "|".join(
        f"{method} " + re.sub(r"\{[^}]*\}", "[^/]+", template)
        for method, template in _FAST
        if "{" in template
    )
)


class FastLane:
    """The lane of one process. It serves connections that come after `open`."""

    def __init__(
        self, *, stop: trio.Event, idle_timeout_s: float, head_timeout_s: float = 10.0
    ) -> None:
        """Prepare the lane; nothing starts yet.

        ``stop`` is set when the process is to end: from then on each answer is the last one of its
        connection, and says so. ``idle_timeout_s`` is how long a connection may be without a
        complete head, in seconds, and ``head_timeout_s`` how long from a head's first byte.
        """
        self.stop = stop
        self.drained = False
        self._idle_timeout_s = idle_timeout_s
        self._head_timeout_s = head_timeout_s
        self._app: App | None = None
        self._connections: set[_Connection] = set()

    def open(self, app: App) -> None:
        """Serve ``app`` on connections that come from now on."""
        self._app = app

    async def serve(self, stream: trio.SocketStream | TlsStream) -> bytes | None:
        """Serve a connection until it ends, or until it is hypercorn's.

        Returns None when it has ended and ``stream`` is closed, else the bytes that were read and
        belong to requests that were not served.
        """
        if self._app is None:
            return b""
        connection = _Connection(self, self._app, stream)
        self._connections.add(connection)
        try:
            rest = await connection.run()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        finally:
            self._connections.discard(connection)
        if rest is None:
            if isinstance(stream, trio.SocketStream):
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_eof()  # as hypercorn does
            await stream.aclose()
        return rest

    async def close_idle(self) -> None:
        """Close connections that are idle, or send a head too slowly; runs until cancelled.

        They are closed late by up to an eighth of the timeout, or a second if that is less.
        """
        shortest_s = min(self._idle_timeout_s, self._head_timeout_s)
        interval_s = min(_LONGEST_LOOK_S, shortest_s / _LOOKS_PER_TIMEOUT)
        while True:
            await trio.sleep(interval_s)
            now = trio.current_time()
            self._close_idle_since(now - self._idle_timeout_s)
            for connection in self._connections:
                if connection.head_since <= now - self._head_timeout_s:
                    connection.scope.cancel()

    def drain(self) -> None:
        """Close what is idle now, and from now on what would become so.

        A request that has arrived and was not read yet is served all the same.
        """
        self.drained = True
        self._close_idle_since(trio.current_time(), spare_unread=True)

    def _close_idle_since(self, moment: float, *, spare_unread: bool = False) -> None:
        for connection in self._connections:
            if connection.idle_since <= moment and not (spare_unread and connection.has_unread()):
                connection.scope.cancel()


class _Connection:
    """One connection while it is in the lane."""

    def __init__(self, lane: FastLane, app: App, stream: trio.SocketStream | TlsStream) -> None:
        self._lane = lane
        self._app = app
        self._heads = Heads()
        self._data = b""
        """Read, and not served yet."""
        self._tls_subject = subject_of(stream)
        self._peer = peer_of(stream)
        self._room = Held(app.room)
        self._deadline = begin()
        self._nursery: trio.Nursery
        self._watching: trio.CancelScope | None = None
        self.scope = trio.CancelScope()
        """Cancelled when the connection is idle and has to end, or its client left while a handler
        waits. Nothing else may be running in it."""
        self.idle_since = trio.current_time()
        """When it began to wait for a complete head; infinity while it does not."""
        self.head_since = inf
        """When the first byte of an incomplete head came; infinity while there is none."""
        # Last here, for it would close the descriptor if it were dropped; `run` gives it back.
        self._wire = wire_over(stream)

    async def run(self) -> bytes | None:
        """As `FastLane.serve`, without closing."""
        try:
            with self.scope:
                async with trio.open_nursery() as self._nursery:
                    with suppress(Left):
                        return await self._serve()
            return None
        finally:
            self._room.release()
            self._wire.release()

    async def _serve(self) -> bytes | None:
        while True:
            try:
                head = await self._next_head()
                if head is None or self.scope.cancel_called:
                    # Found idle too long in the moment when a request came: what it asks for must
                    # not be begun, it would be cancelled half way.
                    return None
                if not _is_fast(head):
                    return self._data
                self.idle_since = inf
                keep = await self._exchange(head)
                self._room.release()
            except Odd:
                return self._data
            if not keep:
                return None
            self.idle_since = trio.current_time()

    # -- reading ------------------------------------------------------------------------------

    async def _next_head(self) -> Head | None:
        """The next request's head; None when the client ended between two requests, or in a drain.

        Raises Odd, also at an end in the middle of a head: it reads as an end again.
        """
        while True:
            if self._data:
                head = self._heads.read(self._data)
                if head is not None:
                    self.head_since = inf
                    return head
                if self.head_since == inf:
                    self.head_since = trio.current_time()
                if not self._room.fits(len(self._data), complete=False):
                    raise Odd
            if self._lane.drained and not self.has_unread():
                return None
            piece = await self._wire.receive()
            if not piece:
                if self._data:
                    raise Odd
                return None
            self._data = self._data + piece if self._data else piece

    async def _read_until(self, end: int, timeout_s: float) -> bool:
        """Read until there are ``end`` bytes. Tells whether there are, ``timeout_s`` later.

        Raises Odd when the client ends before, or there is no room for what has come.
        """
        data = bytearray(self._data)
        try:
            with trio.move_on_after(timeout_s):
                while len(data) < end:
                    if end <= SMALL and not self._room.fits(len(data), complete=False):
                        raise Odd
                    piece = await self._wire.receive()
                    if not piece:
                        raise Odd
                    data += piece
        finally:
            self._data = bytes(data)
        return len(data) >= end

    # -- answering ----------------------------------------------------------------------------

    async def _exchange(self, head: Head) -> bool:
        """Serve the request with this head; tells whether another one may follow.

        Raises Odd for one that the first door has to serve.
        """
        app, end = self._app, head.size + head.length
        if head.closes and len(self._data) > end:
            raise Odd  # more after what was to be the last: hypercorn refuses the connection
        arrived = len(self._data) >= end
        request = self._request(head, end if arrived else head.size)
        call = prepare(app, request, tentative=not arrived)
        late: BodyTimeout | None = None
        if not arrived:
            if call.route is None or head.length > call.max_body:
                raise Odd  # the first door knows how to answer while a body still comes
            if not self._room.fits(head.length):
                raise Odd
            timeout_s = app.settings.body_timeout_s
            arrived = await self._read_until(end, timeout_s)
            if arrived:
                request = self._request(head, end)
            else:
                late = too_late(timeout_s)
                # Many clients report a broken pipe when they are answered while they send.
                arrived = await self._read_until(end, app.settings.linger_s)
        self._data = self._data[end:]
        if late is not None:
            response = refuse(request, call, late)
        else:
            response = await self._run(call, request)
        draining = self._lane.stop.is_set()
        await self._deliver(
            response, encode(response, draining=draining, asked_to_close=head.closes)
        )
        return arrived and not draining and not head.closes

    def _request(self, head: Head, end: int) -> Request:
        body = self._data[head.size : end]
        return Request(
            head.method,
            head.path,
            head.query,
            head.headers,
            body,
            self._begin_to_wait,
            self._tls_subject,
            self._peer,
        )

    async def _run(self, call: Call, request: Request) -> Response:
        """Run the handler. Raises Left when the client left while it waited."""
        response = await run(self._app, call, request, self._deadline)
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            if self.scope.cancel_called:  # too late for the handler to notice
                await undo(response)
                raise Left
        return response

    def _begin_to_wait(self) -> None:
        """A handler waits for something that may take long: see whether its client stays.

        Only then, because a task per request is what this door does without. A client that leaves
        while a handler works is noticed when its answer is sent.
        """
        if self._watching is None and not self._data:
            self._watching = trio.CancelScope()
            self._nursery.start_soon(self._watch, self._watching)

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel everything here when the client leaves. Its next request ends the watch."""
        with scope:
            if not await self._wire.stays():
                self.scope.cancel()

    def has_unread(self) -> bool:
        """Whether something has arrived that was not read yet."""
        return self._wire.unread()

    async def _has_left(self) -> bool:
        """Whether the client has closed its side and waits for nothing that it sent before.

        A client that sends requests ahead may close its side and read the answers: hypercorn stops
        reading at the next request, so the first door does not see it leave either.
        """
        return not self._data and await self._wire.gone()

    async def _deliver(self, response: Response, data: bytes) -> None:
        """Send a response, and undo what cannot be sent if it says so. Raises Left.

        As in the first door, a client that has left before the last byte is given to the network
        has no complete response; from then on it counts as answered.
        """
        if response.undelivered is None:
            await self._wire.send(data)
            return
        sent = False
        try:
            if await self._has_left():
                raise Left
            await self._wire.send(data, look=not self._data)
            sent = True
        finally:
            if not sent:
                await undo(response)


def _is_fast(head: Head) -> bool:
    if (head.method, head.path) in _EXACT:
        return True
    return _PATTERN.fullmatch(f"{head.method} {head.path}") is not None
