"""How the tasks of a worker wait for each other, and end each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio


class Signal:
    """Like ``anyio.Event``, but it can be cleared and set again.

    It is created without an event loop, so a worker can be a global variable.
    """

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Set the flag and wake all tasks that wait for it."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    def clear(self) -> None:
        """Clear the flag."""
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the flag is set."""
        return self._is_set

    async def wait(self) -> None:
        """Wait until the flag is set."""
        if self._is_set:
            return
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


async def run_in(scope: anyio.CancelScope, function: Callable[[], Awaitable[None]]) -> None:
    """Run a function until it ends or the scope is cancelled."""
    with scope:
        await function()
