"""Ends connections whose clients do not take what is sent to them.

hypercorn sends without a deadline, and shields what it sends from being cancelled. Two things hold
a response up. The kernel's buffer is full: then `send_all` waits, and where it can (Linux) the
kernel itself gives up (`open_listener`). Or HTTP/2's flow control, which lies above: a client whose
window is zero answers the kernel in time, and needs no key to make a connection, its tasks and
their responses last for ever. So both are bounded here, from both sides of hypercorn: the stream
that it writes to, and the `send` that it gives the application.

To end a connection is to close its stream: hypercorn then reads its end, as of a client that hung
up. Handlers that run for it are not cancelled; what they send goes nowhere. The last of hypercorn's
own tasks ends with its idle timer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from typing import Any, Final

import trio
from hypercorn.typing import AppWrapper

_PIECE: Final = 65_536
_SLOWEST: Final = 16_384  # bytes per second
_FLOWING: Final = frozenset(
    {
        "http.response.body",
        "websocket.send",
        "websocket.close",
        "websocket.http.response.body",
    }
)
"""Messages that HTTP/2's flow control may hold up: those that are sent as data."""


class Unread(trio.ClosedResourceError):
    """The connection has ended, because its client did not take what was sent."""


class Patience:
    """How long clients of one process may take nothing."""

    def __init__(self, timeout_s: float) -> None:
        """Wait for `timeout_s` seconds each time."""
        self.timeout_s = timeout_s
        self._end = inf
        self._scopes: set[trio.CancelScope] = set()

    @contextmanager
    def lasts(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Give a scope that is cancelled after so long, or at the end of all patience."""
        scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self._end))
        self._scopes.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._scopes.discard(scope)

    def end(self, moment: float) -> None:
        """Wait for nobody after a moment of trio's clock, whatever waits now included."""
        self._end = moment
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, moment)


class Reader:
    """One connection's client, as the reader of what is sent to it."""

    def __init__(self, stream: trio.abc.Stream, patience: Patience) -> None:
        """Close `stream` when its client has taken nothing for too long."""
        self._stream = stream
        self._patience = patience
        self._waiting: set[trio.CancelScope] = set()
        self._ended = False

    async def send_all(self, data: bytes) -> None:
        """Send as the stream does, piece by piece: each has the whole of the time.

        Raises:
            trio.BrokenResourceError: as the stream does, or the client took nothing.
        """
        for start in range(0, len(data), _PIECE):
            piece = data if len(data) <= _PIECE else memoryview(data)[start : start + _PIECE]
            with self._patience.lasts(self._patience.timeout_s) as scope:
                await self._stream.send_all(piece)
            if scope.cancelled_caught:
                await self._end()
                raise trio.BrokenResourceError("the client took nothing for too long")

    def serves(self, app: AppWrapper) -> AppWrapper:
        """Give the application for this connection: what it sends must be taken in time."""

        async def bounded(
            scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            # HTTP/1.1 has no flow control of its own: there `send_all` is all that waits.
            if scope.get("http_version") == "2":
                send = partial(self._send, send)
            try:
                await app(scope, receive, send, sync_spawn, call_soon)
            except* Unread:
                pass

        return bounded

    async def _send(self, send: Any, message: Any) -> None:
        """Send a message over HTTP/2.

        It returns when flow control has let all of the message through, and does not tell of a
        part of it. So a large one has more time.
        """
        if message["type"] not in _FLOWING:
            # Goes through even after the end: hypercorn would answer 500 for an application that
            # has sent nothing, and wait for ever until that is taken.
            await send(message)
            return
        size = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        if not self._ended:
            with self._patience.lasts(self._patience.timeout_s + size / _SLOWEST) as scope:
                self._waiting.add(scope)
                try:
                    await send(message)
                finally:
                    self._waiting.discard(scope)
            if not scope.cancelled_caught:
                return
            await self._end()
        raise Unread("the client did not take what was sent")

    async def _end(self) -> None:
        self._ended = True
        for scope in self._waiting:
            scope.cancel()  # hypercorn leaves them waiting
        await trio.aclose_forcefully(self._stream)
