"""The fast lane: the entry point that serves the hot routes over HTTP/1.1.

The fast lane serves the first requests of every HTTP/1.1 connection. It serves a request if the
request is simple (see ``parser``) and its route is marked ``fast`` in the route table. The request
passes through the same ``prepare`` and ``run`` as in the hypercorn entry, and its response has the
same bytes. The fast lane also serves simple GET requests for pages of the dashboard, by the same
views. At the first request that the fast lane does not serve, ``FastLane.serve`` returns the bytes
that it has read. From then on hypercorn serves the connection. So the fast lane needs no code for
chunks, upgrades and HTTP/2, and rejects no request as malformed.

Three things make the fast lane fast:

* Connections without TLS share one epoll (``idle_connections``), and most of their requests run
  without a trio task (``driver``).
* A response is one write, which is not awaited when the kernel takes it at once.
* One task checks the deadlines of all idle connections. A trio deadline for each connection was
  refused: setting it twice per request costs as much as parsing the request.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from time import perf_counter
from typing import Final

import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.connection import LaneConnection
from ojs_cluster.http.fast_lane.idle_connections import IdleConnections
from ojs_cluster.http.fast_lane.plain.verbs import PlainVerbs
from ojs_cluster.http.fast_lane.transport import TlsStream
from ojs_cluster.http.pages import Pages

_CHECKS_PER_TIMEOUT: Final = 8
_LONGEST_INTERVAL_S: Final = 1.0


class FastLane:
    """The fast lane of one process. It serves connections that are accepted after ``open``."""

    def __init__(
        self, *, stop: trio.Event, idle_timeout_s: float, head_timeout_s: float = 10.0
    ) -> None:
        """Create a fast lane that serves nothing yet.

        Args:
            stop: set when the process begins to shut down. From then on each response has the
                header ``Connection: close`` and is the last one of its connection.
            idle_timeout_s: how long a connection may be without a complete head, in seconds.
            head_timeout_s: how long a head may take from its first byte, in seconds.
        """
        self.stop = stop
        self.drained = False
        self.idle_connections = IdleConnections()
        """Serves the connections without TLS while its ``run`` is running. At other times the task
        of each connection serves it."""
        self.pages: Pages | None = None
        self.verbs: PlainVerbs | None = None
        self._idle_timeout_s = idle_timeout_s
        self._head_timeout_s = head_timeout_s
        self._app: App | None = None
        self._connections: set[LaneConnection] = set()

    def open(self, app: App, pages: Pages | None = None) -> None:
        """Serve ``app`` and ``pages`` on connections that are accepted from now on."""
        self._app, self.pages, self.verbs = app, pages, PlainVerbs(app)

    async def serve(self, stream: trio.SocketStream | TlsStream) -> bytes | None:
        """Serve a connection until it ends, or until hypercorn has to serve it.

        Returns:
            None when the connection has ended and ``stream`` is closed. Otherwise the bytes of the
            requests that this method has read and not served; hypercorn has to serve them.
        """
        if self._app is None:
            return b""
        connection = LaneConnection(self, self._app, stream)
        self._connections.add(connection)
        try:
            rest = await connection.run()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        finally:
            self._connections.discard(connection)
        if rest is None:
            if isinstance(stream, trio.SocketStream):
                with suppress(OSError):
                    stream.socket.shutdown(socket.SHUT_WR)  # as hypercorn does
                stream.socket.close()  # at once: both methods of a stream let other tasks run first
            else:
                await stream.aclose()
        return rest

    async def close_idle(self) -> None:
        """Close connections that are idle, or send a head too slowly, until cancelled.

        A connection may be closed late, by at most an eighth of the timeout and at most a second.
        """
        shortest_s = min(self._idle_timeout_s, self._head_timeout_s)
        interval_s = min(_LONGEST_INTERVAL_S, shortest_s / _CHECKS_PER_TIMEOUT)
        while True:
            await trio.sleep(interval_s)
            now = perf_counter()
            self._close_idle_since(now - self._idle_timeout_s)
            for connection in self._connections:
                if connection.head_since <= now - self._head_timeout_s:
                    connection.scope.cancel()

    def drain(self) -> None:
        """Close idle connections now, and every other one when it becomes idle.

        A request that has arrived and is not read yet is still served.
        """
        self.drained = True
        self._close_idle_since(perf_counter(), except_unread=True)

    def _close_idle_since(self, time: float, *, except_unread: bool = False) -> None:
        for connection in self._connections:
            if connection.idle_since > time or (except_unread and connection.has_unread()):
                continue
            connection.scope.cancel()
