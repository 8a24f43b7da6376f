"""Close idle connections of hypercorn when the process shuts down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio


class _Event(Protocol):
    """hypercorn's event."""

    async def wait(self) -> None: ...

    def is_set(self) -> bool: ...


class IdleWatch:
    """Takes the place of hypercorn's ``TrioSingleTask``, with one task for a whole connection.

    hypercorn starts a task after each response and cancels it at the next request, which takes an
    eighth of the time of a small request. It ends the connection when it has been idle for too
    long, for which this server has ``Connections.close_idle``, or when the process shuts down.
    """

    def __init__(self, terminated: _Event, close: Callable[[], Awaitable[None]]) -> None:
        """Watch nothing yet.

        Args:
            terminated: set when idle connections have to end.
            close: closes the connection.
        """
        self._terminated = terminated
        self._close = close
        self._is_idle = False
        self._watching: trio.CancelScope | None = None
        self._ended = False

    async def restart(self, task_group: Any, _action: object) -> None:
        """Note that the connection is idle. hypercorn calls this after each response."""
        self._is_idle = True
        if self._ended:
            return
        if self._terminated.is_set():
            task_group.spawn(self._close_if_idle)
        elif self._watching is None:
            self._watching = trio.CancelScope()
            task_group.spawn(self._watch, self._watching)

    async def stop(self) -> None:
        """Note that a request has begun. hypercorn closes the connection after its response."""
        self._is_idle = False

    def end(self) -> None:
        """End the task, because the client has closed the connection."""
        self._ended = True
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._terminated.wait()
            await self._close_if_idle()

    async def _close_if_idle(self) -> None:
        if self._is_idle and not self._ended:
            self._ended = True
            with trio.CancelScope(shield=True):
                await self._close()
