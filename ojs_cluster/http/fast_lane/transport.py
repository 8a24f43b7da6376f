"""What the fast lane reads from and writes to: a socket, or TLS over a socket.

``PlainLaneTransport`` works on the socket itself, because trio's streams check, lock and reschedule
around each call. ``TlsLaneTransport`` leaves the TLS records to trio's ``SSLStream``, because
hypercorn may have to continue with that stream. Both raise ``Disconnected`` when the client has
left.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

import trio

TlsStream = trio.SSLStream[trio.SocketStream]

_READ_BYTES: Final = 65_536  # as hypercorn reads at once
_RECORD_BYTES: Final = 16_384  # content of one TLS record
_REST_OF_RECORD_S: Final = 1.0


class Disconnected(Exception):
    """The client has closed the connection, so no response can be sent."""


class LaneTransport(Protocol):
    """The bytes of one connection.

    ``disconnected`` and ``wait_for_input`` may read ahead; the next ``receive`` returns the bytes.
    """

    async def receive(self) -> bytes:
        """Return the next bytes, empty at the end of the stream. Raises Disconnected."""
        ...

    async def send(self, data: bytes, *, hold_last_byte: bool = False, sent: int = 0) -> None:
        """Send ``data`` without its first ``sent`` bytes.

        Args:
            data: the whole message.
            hold_last_byte: check for a disconnected client before the last byte, when the message
                does not leave in one piece. A client that has disconnected never gets that byte.
            sent: bytes that were sent before.

        Raises:
            Disconnected: the client is gone.
        """
        ...

    async def disconnected(self) -> bool:
        """Return whether the client has closed its side and no sent bytes are left to read."""
        ...

    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not read yet."""
        ...

    async def wait_for_input(self) -> bool:
        """Wait until the client sends bytes or closes its side; return whether it sent bytes."""
        ...

    def release(self) -> None:
        """Return the descriptor to the stream, which may close it afterwards."""
        ...


def transport_for(stream: trio.SocketStream | TlsStream) -> LaneTransport:
    """Return the transport for a stream, which still owns its descriptor."""
    return (
        PlainLaneTransport(stream)
        if isinstance(stream, trio.SocketStream)
        else TlsLaneTransport(stream)
    )


class PlainLaneTransport:
    """A socket without TLS."""

    def __init__(self, stream: trio.SocketStream) -> None:
        """Use the socket of ``stream`` until ``release``."""
        self.socket = self._sock = _borrow_socket(stream)

    def release(self) -> None:
        """Implement ``LaneTransport.release``."""
        self._sock.detach()

    async def receive(self) -> bytes:
        """Implement ``LaneTransport.receive``."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                raise Disconnected from None

    async def disconnected(self) -> bool:
        """Implement ``LaneTransport.disconnected``."""
        return peer_has_closed(self._sock)

    def has_unread(self) -> bool:
        """Implement ``LaneTransport.has_unread``."""
        return bool(_peek(self._sock))

    async def wait_for_input(self) -> bool:
        """Implement ``LaneTransport.wait_for_input``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            first = _peek(self._sock)
            if first is not None:
                return bool(first)

    async def send(self, data: bytes, *, hold_last_byte: bool = False, sent: int = 0) -> None:
        """Implement ``LaneTransport.send``."""
        # The kernel nearly always takes the whole message, so nothing is awaited.
        if not sent:
            sent = self._send_some(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            await trio.lowlevel.wait_writable(self._sock)
            if hold_last_byte and len(rest) == 1 and await self.disconnected():
                raise Disconnected
            rest = rest[self._send_some(rest[:-1] if hold_last_byte and len(rest) > 1 else rest) :]

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            raise Disconnected from None


class TlsLaneTransport:
    """TLS whose handshake is complete.

    The content of a TLS record is known only after it is read, so ``disconnected`` and
    ``wait_for_input`` read ahead. Two tasks must not read at once: a new reader waits until a
    cancelled reader has ended.
    """

    def __init__(self, stream: TlsStream) -> None:
        """Use ``stream`` until ``release``."""
        self._stream = stream
        self._sock = _borrow_socket(stream.transport_stream)
        self._read_ahead = b""
        self._watch_ended: trio.Event | None = None
        """Set when the present ``wait_for_input`` has ended; None while there is none."""

    def release(self) -> None:
        """Implement ``LaneTransport.release``."""
        self._sock.detach()

    async def receive(self) -> bytes:
        """Implement ``LaneTransport.receive``."""
        if self._watch_ended is not None:
            await self._watch_ended.wait()
        if self._read_ahead:
            data, self._read_ahead = self._read_ahead, b""
            return data
        return await self._read()

    async def disconnected(self) -> bool:
        """Implement ``LaneTransport.disconnected``."""
        if self._watch_ended is not None:
            await self._watch_ended.wait()
        if self._read_ahead or _peek(self._sock) is None:
            return False
        # The socket has bytes or its end. The read waits only for the rest of a record.
        with trio.move_on_after(_REST_OF_RECORD_S):
            self._read_ahead = await self._read()
            return not self._read_ahead
        return False

    def has_unread(self) -> bool:
        """Implement ``LaneTransport.has_unread``."""
        return bool(self._read_ahead or _peek(self._sock))

    async def wait_for_input(self) -> bool:
        """Implement ``LaneTransport.wait_for_input``."""
        # If the watch is cancelled before it begins, another task may read already.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._watch_ended = trio.Event()
        try:
            self._read_ahead = await self._read()
            return bool(self._read_ahead)
        except Disconnected:
            return False
        finally:
            self._watch_ended.set()
            self._watch_ended = None

    async def send(self, data: bytes, *, hold_last_byte: bool = False, sent: int = 0) -> None:
        """Implement ``LaneTransport.send``."""
        data = data[sent:]
        if hold_last_byte and len(data) > _RECORD_BYTES:
            await self._write(data[:-1])
            if await self.disconnected():
                raise Disconnected
            data = data[-1:]
        await self._write(data)

    async def _read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Disconnected from None

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Disconnected from None


def peer_has_closed(sock: socket.socket) -> bool:
    """Return whether the client has closed its side and all its bytes are read."""
    return _peek(sock) == b""


def _borrow_socket(stream: trio.SocketStream) -> socket.socket:
    """Return a socket with the stream's descriptor; detach it before it is garbage collected."""
    wrapped = stream.socket
    sock = socket.socket(wrapped.family, wrapped.type, wrapped.proto, wrapped.fileno())
    sock.setblocking(False)
    return sock


def _peek(sock: socket.socket) -> bytes | None:
    """Return the next byte without reading it: empty at the end, None when none has arrived."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
