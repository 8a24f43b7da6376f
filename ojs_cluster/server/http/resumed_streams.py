"""Streams whose first bytes were already read, for hypercorn.

The fast lane reads the first bytes of a connection. If it cannot serve them, hypercorn reads the
same bytes again from the resumed stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from ojs_cluster.server.tls import TlsStream

SendAll = Callable[[bytes], Awaitable[None]]


def resume(stream: trio.SocketStream | TlsStream, already_read: bytes, send_all: SendAll) -> Any:
    """Return the resumed stream for hypercorn.

    The return type is ``Any``, because hypercorn annotates only a TLS stream but accepts both.
    """
    if isinstance(stream, trio.SocketStream):
        return ResumedStream(stream, already_read, send_all)
    return ResumedTlsStream(stream, already_read, send_all)


class ResumedStream:
    """A stream without TLS whose first bytes were already read; it returns them again.

    It has only the attributes that hypercorn's ``TCPServer`` uses, not all of ``trio.abc.Stream``.
    ``tests/server/test_hypercorn.py`` checks which attributes these are. hypercorn decides by the
    attribute ``do_handshake`` whether a stream has TLS, so ``ResumedTlsStream`` is another class.
    """

    def __init__(
        self, stream: trio.SocketStream, already_read: bytes, send_all: SendAll | None = None
    ) -> None:
        """Resume ``stream``.

        Args:
            stream: the stream.
            already_read: the bytes that were read from ``stream``.
            send_all: the function to send with; None for that of ``stream``.
        """
        self.receive_some = _ResumedReader(stream, already_read).receive_some
        self.socket = stream.socket
        self.send_all = send_all or stream.send_all
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose


class ResumedTlsStream:
    """A TLS stream after its handshake whose first bytes were already read."""

    def __init__(
        self, stream: TlsStream, already_read: bytes, send_all: SendAll | None = None
    ) -> None:
        """Resume ``stream``; the arguments are those of ``ResumedStream``."""
        self.receive_some = _ResumedReader(stream, already_read).receive_some
        self.transport_stream = stream.transport_stream
        self.do_handshake = stream.do_handshake
        self.selected_alpn_protocol = stream.selected_alpn_protocol
        self.send_all = send_all or stream.send_all
        self.aclose = stream.aclose


class _ResumedReader:
    """The reading side of ``ResumedStream`` and ``ResumedTlsStream``."""

    def __init__(self, stream: trio.SocketStream | TlsStream, already_read: bytes) -> None:
        self._stream = stream
        self._already_read = already_read

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return the bytes that were already read, then further bytes of the stream."""
        if self._already_read:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._already_read)
            data, self._already_read = self._already_read[:size], self._already_read[size:]
            return data
        return await self._stream.receive_some(max_bytes)
