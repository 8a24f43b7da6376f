"""What the fast lane reads from and writes to: a socket, or TLS over one.

`PlainWire` works on the socket itself, as trio's streams check, lock and reschedule around each
call. `TlsWire` leaves the records to trio's `SSLStream`, because hypercorn has to be able to go on
with it. Both raise `Left` when the client is gone.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

import trio

TlsStream = trio.SSLStream[trio.SocketStream]

_MOST: Final = 65_536  # bytes read at once, as in hypercorn
_RECORD: Final = 16_384  # bytes that one record of TLS holds
_REST_OF_RECORD_S: Final = 1.0


class Left(Exception):
    """The client is gone: nobody is left to answer."""


class Wire(Protocol):
    """One connection. Bytes that `gone` and `stays` come across are given by the next `receive`."""

    async def receive(self) -> bytes:
        """What comes next, empty at the end. Raises Left."""
        ...

    async def send(self, data: bytes, *, look: bool = False, sent: int = 0) -> None:
        """Send all of it but the first ``sent`` bytes. Raises Left.

        With ``look`` a client that leaves before it has taken nearly all gets the last byte no
        more.
        """
        ...

    async def gone(self) -> bool:
        """Whether the client has closed its side and sent nothing before that is not read yet."""
        ...

    def unread(self) -> bool:
        """Whether something has arrived that was not read yet."""
        ...

    async def stays(self) -> bool:
        """Wait until the client sends something or closes its side; tells whether it sent."""
        ...

    def release(self) -> None:
        """Give the stream back to who has opened it."""
        ...


def wire_over(stream: trio.SocketStream | TlsStream) -> Wire:
    """The wire for this stream, which stays the owner of its descriptor."""
    return PlainWire(stream) if isinstance(stream, trio.SocketStream) else TlsWire(stream)


class PlainWire:
    """A socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.socket = self._sock = _borrowed(stream)

    def release(self) -> None:
        self._sock.detach()

    async def receive(self) -> bytes:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(_MOST)
            except BlockingIOError:
                continue
            except OSError:
                raise Left from None

    async def gone(self) -> bool:
        return has_ended(self._sock)

    def unread(self) -> bool:
        return bool(_peek(self._sock))

    async def stays(self) -> bool:
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            seen = _peek(self._sock)
            if seen is not None:
                return bool(seen)

    async def send(self, data: bytes, *, look: bool = False, sent: int = 0) -> None:
        # Nearly always the kernel takes all at once, and nothing is awaited.
        if not sent:
            sent = self._send_some(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            await trio.lowlevel.wait_writable(self._sock)
            if look and len(rest) == 1 and await self.gone():
                raise Left
            rest = rest[self._send_some(rest[:-1] if look and len(rest) > 1 else rest) :]

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            raise Left from None


class TlsWire:
    """TLS whose handshake is done.

    A record says what it is only once it has been read, so whoever looks whether the client stays
    reads ahead. Two tasks must not read at once: a new reader waits for a cancelled one to be out.
    """

    def __init__(self, stream: TlsStream) -> None:
        self._stream = stream
        self._sock = _borrowed(stream.transport_stream)
        self._ahead = b""
        self._watched: trio.Event | None = None

    def release(self) -> None:
        self._sock.detach()

    async def receive(self) -> bytes:
        if self._watched is not None:
            await self._watched.wait()
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        return await self._read()

    async def gone(self) -> bool:
        if self._watched is not None:
            await self._watched.wait()
        if self._ahead or _peek(self._sock) is None:
            return False
        # Bytes or the end. Only a record that has not come as a whole is waited for.
        with trio.move_on_after(_REST_OF_RECORD_S):
            self._ahead = await self._read()
            return not self._ahead
        return False

    def unread(self) -> bool:
        return bool(self._ahead or _peek(self._sock))

    async def stays(self) -> bool:
        await trio.lowlevel.checkpoint_if_cancelled()  # begun too late: others read already
        self._watched = trio.Event()
        try:
            self._ahead = await self._read()
            return bool(self._ahead)
        except Left:
            return False
        finally:
            self._watched.set()
            self._watched = None

    async def send(self, data: bytes, *, look: bool = False, sent: int = 0) -> None:
        data = data[sent:]
        if look and len(data) > _RECORD:
            await self._write(data[:-1])
            if await self.gone():
                raise Left
            data = data[-1:]
        await self._write(data)

    async def _read(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(_MOST))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Left from None

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Left from None


def has_ended(sock: socket.socket) -> bool:
    """Whether the client has closed its side, and all that it sent before was read."""
    return _peek(sock) == b""


def _borrowed(stream: trio.SocketStream) -> socket.socket:
    """The stream's descriptor without trio's wrapper; it must be detached before it is dropped."""
    found = stream.socket
    sock = socket.socket(found.family, found.type, found.proto, found.fileno())
    sock.setblocking(False)
    return sock


def _peek(sock: socket.socket) -> bytes | None:
    """The next byte, left where it is: empty at the end, None while nothing comes."""
    try:
        return sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError:
        return b""
