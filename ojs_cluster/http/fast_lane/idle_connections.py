"""One epoll for all plain connections of a process that wait for a request.

trio arms its own epoll again for every wait, and wakes a task for every event. Here one task waits
for one epoll that stays armed. In a turn it lets every connection that is readable begin its next
request, and then sends the commands of all of them to Redis in one piece.

Linux only. Elsewhere each connection is served by its own task (``lane_connection``).
"""

from __future__ import annotations

import select
from contextlib import suppress
from typing import Final, Protocol

import trio

from ojs_cluster.redis.driven_coroutines import driver_state

_MOST: Final = 64
"""Connections that one turn serves: about a millisecond. The others have the next one."""


class Readable(Protocol):
    """A connection that waits. Neither method may raise."""

    def ready(self) -> None:
        """Something has come, or the client has left."""
        ...

    def no_more_turns(self) -> None:
        """The epoll has ended."""
        ...


class Turns:
    """The epoll of one process, and who waits in it."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._epoll: select.epoll | None = None
        self._waiting: dict[int, Readable] = {}

    @property
    def running(self) -> bool:
        """Whether a connection may join."""
        return self._epoll is not None

    def join(self, fd: int, connection: Readable) -> bool:
        """Tell ``connection`` when ``fd`` is readable, from now on. Returns whether that runs."""
        if self._epoll is None:
            return False
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:  # the kernel has no room for one more: its task waits for it instead
            return False
        self._waiting[fd] = connection
        return True

    def leave(self, fd: int) -> None:
        """Tell nothing about ``fd`` any more. It must not be closed before."""
        if self._waiting.pop(fd, None) is not None and self._epoll is not None:
            with suppress(OSError):  # raised here, it would end the turns of all others
                self._epoll.unregister(fd)

    async def run(self) -> None:
        """Serve until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as epoll:
            self._epoll = epoll
            try:
                await self._serve(epoll)
            finally:
                self._epoll = None
                left = list(self._waiting.values())
                self._waiting.clear()
                for connection in left:
                    connection.no_more_turns()

    async def _serve(self, epoll: select.epoll) -> None:
        waiting = self._waiting
        while True:
            await trio.lowlevel.wait_readable(epoll.fileno())
            for fd, _ in epoll.poll(0, _MOST):
                connection = waiting.get(fd)
                if connection is not None:
                    connection.ready()
            driver_state.flush()
