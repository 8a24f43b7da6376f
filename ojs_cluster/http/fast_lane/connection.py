"""One connection in the fast lane, and what its task does for it.

The task serves TLS, bodies that come in pieces, requests that wait, slow readers and the last
requests of a drain. The driver of a plain connection (`lane_driver`) serves the rest without it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from math import inf
from typing import Protocol, TypeVar

import trio

from ojs_cluster.http.access.certificates import peer_of, subject_of
from ojs_cluster.http.app import App
from ojs_cluster.http.body_memory import SMALL, Held
from ojs_cluster.http.dispatch import prepare, refuse, run, too_late, undo
from ojs_cluster.http.errors import BodyTimeout
from ojs_cluster.http.fast_lane.driver import Driver, Errand
from ojs_cluster.http.fast_lane.idle_connections import Turns
from ojs_cluster.http.fast_lane.parser import Head, Heads, Odd
from ojs_cluster.http.fast_lane.replies import encode
from ojs_cluster.http.fast_lane.routes import is_fast
from ojs_cluster.http.fast_lane.transport import Left, PlainWire, TlsStream, wire_over
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.redis.deadline import start_deadline

AnyResponse = TypeVar("AnyResponse", Response, Response | None)


class Lane(Protocol):
    """What a connection needs of the lane."""

    stop: trio.Event
    drained: bool
    turns: Turns


class LaneConnection:
    """One connection while it is in the lane."""

    def __init__(self, lane: Lane, app: App, stream: trio.SocketStream | TlsStream) -> None:
        self._lane = lane
        self.app = app
        self.heads = Heads()
        self.data = b""
        """Read, and not served yet."""
        self._tls_subject = subject_of(stream)
        self._peer = peer_of(stream)
        self._room = Held(app.room)
        self.deadline = start_deadline()
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
        self._driver: Driver | None = None
        if isinstance(self._wire, PlainWire):
            self._driver = Driver(self, self._wire.socket, lane.turns)

    @property
    def stopping(self) -> bool:
        """Whether each answer is the last one of its connection."""
        return self._lane.stop.is_set()

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
            driver = self._driver
            if driver is not None and driver.usable and not self.scope.cancel_called:
                errand = await driver.take_turns()
                if errand.again:
                    await trio.lowlevel.checkpoint()
                    continue
                if errand.error is not None or errand.work or errand.response is not None:
                    if not await self._do(driver, errand):
                        return None
                    self.idle_since = trio.current_time()
                    continue
            try:
                head = await self._next_head()
                if head is None or self.scope.cancel_called:
                    # Found idle too long in the moment when a request came: what it asks for must
                    # not be begun, it would be cancelled half way.
                    return None
                if not is_fast(head.method, head.path):
                    return self.data
                self.idle_since = inf
                keep = await self._exchange(head)
                self._room.release()
            except Odd:
                return self.data
            if not keep:
                return None
            self.idle_since = trio.current_time()

    async def _do(self, driver: Driver, errand: Errand) -> bool:
        """Finish what the driver has begun; tells whether another request may follow.

        Raises Left when the client left while the handler waited, and the errand's own error.
        """
        response = await self._finished(driver.finished(errand))
        if errand.error is not None:
            if response is not None:
                await undo(response)
            raise errand.error
        draining = self.stopping and not errand.sent
        if response is not None:
            data = errand.data if errand.sent else b""
            data = data or encode(response, draining=draining, asked_to_close=False)
            await self._deliver(response, data, sent=errand.sent)
        return not draining

    # -- reading ------------------------------------------------------------------------------

    async def _next_head(self) -> Head | None:
        """The next request's head; None when the client ended between two requests, or in a drain.

        Raises Odd, also at an end in the middle of a head: it reads as an end again.
        """
        while True:
            if self.data:
                head = self.heads.read(self.data)
                if head is not None:
                    self.head_since = inf
                    return head
                if self.head_since == inf:
                    self.head_since = trio.current_time()
                if not self._room.fits(len(self.data), complete=False):
                    raise Odd
            if self._lane.drained and not self.has_unread():
                return None
            piece = await self._wire.receive()
            if not piece:
                if self.data:
                    raise Odd
                return None
            self.data = self.data + piece if self.data else piece

    async def _read_until(self, end: int, timeout_s: float, *, small: bool) -> bool:
        """Read until there are ``end`` bytes. Tells whether there are, ``timeout_s`` later.

        A ``small`` body may exceed SMALL together with its head. It counts as SMALL bytes then.

        Raises Odd when the client ends before, or there is no room for what has come.
        """
        data = bytearray(self.data)
        try:
            with trio.move_on_after(timeout_s):
                while len(data) < end:
                    if small and not self._room.fits(min(len(data), SMALL), complete=False):
                        raise Odd
                    piece = await self._wire.receive()
                    if not piece:
                        raise Odd
                    data += piece
        finally:
            self.data = bytes(data)
        return len(data) >= end

    # -- answering ----------------------------------------------------------------------------

    async def _exchange(self, head: Head) -> bool:
        """Serve the request with this head; tells whether another one may follow.

        Raises Odd for one that the first door has to serve.
        """
        app, end = self.app, head.size + head.length
        if head.closes and len(self.data) > end:
            raise Odd  # more after what was to be the last: hypercorn refuses the connection
        arrived = len(self.data) >= end
        request = self.request(head, end if arrived else head.size)
        call = prepare(app, request, tentative=not arrived)
        late: BodyTimeout | None = None
        if not arrived:
            if call.route is None or head.length > call.max_body:
                raise Odd  # the first door knows how to answer while a body still comes
            if not self._room.fits(head.length):
                raise Odd
            timeout_s, small = app.settings.body_timeout_s, head.length <= SMALL
            arrived = await self._read_until(end, timeout_s, small=small)
            if arrived:
                request = self.request(head, end)
            else:
                late = too_late(timeout_s)
                # Many clients report a broken pipe when they are answered while they send.
                arrived = await self._read_until(end, app.settings.linger_s, small=small)
        self.data = self.data[end:]
        if late is not None:
            response = refuse(request, call, late)
        else:
            response = await self._finished(run(app, call, request, self.deadline))
        draining = self.stopping
        await self._deliver(
            response, encode(response, draining=draining, asked_to_close=head.closes)
        )
        return arrived and not draining and not head.closes

    def request(self, head: Head, end: int) -> Request:
        """The request with this head whose body ends at a byte of ``data``."""
        body = self.data[head.size : end]
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

    async def _finished(self, work: Awaitable[AnyResponse]) -> AnyResponse:
        """Run a handler to its end. Raises Left when the client left while it waited."""
        response = await work
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
            if self.scope.cancel_called:  # too late for the handler to notice
                if response is not None:
                    await undo(response)
                raise Left
        return response

    def _begin_to_wait(self) -> None:
        """A handler waits for something that may take long: see whether its client stays.

        Only then, because a task per request is what this door does without. A client that leaves
        while a handler works is noticed when its answer is sent.
        """
        if self._watching is None and not self.data:
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
        return not self.data and await self._wire.gone()

    async def _deliver(self, response: Response, data: bytes, *, sent: int = 0) -> None:
        """Send a response, and undo what cannot be sent if it says so. Raises Left.

        As in the first door, a client that has left before the last byte is given to the network
        has no complete response; from then on it counts as answered. ``sent`` bytes have been
        given already.
        """
        if response.undelivered is None:
            await self._wire.send(data, sent=sent)
            return
        delivered = False
        try:
            if not sent and await self._has_left():
                raise Left
            await self._wire.send(data, look=not self.data, sent=sent)
            delivered = True
        finally:
            if not delivered:
                await undo(response)
