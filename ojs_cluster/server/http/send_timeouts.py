"""Timeouts for clients that do not read what is sent to them.

hypercorn sends without a deadline, and shields its sends from cancellation. Two things delay a
response. First, the kernel's buffer is full: ``send_all`` waits, and on Linux the kernel ends the
connection after a time (``open_listener``). Second, HTTP/2's flow control: a client whose window is
zero acknowledges in time. Without a key it could keep a connection, its tasks and their responses
permanently. So both sides of hypercorn have a timeout: the stream that it writes to, and the
``send`` that it gives the application.

A timeout closes the stream. hypercorn then sees a disconnected client. Handlers that run for it are
not cancelled; what they send is discarded. hypercorn's idle timer ends its last task.
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
"""Messages that are sent as DATA frames, which HTTP/2's flow control may delay."""


class ClientTooSlow(trio.ClosedResourceError):
    """The connection has ended, because its client did not read what was sent."""


class SendTimeouts:
    """How long the clients of one process may read nothing."""

    def __init__(self, timeout_s: float) -> None:
        """Wait for ``timeout_s`` seconds each time."""
        self.timeout_s = timeout_s
        self._end = inf
        self._scopes: set[trio.CancelScope] = set()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Yield a scope that is cancelled after ``seconds``, or at the deadline of ``end``."""
        scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self._end))
        self._scopes.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._scopes.discard(scope)

    def end(self, moment: float) -> None:
        """Cancel every send, also a present one, at ``moment`` in seconds of trio's clock."""
        self._end = moment
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, moment)


class TimedConnection:
    """One connection whose sends have a timeout."""

    def __init__(self, stream: trio.abc.Stream, patience: SendTimeouts) -> None:
        """Close ``stream`` when its client reads nothing for too long."""
        self._stream = stream
        self._patience = patience
        self._waiting: set[trio.CancelScope] = set()
        self._ended = False

    async def send_all(self, data: bytes) -> None:
        """Send piece by piece; each piece has the full timeout.

        Raises:
            trio.BrokenResourceError: the stream is broken, or the client read nothing.
        """
        for start in range(0, len(data), _PIECE):
            piece = data if len(data) <= _PIECE else memoryview(data)[start : start + _PIECE]
            with self._patience.limit(self._patience.timeout_s) as scope:
                await self._stream.send_all(piece)
            if scope.cancelled_caught:
                await self._end()
                raise trio.BrokenResourceError("the client took nothing for too long")

    def serves(self, app: AppWrapper) -> AppWrapper:
        """Return the application for this connection, whose sends have a timeout."""

        async def bounded(
            scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            # HTTP/1.1 has no flow control of its own: only `send_all` waits.
            if scope.get("http_version") == "2":
                send = partial(self._send, send)
            try:
                await app(scope, receive, send, sync_spawn, call_soon)
            except* ClientTooSlow:
                pass

        return bounded

    async def _send(self, send: Any, message: Any) -> None:
        """Send a message over HTTP/2.

        ``send`` returns when flow control has passed the whole message, and does not report parts.
        So a large message has more time.
        """
        if message["type"] not in _FLOWING:
            # Sent even after the end: hypercorn would answer 500 for an application that has sent
            # nothing, and wait permanently until the client reads it.
            await send(message)
            return
        size = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        if not self._ended:
            with self._patience.limit(self._patience.timeout_s + size / _SLOWEST) as scope:
                self._waiting.add(scope)
                try:
                    await send(message)
                finally:
                    self._waiting.discard(scope)
            if not scope.cancelled_caught:
                return
            await self._end()
        raise ClientTooSlow("the client did not take what was sent")

    async def _end(self) -> None:
        self._ended = True
        for scope in self._waiting:
            scope.cancel()  # hypercorn leaves them waiting
        await trio.aclose_forcefully(self._stream)
