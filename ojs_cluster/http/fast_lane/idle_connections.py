"""One epoll for all connections without TLS of a process that wait for a request.

trio registers a descriptor with its own epoll again for every wait, and wakes a task for every
event. Here a connection is registered once, and one task waits for the events of all connections.
In each round the task lets every readable connection begin its next request. After that it sends
the commands of all these requests to Redis in one write, and the responses that need no command.

epoll exists only on Linux. On other systems each connection has its own task (``connection``).
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Final, Protocol

import trio

from ojs_cluster.redis.driven_coroutines import driver_state

_MAX_EVENTS: Final = 64
"""Maximum number of connections that one round serves. Small requests take some milliseconds."""


class IdleConnection(Protocol):
    """A connection that waits for a request. Its methods must not raise exceptions."""

    def on_readable(self) -> None:
        """Read from the connection: bytes have arrived, or the client has disconnected."""
        ...

    def on_epoll_closed(self) -> None:
        """Let the connection's own task read: the epoll has ended and sends no more events."""
        ...


class IdleConnections:
    """The epoll of one process, and the connections that are registered with it."""

    def __init__(self) -> None:
        """Create the set of connections; ``run`` starts the epoll."""
        self._epoll: select.epoll | None = None
        self._registered: dict[int, IdleConnection] = {}

    @property
    def running(self) -> bool:
        """Whether a connection may register."""
        return self._epoll is not None

    def register(self, fd: int, connection: IdleConnection) -> bool:
        """Call ``connection.on_readable`` from now on whenever ``fd`` is readable.

        Returns:
            Whether the connection is registered. If not, its task has to wait for ``fd`` itself.
        """
        if self._epoll is None:
            return False
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:  # the kernel allows no more registrations
            return False
        self._registered[fd] = connection
        return True

    def unregister(self, fd: int) -> None:
        """Send no more events of ``fd``, which must still be open."""
        if self._registered.pop(fd, None) is not None and self._epoll is not None:
            with suppress(OSError):  # an exception here would end the epoll of all connections
                self._epoll.unregister(fd)

    async def run(self) -> None:
        """Serve the registered connections until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as epoll:
            self._epoll = epoll
            try:
                await self._serve(epoll)
            finally:
                self._epoll = None
                remaining = list(self._registered.values())
                self._registered.clear()
                for connection in remaining:
                    connection.on_epoll_closed()

    async def _serve(self, epoll: select.epoll) -> None:
        registered = self._registered
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for fd, _ in epoll.poll(0, _MAX_EVENTS):
                connection = registered.get(fd)
                if connection is not None:
                    connection.on_readable()
            driver_state.flush()
