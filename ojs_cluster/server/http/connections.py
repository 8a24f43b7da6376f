"""The connections of one process: their number, their clients, and their idle time.

hypercorn's own idle timer ignores connections that never begin a request: an HTTP/2 connection
without a stream would stay open permanently. So one task checks hypercorn's connections, as one of
the fast lane checks its own.
"""

from __future__ import annotations

import errno
import logging
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from ojs_cluster.core.access.client_address import TrustedProxies
from ojs_cluster.http.access.certificate_subject import peer_of
from ojs_cluster.server.http.hypercorn_connection import BoundedServer

log = logging.getLogger("ojs.http")

_CHECKS_PER_TIMEOUT: Final = 8
_LONGEST_CHECK_S: Final = 1.0
_OTHER_DESCRIPTORS: Final = 256
"""Descriptors for connections to Redis, logs and other files of the process."""
_SHORT_OF: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORT_PAUSE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds on the connections of one process.

    Attributes:
        most: connections at a time; 0 for no bound.
        most_per_client: of one peer's address; 0 for no bound.
        proxies: peers that stand for many clients, and have no bound of their own.
        idle_s: seconds without a request.
        head_s: seconds for a head to arrive, from its first byte.
    """

    most: int = 0
    most_per_client: int = 0
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    idle_s: float = 120.0
    head_s: float = 10.0


class Connections:
    """The current connections of this process."""

    def __init__(self, limits: ConnectionLimits) -> None:
        """Begin with none."""
        self.limits = limits
        self._count = 0
        self._by_client: Counter[str] = Counter()
        self._left = trio.Event()
        self._draining = False
        self._served: dict[BoundedServer, trio.CancelScope] = {}

    async def accept(self, listener: trio.SocketListener) -> trio.SocketStream:
        """Accept the next connection once there is room for it.

        While there is none, connections wait in the kernel's queue, where another process of the
        node may accept them. To accept and close them here would prevent that. Listeners that wait
        at the same time may each accept one when there is room for only one.
        """
        while True:
            while self.limits.most and self._count >= self.limits.most:
                await self._left.wait()
            try:
                accepted = await listener.accept()
            except OSError as error:
                if error.errno not in _SHORT_OF:
                    raise
                log.warning("no connection can be accepted: %s", error.strerror)
                await trio.sleep(_SHORT_PAUSE_S)
            else:
                self._count += 1  # before this one is served, the next may be accepted
                return accepted

    def ended(self) -> None:
        """Note that an accepted connection has ended."""
        self._count -= 1
        self._left.set()  # wakes every listener that waits
        self._left = trio.Event()

    @contextmanager
    def admit(self, stream: trio.SocketStream) -> Iterator[bool]:
        """Count a connection while the block runs; yield whether its client may have it.

        The client is the peer of the socket. The clients behind a proxy are known only with their
        requests.
        """
        client = self.limits.proxies.client_of(peer_of(stream), None)
        most = self.limits.most_per_client
        admitted = not most or self._by_client[client] < most or self.limits.proxies.trusts(client)
        self._by_client[client] += 1
        try:
            yield admitted
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

    async def serve(self, server: BoundedServer) -> None:
        """Run hypercorn for a connection until it ends, or is idle or incomplete for too long."""
        with trio.CancelScope() as scope:
            self._served[server] = scope
            try:
                await server
            finally:
                del self._served[server]

    async def close_idle(self) -> None:
        """Close connections that are idle or send a head too slowly; run until cancelled.

        A close may be late by an eighth of the timeout, at most a second.
        """
        shortest_s = min(self.limits.idle_s, self.limits.head_s)
        interval_s = min(_LONGEST_CHECK_S, shortest_s / _CHECKS_PER_TIMEOUT)
        while True:
            await trio.sleep(interval_s)
            self._close_overdue(trio.current_time())

    def drain(self) -> None:
        """Close HTTP/2 connections as soon as they are idle; hypercorn closes all others."""
        self._draining = True
        self._close_overdue(trio.current_time())

    def _close_overdue(self, now: float) -> None:
        for server, scope in self._served.items():
            idle_s = 0.0 if self._draining and server.is_http2 else self.limits.idle_s
            if server.idle_since <= now - idle_s or server.head_since <= now - self.limits.head_s:
                scope.cancel()


def affordable_connections(wanted: int) -> int:
    """Return how many connections this process can hold: ``wanted``, or fewer by its file limit."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, files - _OTHER_DESCRIPTORS))
