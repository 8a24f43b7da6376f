"""The second door: the hot routes over HTTP/1.1, on our own small loop.

A connection is first served here. As long as its requests are plain (`lane_parser`) and for routes
marked ``fast`` in the route table, they go through the same `prepare` and `run` as in the first
door, and the answers have the same bytes. With the first request that is not, `FastLane.serve`
gives back the bytes that were read, and the connection is hypercorn's for the rest of its life. So
the lane knows nothing of chunks, upgrades and HTTP/2, and never says that a request is malformed.

What makes it fast: plain connections share one epoll (`lane_turns`), and their requests run without
a task as long as they need none (`lane_driver`). One write per response, no await for a write that
the kernel takes at once, and one task that looks at the deadlines of all idle connections (trio
keeps deadlines in a heap: setting one twice per request costs as much as parsing it).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.fast_lane.connection import LaneConnection
from ojs_cluster.http.fast_lane.idle_connections import Turns
from ojs_cluster.http.fast_lane.transport import TlsStream

_LOOKS_PER_TIMEOUT: Final = 8
_LONGEST_LOOK_S: Final = 1.0


class FastLane:
    """The lane of one process. It serves connections that come after `open`."""

    def __init__(
        self, *, stop: trio.Event, idle_timeout_s: float, head_timeout_s: float = 10.0
    ) -> None:
        """Prepare the lane; nothing starts yet.

        ``stop`` is set when the process is to end: from then on each answer is the last one of its
        connection, and says so. ``idle_timeout_s`` is how long a connection may be without a
        complete head, in seconds, and ``head_timeout_s`` how long from a head's first byte.
        """
        self.stop = stop
        self.drained = False
        self.turns = Turns()
        """Serves plain connections while ``turns.run`` runs; else each is served by its task."""
        self._idle_timeout_s = idle_timeout_s
        self._head_timeout_s = head_timeout_s
        self._app: App | None = None
        self._connections: set[LaneConnection] = set()

    def open(self, app: App) -> None:
        """Serve ``app`` on connections that come from now on."""
        self._app = app

    async def serve(self, stream: trio.SocketStream | TlsStream) -> bytes | None:
        """Serve a connection until it ends, or until it is hypercorn's.

        Returns None when it has ended and ``stream`` is closed, else the bytes that were read and
        belong to requests that were not served.
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
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_eof()  # as hypercorn does
            await stream.aclose()
        return rest

    async def close_idle(self) -> None:
        """Close connections that are idle, or send a head too slowly; runs until cancelled.

        They are closed late by up to an eighth of the timeout, or a second if that is less.
        """
        shortest_s = min(self._idle_timeout_s, self._head_timeout_s)
        interval_s = min(_LONGEST_LOOK_S, shortest_s / _LOOKS_PER_TIMEOUT)
        while True:
            await trio.sleep(interval_s)
            now = trio.current_time()
            self._close_idle_since(now - self._idle_timeout_s)
            for connection in self._connections:
                if connection.head_since <= now - self._head_timeout_s:
                    connection.scope.cancel()

    def drain(self) -> None:
        """Close what is idle now, and from now on what would become so.

        A request that has arrived and was not read yet is served all the same.
        """
        self.drained = True
        self._close_idle_since(trio.current_time(), spare_unread=True)

    def _close_idle_since(self, moment: float, *, spare_unread: bool = False) -> None:
        for connection in self._connections:
            if connection.idle_since <= moment and not (spare_unread and connection.has_unread()):
                connection.scope.cancel()
