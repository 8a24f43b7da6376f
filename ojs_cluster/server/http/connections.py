"""The connections of one process: their number, their clients, and their idle time.

hypercorn's idle timer costs a task per request, and starts with the first request, so an HTTP/2
connection without a stream would stay open permanently. So ``Connections.close_idle`` checks
hypercorn's connections. The fast lane checks its own connections (``FastLane.close_idle``).
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Final

import trio

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.access.certificate_subject import peer_of
from ojs_cluster.server.http.hypercorn_connection import BoundedServer

log = logging.getLogger("ojs.http")

_CHECKS_PER_TIMEOUT: Final = 8
_MAX_CHECK_INTERVAL_S: Final = 1.0
_RESERVED_DESCRIPTORS: Final = 256
"""Number of file descriptors kept for connections to Redis, logs and other files of the process."""
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors of accept(2) that end when other connections close or memory is freed."""
_CLIENT_GONE: Final = frozenset(
    {
        *(errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.ENOPROTOOPT),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EOPNOTSUPP),
        getattr(errno, "ENONET", errno.EPROTO),  # Linux only
    }
)
"""Errors of accept(2) that concern one connection, which has ended or is filtered."""
_RETRY_ACCEPT_S: Final = 0.1
_BURST: Final = 8
"""Maximum number of connections that a process accepts at once."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits on the connections of one process.

    Attributes:
        max_connections: maximum number of simultaneous connections; 0 for no maximum.
        max_per_client: maximum number of simultaneous connections from one peer address; 0 for no
            maximum.
        proxies: peers that carry the connections of many clients. ``max_per_client`` does not
            apply to them.
        idle_s: seconds after which a connection without a request is closed.
        head_s: maximum number of seconds from the first byte of a request to the end of its head.
    """

    max_connections: int = 0
    max_per_client: int = 0
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    idle_s: float = 120.0
    head_s: float = 10.0


class Connections:
    """The current connections of this process."""

    def __init__(self, limits: ConnectionLimits) -> None:
        """Start without connections."""
        self.limits = limits
        self._count = 0
        self._counts_by_client: Counter[str] = Counter()
        self._connection_ended = trio.Event()
        self._draining = False
        self._servers: dict[BoundedServer, trio.CancelScope] = {}

    async def accept(self, listener: socket.socket) -> list[trio.SocketStream]:
        """Accept the next connections, as soon as the number of connections is below the maximum.

        At the maximum, new connections wait in the kernel's queue, from which another process of
        the node may accept them. (Rejected: to accept and close them. The client would have to
        reconnect although another process is free.) If several listeners wait when one connection
        ends, each of them may accept one connection.

        Args:
            listener: a listening socket that does not block.

        Returns:
            At least one connection, and at most ``_BURST``: other processes of the node accept from
            the same queue.
        """
        maximum = self.limits.max_connections or inf
        accepted: list[trio.SocketStream] = []
        while not accepted:
            while self._count >= maximum:
                await self._connection_ended.wait()
            await trio.lowlevel.wait_readable(listener)
            try:
                while len(accepted) < _BURST and self._count < maximum:
                    accepted.append(accept_now(listener))
                    # Counted here and not in `serve`, which may run only after the next accept.
                    self._count += 1
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    if accepted:  # they are served first
                        break
                    log.warning("cannot accept connections, trying again: %s", error.strerror)
                    await trio.sleep(_RETRY_ACCEPT_S)
                elif error.errno not in _CLIENT_GONE:
                    raise
        return accepted

    def ended(self) -> None:
        """Count the end of a connection that ``accept`` returned."""
        self._count -= 1
        self._connection_ended.set()  # wakes all listeners that wait in `accept`
        self._connection_ended = trio.Event()

    @contextmanager
    def admit(self, stream: trio.SocketStream) -> Iterator[bool]:
        """Count a connection during the block; yield whether its client is within its limit.

        The client is the peer of the socket. Behind a proxy, clients can be told apart only by the
        headers of their requests, so no limit per client applies to a trusted proxy.
        """
        client = self.limits.proxies.client_of(peer_of(stream), None)
        maximum = self.limits.max_per_client
        admitted = (
            not maximum
            or self._counts_by_client[client] < maximum
            or self.limits.proxies.trusts(client)
        )
        self._counts_by_client[client] += 1
        try:
            yield admitted
        finally:
            self._counts_by_client[client] -= 1
            if not self._counts_by_client[client]:
                del self._counts_by_client[client]

    async def serve(self, server: BoundedServer) -> None:
        """Run hypercorn for a connection until it ends or ``close_idle`` closes it."""
        with trio.CancelScope() as scope:
            self._servers[server] = scope
            try:
                await server
            finally:
                del self._servers[server]

    async def close_idle(self) -> None:
        """Close connections that are idle, or send a head too slowly, until cancelled.

        A connection may be closed late, by at most an eighth of the timeout and at most a second.
        """
        shortest_s = min(self.limits.idle_s, self.limits.head_s)
        interval_s = min(_MAX_CHECK_INTERVAL_S, shortest_s / _CHECKS_PER_TIMEOUT)
        while True:
            await trio.sleep(interval_s)
            self._close_overdue(trio.current_time())

    def drain(self) -> None:
        """Close each HTTP/2 connection as soon as it is idle; hypercorn closes HTTP/1 connections.

        Connections that are not idle now are closed by ``close_idle``.
        """
        self._draining = True
        self._close_overdue(trio.current_time())

    def _close_overdue(self, now: float) -> None:
        for server, scope in self._servers.items():
            idle_s = 0.0 if self._draining and server.is_http2 else self.limits.idle_s
            if server.idle_since <= now - idle_s or server.head_since <= now - self.limits.head_s:
                scope.cancel()


def accept_now(listener: socket.socket) -> trio.SocketStream:
    """Accept a connection that waits.

    Raises:
        BlockingIOError: none waits.
        OSError: see accept(2).
    """
    accepted, _ = listener.accept()
    return trio.SocketStream(trio.socket.from_stdlib_socket(accepted))


def max_connections_possible(configured: int) -> int:
    """Return the maximum number of connections: ``configured``, or what the file limit allows."""
    file_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if file_limit == resource.RLIM_INFINITY:
        return configured
    return max(1, min(configured, file_limit - _RESERVED_DESCRIPTORS))
