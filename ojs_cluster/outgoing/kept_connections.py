"""Idle connections to receivers, for their next requests."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio

from ojs_cluster.outgoing.exchange import OutgoingConnection
from ojs_cluster.outgoing.url import HttpUrl

_MAX_IDLE_S: Final = 4.0
"""Time in seconds after which an idle connection is not used any more. Many servers close such a
connection after five seconds."""
_MAX_AGE_S: Final = 60.0
"""Time in seconds after which a connection is not kept any more, because the name may have got
another address. One that is kept then may be used for ``_MAX_IDLE_S`` more."""

_Place = tuple[bool, str, int]


class KeptConnections:
    """The idle connections of one client.

    They are closed by the next call of ``pop`` or ``keep`` after their time.
    """

    def __init__(self, maximum: int) -> None:
        """Keep at most ``maximum`` connections; close those that are idle for the longest time."""
        self.maximum = maximum
        self._idle: OrderedDict[OutgoingConnection, tuple[_Place, float]] = OrderedDict()
        self._by_place: dict[_Place, list[OutgoingConnection]] = {}

    def pop(self, url: HttpUrl) -> OutgoingConnection | None:
        """Return a connection to the server of a URL, which the caller keeps again or closes."""
        self._close_old(trio.current_time())
        while connections := self._by_place.get(_place_of(url)):
            connection = self._remove(connections[-1])
            if connection.is_quiet():
                return connection
            connection.close()
        return None

    def keep(self, url: HttpUrl, connection: OutgoingConnection) -> None:
        """Keep a connection that has no request."""
        now, place = trio.current_time(), _place_of(url)
        if now >= connection.opened_at + _MAX_AGE_S:
            connection.close()
            return
        self._idle[connection] = place, now
        self._by_place.setdefault(place, []).append(connection)
        self._close_old(now)

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._remove(next(iter(self._idle))).close()

    def _close_old(self, now: float) -> None:
        while self._idle:
            oldest, (_, since) = next(iter(self._idle.items()))
            if len(self._idle) <= self.maximum and now < since + _MAX_IDLE_S:
                return
            self._remove(oldest).close()

    def _remove(self, connection: OutgoingConnection) -> OutgoingConnection:
        place, _ = self._idle.pop(connection)
        connections = self._by_place[place]
        connections.remove(connection)
        if not connections:
            del self._by_place[place]
        return connection


def _place_of(url: HttpUrl) -> _Place:
    return url.secure, url.host, url.port
