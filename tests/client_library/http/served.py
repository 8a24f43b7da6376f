"""A server of bytes for the tests of connections, and event loops of both kinds."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.abc
from anyio.streams.tls import TLSStream

from ojs_client.http.connections import Address, Connections

LIMIT_S = 60
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SURPLUS = b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"
"""A response to no request."""
Stream = anyio.abc.ByteStream
Answer = Callable[[Stream, int], Awaitable[Any]]


class Served:
    """A server that passes each request, and the number of its connection, to a function.

    Args:
        answer: the function.
        tls: the server's TLS settings; None for plain HTTP.
    """

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self.connected = 0
        self.closed = anyio.Event()
        self.port = 0
        self._answer = answer
        self._tls = tls

    async def handle(self, plain: anyio.abc.SocketStream) -> None:
        self.connected += 1
        number = self.connected
        async with plain:
            try:
                stream = await self._secured(plain)
                while True:
                    self.requests.append(await stream.receive())
                    await self._answer(stream, number)
            except (
                ssl.SSLError,
                anyio.EndOfStream,
                anyio.BrokenResourceError,
                anyio.ClosedResourceError,
            ):
                self.closed.set()

    async def _secured(self, plain: anyio.abc.SocketStream) -> Stream:
        if self._tls is None:
            return plain
        wrap = partial(TLSStream.wrap, plain, server_side=True, standard_compatible=False)
        return await wrap(ssl_context=self._tls)

    @asynccontextmanager
    async def running(
        self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> AsyncIterator[Connections]:
        """Serve until the block ends, and yield connections to the server.

        Args:
            tls: the TLS settings of these connections; None for plain HTTP.
            host: the name that they connect to.
        """
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self.handle)
            pool = Connections(Address(host, self.port, tls), max_connections=2)
            try:
                yield pool
            finally:
                await pool.close()
                group.cancel_scope.cancel()


class HangsUp(Served):
    """A server, such as the balancer of an empty backend, that ends each connection at once."""

    async def handle(self, plain: anyio.abc.SocketStream) -> None:
        self.connected += 1
        async with plain:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await plain.receive()  # unread bytes would become a reset


async def reply(stream: Stream, number: int) -> None:
    await stream.send(REPLY)
