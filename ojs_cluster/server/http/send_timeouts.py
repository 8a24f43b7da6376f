"""Timeouts for clients that do not read what is sent to them.

hypercorn sends without a deadline, and shields its sends from cancellation. A client can delay a
response in two ways:

* It does not read, so the kernel's send buffer becomes full and ``send_all`` waits. On Linux the
  kernel closes the connection after a timeout (``open_listener``), on other systems it does not.
* Over HTTP/2 it sets its flow-control window to zero. The kernel's timeout does not apply, because
  the client acknowledges all TCP segments. It could keep the connection, its tasks and their
  responses in memory permanently, even without an API key.

So there are two timeouts: one on the stream to which hypercorn writes, and one on the ``send`` that
hypercorn passes to the application.

A timeout closes the stream. hypercorn then sees a disconnected client. Handlers of that connection
are not cancelled, and what they send is discarded. The connection ends when they have ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import Any, Final

import trio
from hypercorn.typing import AppWrapper

from ojs_cluster.http.messages import DIRECT

_CHUNK_BYTES: Final = 65_536
_MIN_BYTES_PER_S: Final = 16_384
_FLOW_CONTROLLED: Final = frozenset(
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
    """The timeouts of all sends of one process, which a drain can shorten."""

    def __init__(self, timeout_s: float) -> None:
        """Limit each send to ``timeout_s`` seconds."""
        self.timeout_s = timeout_s
        self._end_at = inf
        self._scopes: set[trio.CancelScope] = set()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Yield a scope that is cancelled after ``seconds``, or at the deadline of ``end``."""
        scope = trio.CancelScope(deadline=min(trio.current_time() + seconds, self._end_at))
        self._scopes.add(scope)
        try:
            with scope:
                yield scope
        finally:
            self._scopes.discard(scope)

    def end(self, deadline: float) -> None:
        """Cancel all current and future sends at ``deadline``, in seconds of trio's clock."""
        self._end_at = deadline
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, deadline)


class TimedConnection:
    """One connection whose sends have a timeout."""

    def __init__(self, stream: trio.abc.Stream, timeouts: SendTimeouts) -> None:
        """Close ``stream`` when its client reads nothing for too long."""
        self._stream = stream
        self._timeouts = timeouts
        self._waiting: set[trio.CancelScope] = set()
        self._ended = False
        self.can_send_now = isinstance(stream, trio.SocketStream)
        self._end_at = inf
        self._scope = trio.CancelScope()
        """The scope of the last send."""
        self._sending = trio.Lock()
        self._unsent: bytes | memoryview = b""
        """What ``send_now`` could not send."""

    async def send_all(self, data: bytes) -> None:
        """Send ``data`` in chunks; the timeout applies to each chunk.

        Raises:
            trio.BrokenResourceError: the stream is broken, or the client read nothing.
        """
        async with self._sending:
            if self._unsent:
                data, self._unsent = b"".join((self._unsent, data)), b""
            for start in range(0, len(data), _CHUNK_BYTES):
                is_small = len(data) <= _CHUNK_BYTES
                chunk = data if is_small else memoryview(data)[start : start + _CHUNK_BYTES]
                with self._timeouts.limit(self._timeouts.timeout_s) as scope:
                    scope.deadline = min(scope.deadline, self._end_at)
                    self._scope = scope
                    await self._stream.send_all(chunk)
                if scope.cancelled_caught:
                    await self._end()
                    raise trio.BrokenResourceError("the client has read nothing for too long")

    def send_now(self, data: bytes) -> bool:
        """Implement ``DirectOutput``."""
        sent = 0
        if not self._unsent and not self._sending.locked():
            try:
                sent = os.write(self._descriptor(), data)
            except BlockingIOError:
                pass
            except OSError:  # hypercorn notices that the client has disconnected
                return True
        if sent < len(data):  # without a copy, because many clients get the same piece
            rest = memoryview(data)[sent:]
            self._unsent = b"".join((self._unsent, rest)) if self._unsent else rest
        return sent == len(data)

    async def flush(self) -> None:
        """Implement ``DirectOutput``."""
        if self._unsent:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.send_all(b"")

    def end_sends(self, deadline: float) -> None:
        """Implement ``DirectOutput``."""
        self._end_at = deadline
        self._scope.deadline = min(self._scope.deadline, deadline)

    def _descriptor(self) -> int:
        assert isinstance(self._stream, trio.SocketStream)  # noqa: S101 - ``can_send_now``
        return self._stream.socket.fileno()

    def wrap(self, app: AppWrapper) -> AppWrapper:
        """Return ``app`` with timeouts on its sends."""

        async def app_with_timeouts(
            scope: Any, receive: Any, send: Any, sync_spawn: Any, call_soon: Any
        ) -> None:
            # HTTP/1.1 has no flow control of its own, so the timeout of `send_all` is enough.
            if scope.get("http_version") == "2":
                send = partial(self._send, send)
            elif scope.get("http_version") == "1.1":
                scope = {**scope, DIRECT: self}
            try:
                await app(scope, receive, send, sync_spawn, call_soon)
            except* ClientTooSlow:
                pass

        return app_with_timeouts

    async def _send(self, send: Any, message: Any) -> None:
        """Send a message over HTTP/2.

        ``send`` returns after the client's window has allowed the whole message, and reports no
        progress before. So the timeout grows with the size of the message.
        """
        if message["type"] not in _FLOW_CONTROLLED:
            # The start of a response is sent even after a timeout. Without it, hypercorn would send
            # 500 and wait permanently until the client reads it.
            await send(message)
            return
        size = len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        if not self._ended:
            with self._timeouts.limit(self._timeouts.timeout_s + size / _MIN_BYTES_PER_S) as scope:
                self._waiting.add(scope)
                try:
                    await send(message)
                finally:
                    self._waiting.discard(scope)
            if not scope.cancelled_caught:
                return
            await self._end()
        raise ClientTooSlow("the client did not read what was sent")

    async def _end(self) -> None:
        self._ended = True
        for scope in self._waiting:
            # hypercorn does not wake sends that wait for flow control when the stream closes.
            scope.cancel()
        await trio.aclose_forcefully(self._stream)
