"""Read and write the bytes of a connection in the fast lane, with or without TLS.

``SocketLaneTransport`` uses the socket itself, because the checks, locks and checkpoints of a trio
stream cost time in each call. ``TlsLaneTransport`` uses trio's ``SSLStream``, because hypercorn may
have to continue with that stream. Both raise ``Disconnected`` when the client has disconnected.
"""

from __future__ import annotations

import select
import socket
from typing import Final, Protocol

import trio

TlsStream = trio.SSLStream[trio.SocketStream]

_READ_BYTES: Final = 65_536  # hypercorn reads the same number of bytes at once
_RECORD_BYTES: Final = 16_384  # maximum content of one TLS record
_REST_OF_RECORD_S: Final = 1.0
"""How long the rest of a TLS record may take to arrive, in seconds."""


class Disconnected(Exception):
    """The client has closed the connection, so no response can be sent."""


class LaneTransport(Protocol):
    """The bytes of one connection.

    ``disconnected`` and ``wait_for_input`` may read ahead; the next ``receive`` returns the bytes.
    """

    async def receive(self) -> bytes:
        """Return the next bytes; empty at the end of the stream.

        Raises:
            Disconnected: the connection is broken.
        """
        ...

    async def send(self, data: bytes, *, hold_last_byte: bool = False, sent: int = 0) -> None:
        """Send ``data`` without its first ``sent`` bytes.

        Args:
            data: the whole message.
            hold_last_byte: if the message needs more than one write, check before its last byte
                that the client is still connected. A client that has disconnected never gets the
                last byte.
            sent: number of bytes that were sent before.

        Raises:
            Disconnected: the client has disconnected.
        """
        ...

    async def disconnected(self) -> bool:
        """Return whether the client has closed its side and all bytes that it sent are read."""
        ...

    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not read yet."""
        ...

    async def wait_for_input(self) -> bool:
        """Wait until the client sends bytes or closes its side; return whether it sent bytes."""
        ...

    def release(self) -> None:
        """Stop using the descriptor, which the stream may then close."""
        ...


def transport_for(stream: trio.SocketStream | TlsStream) -> LaneTransport:
    """Return the transport for a stream, which still owns its descriptor."""
    return (
        SocketLaneTransport(stream)
        if isinstance(stream, trio.SocketStream)
        else TlsLaneTransport(stream)
    )


class SocketLaneTransport:
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
        return _peek(self._sock) == b""

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
        # The kernel nearly always takes the whole message at once. Then nothing is awaited.
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

    Only reading a TLS record shows what it contains, so ``disconnected`` and ``wait_for_input``
    read ahead. Two tasks must not read at once. So the other methods wait until a cancelled
    ``wait_for_input`` has ended.
    """

    def __init__(self, stream: TlsStream) -> None:
        """Use ``stream`` until ``release``."""
        self._stream = stream
        self._sock = _borrow_socket(stream.transport_stream)
        self._read_ahead = b""
        self._watch_ended: trio.Event | None = None
        """Set when the running ``wait_for_input`` ends; None while none is running."""

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
        # The socket has bytes to read, or its end. So the read waits only for the rest of a record.
        with trio.move_on_after(_REST_OF_RECORD_S):
            self._read_ahead = await self._read()
            return not self._read_ahead
        return False

    def has_unread(self) -> bool:
        """Implement ``LaneTransport.has_unread``."""
        return bool(self._read_ahead or _peek(self._sock))

    async def wait_for_input(self) -> bool:
        """Implement ``LaneTransport.wait_for_input``."""
        # Raise a cancellation before the read: the task that cancelled this call may be reading.
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
        # The content of one record needs one write only, so no check is needed.
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


class PeerWatch:
    """Tells whether the client of a socket without TLS has closed its side.

    Reading the next byte of a silent socket raises an exception, which takes twice as long as
    asking whether anything has arrived.
    """

    __slots__ = ("_poll", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def has_closed(self) -> bool:
        """Return whether the client has closed its side and all its bytes are read."""
        return bool(self._poll.poll(0)) and _peek(self._sock) == b""


def _borrow_socket(stream: trio.SocketStream) -> socket.socket:
    """Return a second socket object for the stream's descriptor.

    The caller detaches the object before it is garbage collected, because it would otherwise close
    the descriptor.
    """
    wrapped = stream.socket
    sock = socket.socket(wrapped.family, wrapped.type, wrapped.proto, wrapped.fileno())
    sock.setblocking(False)
    return sock


def _peek(sock: socket.socket) -> bytes | None:
    """Return the next byte and leave it unread; empty at the end, None if no byte has arrived."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
