"""The byte stream to one node: a plain socket or TLS.

``PlainTransport`` does not use ``trio.SocketStream``, to save time. ``SocketStream`` tries to
receive before it waits. This wastes a system call, because the client usually reads before the
server has sent. Its send has a loop and a checkpoint that are rarely needed.
"""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

import trio

from ojs_cluster.redis.keepalive import keep_alive
from ojs_cluster.redis.settings import Address

RECEIVE_BYTES = 64 * 1024
UNACKNOWLEDGED_S = 30.0
"""Seconds without a TCP acknowledgement after which the kernel closes a connection."""


class Transport(Protocol):
    """The byte stream of a connection. ``receive`` and ``send`` may raise OSError."""

    can_send_now: bool
    """Whether ``send_now`` can send bytes; if False, it always returns 0."""

    async def receive(self) -> bytes:
        """Return the next bytes, at most ``RECEIVE_BYTES``; empty when the peer has closed."""

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""

    def send_now(self, data: bytes) -> int:
        """Send as much as possible without waiting; return how many bytes were sent.

        After an error the result is 0.
        """

    def close(self) -> None:
        """Close at once, without a TLS close_notify; tasks in ``receive`` and ``send`` wake up."""


class PlainTransport:
    """A TCP socket in non-blocking mode."""

    can_send_now = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def receive(self) -> bytes:
        """Implement ``Transport.receive``; wait first, so that a busy node cannot starve others."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue

    async def send(self, data: bytes) -> None:
        """Implement ``Transport.send`` without a checkpoint if the socket takes all bytes."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return
        view = memoryview(data)
        while sent < len(view):
            await trio.lowlevel.wait_writable(self._sock)
            try:
                sent += self._sock.send(view[sent:])
            except BlockingIOError:
                continue

    def send_now(self, data: bytes) -> int:
        """See ``Transport.send_now``."""
        try:
            return self._sock.send(data)
        except OSError:
            return 0

    def close(self) -> None:
        """See ``Transport.close``."""
        if self._sock.fileno() != -1:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TlsTransport:
    """TLS over TCP. trio's ``SSLStream`` cannot send without waiting."""

    can_send_now = False

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def receive(self) -> bytes:
        """See ``Transport.receive``."""
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionError(_reason(error)) from error

    async def send(self, data: bytes) -> None:
        """See ``Transport.send``."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionError(_reason(error)) from error

    def send_now(self, data: bytes) -> int:
        """See ``Transport.send_now``."""
        return 0

    def close(self) -> None:
        """See ``Transport.close``."""
        self._stream.transport_stream.socket.close()


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error) or type(error).__name__


async def open_transport(
    address: Address, tls: ssl.SSLContext | None, *, hostname: str | None = None
) -> Transport:
    """Connect to ``address``. The caller sets a timeout.

    Raises:
        OSError: the connection was refused, the host is unreachable or unknown, or the TLS
            handshake failed.
    """
    stream = await trio.open_tcp_stream(address.host, address.port)
    keep_alive(stream, unacknowledged_s=UNACKNOWLEDGED_S)
    if tls is not None:
        name = hostname or address.host
        secure = trio.SSLStream(stream, tls, server_hostname=name, https_compatible=True)
        try:
            await secure.do_handshake()
        except trio.BrokenResourceError as error:
            stream.socket.close()
            raise ConnectionError(_reason(error)) from error
        except BaseException:
            stream.socket.close()
            raise
        return TlsTransport(secure)
    plain = socket.socket(fileno=stream.socket.detach())
    plain.setblocking(False)
    return PlainTransport(plain)
