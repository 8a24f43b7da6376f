"""Connections of HTTP/1.1 to one server, on asyncio and trio.

A worker sends two requests for each short job, so requests decide how much processor time a job
takes. docs/adr/046-connections-of-the-client.md has the measurements, the refused options, and what
httpx2 still does.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import anyio

from ojs_client.http.response_parser import BadResponse, Response, ResponseParser

if TYPE_CHECKING:
    # They take longer to import than the rest of the client, so they are imported when needed.
    import ssl

    from anyio.abc import SocketStream
    from anyio.streams.tls import TLSStream

_IDLE_S: Final = 5.0
"""Time in seconds after which an idle connection is not used again. Servers and proxies close idle
connections after longer times, and a request on a closing connection is lost."""
_READ_BYTES: Final = 64 * 1024


class NotSent(Exception):
    """The request has certainly not reached the server."""


class NoResponse(Exception):
    """The request may have reached the server, and its response did not arrive."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens.

    Args:
        host: its host name or address.
        port: its port.
        tls: the TLS settings; None for plain HTTP.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None


@dataclass(slots=True, eq=False)
class _Socket:
    """A ByteStream of anyio that notes whether its last chunk was as long as a chunk may be.

    Then asyncio may hold further bytes, which it has read from the socket already.
    """

    stream: SocketStream
    may_hold_bytes: bool = False

    async def receive(self, max_bytes: int = _READ_BYTES) -> bytes:
        data = await self.stream.receive(max_bytes)
        self.may_hold_bytes = len(data) >= max_bytes
        return data

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes

    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


@dataclass(slots=True, eq=False)
class _Connection:
    socket: _Socket
    stream: _Socket | TLSStream
    """The socket, or TLS over it."""
    descriptor: int
    idle_since: float = 0.0
    broken: bool = False
    """Whether a request could not be sent as a whole."""

    async def exchange(self, request: bytes) -> Response:
        """Send a request and return its response.

        Raises:
            BadResponse: the answer is not a response.
            OSError: the connection is broken, as with the exceptions of anyio.
        """
        try:
            await self.stream.send(request)
        except anyio.BrokenResourceError:
            # The server may have refused the request before it has read all of it. On asyncio the
            # refusal is lost if the server has also closed the connection.
            self.broken = True
        parser, response = ResponseParser(), None
        while response is None:
            try:
                data = await self.stream.receive(_READ_BYTES)
            except anyio.EndOfStream:
                return parser.end()
            response = parser.feed(data)
        return response

    def is_quiet(self) -> bool:
        """Return whether the server has neither closed the idle connection nor sent anything.

        Otherwise bytes that belong to no request would become the response to the next one.
        """
        if self.socket.may_hold_bytes:
            return False
        if not isinstance(self.stream, _Socket):
            import ssl

            from anyio.streams.tls import TLSAttribute

            try:
                self.stream.extra(TLSAttribute.ssl_object).read(1)  # noqa: S610 - no Django
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                return False
            else:
                return False
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self.descriptor, select.POLLIN)
            return not poll.poll(0)
        return not select.select([self.descriptor], [], [], 0)[0]  # Windows

    async def close(self) -> None:
        with anyio.CancelScope(shield=True):
            stream: Any = self.stream
            await anyio.aclose_forcefully(stream)


@dataclass(slots=True)
class Connections:
    """A pool of connections. A connection carries one request at a time.

    Args:
        address: the server.
        max_connections: the maximum number of connections. Further requests wait.
    """

    address: Address
    max_connections: int
    _idle: deque[_Connection] = field(default_factory=deque)
    """Idle connections, the one that was used last at the right end."""
    _free: anyio.Semaphore | None = None

    async def exchange(self, request: bytes, limit_s: float) -> Response:
        """Send a request and return its response.

        Args:
            request: head and body.
            limit_s: how long it may take in seconds, with the time to connect.

        Raises:
            NotSent: no connection was made in time.
            NoResponse: the connection broke, or no response arrived in time.
        """
        if self._free is None:  # it belongs to an event loop
            self._free = anyio.Semaphore(self.max_connections, fast_acquire=True)
        connection: _Connection | None = None
        response: Response | None = None
        try:
            with anyio.fail_after(limit_s):
                async with self._free:
                    try:
                        connection = await self._connection()
                        response = await connection.exchange(request)
                    finally:
                        await self._release(connection, response)
        except (
            OSError,  # also those of ssl
            anyio.BrokenResourceError,
            anyio.ClosedResourceError,
            anyio.EndOfStream,  # the peer closed the connection within a message of TLS
            BadResponse,
        ) as error:
            if connection is None:
                raise NotSent(_reason(error, "no connection in time")) from error
            raise NoResponse(_reason(error, "no response in time")) from error
        return response

    async def _connection(self) -> _Connection:
        now = anyio.current_time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < _IDLE_S and connection.is_quiet():
                return connection
            await connection.close()
        from anyio.abc import SocketAttribute

        address = self.address
        plain = await anyio.connect_tcp(address.host, address.port)
        found = plain.extra(SocketAttribute.raw_socket)  # noqa: S610 - no Django
        connected: Any = _Socket(plain)
        if address.tls is None:
            return _Connection(connected, connected, found.fileno())
        from anyio.streams.tls import TLSStream

        try:
            # The framing of a response shows a missing end, so TLS need not announce its end.
            secure = await TLSStream.wrap(
                connected,
                server_side=False,
                hostname=address.host,
                ssl_context=address.tls,
                standard_compatible=False,
            )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(plain)
            raise
        return _Connection(connected, secure, found.fileno())

    async def _release(self, connection: _Connection | None, response: Response | None) -> None:
        if connection is None:
            return
        if response is None or not response.keep_alive or connection.broken:
            await connection.close()
            return
        now = connection.idle_since = anyio.current_time()
        self._idle.append(connection)
        # While one is closed, other requests may take the rest.
        while self._idle and now - self._idle[0].idle_since >= _IDLE_S:
            await self._idle.popleft().close()

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()
        self._free = None


def _reason(error: Exception, timed_out: str) -> str:
    if isinstance(error, TimeoutError):
        return timed_out
    if isinstance(error, anyio.EndOfStream):
        return "the server closed the connection during the TLS handshake or a message"
    if isinstance(error, anyio.BrokenResourceError | anyio.ClosedResourceError):
        cause = error.__cause__
        return f"the connection broke: {cause}" if cause else "the connection broke"
    return str(error) or type(error).__name__
