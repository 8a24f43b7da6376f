"""Send HTTP requests to addresses that the caller has resolved, on connections that it may keep.

Most features of HTTP clients would be wrong here: proxies of the environment, redirects, cookies,
retries, decompression. h11, which hypercorn uses too, reads the response. (Rejected: httpx and
httpcore. They resolve the name themselves, so the connection may go to an unchecked address. They
would also be two more dependencies of the image.)

The caller limits the time by a cancel scope, whose deadline ``exchange`` reads. A response takes at
most ``max_body`` bytes and a bounded head.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from math import inf
from typing import Final

import h11
import trio

from ojs_cluster.outgoing.url import HttpUrl

_MAX_HEAD: Final = 16 * 1024
_READ: Final = 4096
_CONNECT_S: Final = 10.0
"""Maximum time in seconds to connect to one address."""
FAILURES: Final = (OSError, UnicodeError, trio.BrokenResourceError, h11.RemoteProtocolError)
"""What ``exchange`` and a look-up of a name raise when the other side is at fault."""


async def exchange(
    url: HttpUrl,
    addresses: Sequence[str],
    method: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    *,
    max_body: int,
    body_s: float = inf,
) -> tuple[h11.Response, bytes]:
    """Send a request; return the head of the response and the beginning of its body.

    A body that is cut short, by a limit or by the server, is returned as far as it was received. A
    body of ``max_body`` bytes may have gone on: a caller that must know asks for one byte more.

    Args:
        url: the URL.
        addresses: the addresses of its host, the first one that accepts a connection is used.
        method: the method.
        headers: the headers without ``Host``, ``Connection`` and ``Content-Length``.
        body: the body of the request; empty for GET.
        max_body: maximum number of bytes of the response's body that are read.
        body_s: maximum time to read the response's body, in seconds.

    Raises:
        OSError: no connection.
        trio.BrokenResourceError: TLS has failed, or the connection broke before the head of the
            response.
        h11.RemoteProtocolError: the response is not HTTP/1.1.
        h11.LocalProtocolError: a header is not allowed, or a GET has a body.
    """
    connection = await OutgoingConnection.open(url, addresses)
    try:
        given = [("Connection", "close"), *headers]
        return await connection.ask(url, method, given, body, max_body=max_body, body_s=body_s)
    finally:
        connection.close()


class OutgoingConnection:
    """A connection to one server, for one request after the other.

    Attributes:
        opened_at: trio's time, in seconds, when it was opened.
    """

    def __init__(self, socket_stream: trio.SocketStream, stream: trio.abc.Stream) -> None:
        """Use the stream of a new socket, or the TLS stream over it."""
        self._socket = socket_stream.socket
        self._stream = stream
        self.opened_at = trio.current_time()
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)

    @classmethod
    async def open(cls, url: HttpUrl, addresses: Sequence[str]) -> OutgoingConnection:
        """Connect to the first address that accepts a connection.

        Raises:
            OSError: no address does.
        """
        stream = await _connect(addresses, url.port)
        if not url.secure:
            return cls(stream, stream)
        secure = trio.SSLStream(
            stream, _tls_context(), server_hostname=url.host, https_compatible=True
        )
        return cls(stream, secure)

    async def ask(
        self,
        url: HttpUrl,
        method: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        max_body: int,
        body_s: float,
    ) -> tuple[h11.Response, bytes]:
        """Send a request, and return what ``exchange`` returns and raises."""
        given = [("Host", url.authority), *headers]
        if method != "GET":
            given.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=url.target, headers=given)
        await _send(self._protocol, self._stream, request, body)
        return await _receive(self._protocol, self._stream, max_body, body_s)

    def renew(self) -> bool:
        """Prepare for another request; return whether the connection can carry one."""
        with suppress(h11.LocalProtocolError):
            self._protocol.start_next_cycle()
            return not self._protocol.trailing_data[0]
        return False

    def is_quiet(self) -> bool:
        """Return whether the server has neither closed the connection nor sent anything."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the socket. Closing TLS normally would wait for the server."""
        self._socket.close()


def reason_of(failure: BaseException) -> str:
    """Return why an exchange failed, without its address, which clients must not learn."""
    if isinstance(failure, (socket.gaierror, UnicodeError)):
        return "the host name cannot be resolved"
    if isinstance(failure, h11.RemoteProtocolError):
        return "the response is not HTTP/1.1"
    cause = failure.__cause__ if isinstance(failure, trio.BrokenResourceError) else failure
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or 'failed'}"
    if isinstance(cause, OSError) and cause.errno:
        return f"connection failed: {os.strerror(cause.errno)}"
    return f"connection failed: {type(cause).__name__ if cause else 'closed'}"


async def _connect(addresses: Sequence[str], port: int) -> trio.SocketStream:
    failure: OSError = OSError("the host has no address")
    for number, address in enumerate(addresses):
        try:
            with trio.fail_after(_connect_s(len(addresses) - number - 1)):
                return await trio.open_tcp_stream(address, port)
        except trio.TooSlowError:
            failure = TimeoutError(errno.ETIMEDOUT, "timed out")
        except OSError as error:
            # The error of open_tcp_stream has no errno; its cause has.
            cause = error.__cause__
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            failure = cause if isinstance(cause, OSError) else error
    raise failure


def _connect_s(further: int) -> float:
    """Return how long a connection may take, in seconds.

    The addresses and the response share the time of the caller. Without that, a first address that
    does not answer would use all of it.

    Args:
        further: the number of addresses that are tried afterwards.
    """
    if not further:
        return _CONNECT_S
    left = trio.current_effective_deadline() - trio.current_time()
    return max(0.0, min(_CONNECT_S, left / (further + 2)))


async def _send(
    connection: h11.Connection, stream: trio.abc.Stream, request: h11.Request, body: bytes
) -> None:
    data = [connection.send(each) for each in (request, h11.Data(data=body), h11.EndOfMessage())]
    await stream.send_all(b"".join(piece for piece in data if piece))


async def _receive(
    connection: h11.Connection, stream: trio.abc.Stream, max_body: int, body_s: float
) -> tuple[h11.Response, bytes]:
    event = await _next_event(connection, stream)
    while isinstance(event, h11.InformationalResponse):
        event = await _next_event(connection, stream)
    if not isinstance(event, h11.Response):
        raise h11.RemoteProtocolError("the connection was closed without a response")
    content = bytearray()
    with trio.move_on_after(body_s), suppress(h11.RemoteProtocolError, trio.BrokenResourceError):
        while len(content) <= max_body:
            part = await _next_event(connection, stream)
            if not isinstance(part, h11.Data):
                break
            content += part.data
    return event, bytes(content[:max_body])


async def _next_event(connection: h11.Connection, stream: trio.abc.Stream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(bytes(await stream.receive_some(_READ)))


@lru_cache(maxsize=1)
def _tls_context() -> ssl.SSLContext:
    """Return a context that trusts the authorities of the machine, or of ``SSL_CERT_FILE``."""
    return ssl.create_default_context()
