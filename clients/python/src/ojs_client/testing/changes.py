"""Wake the tasks that wait for a change in the fake server."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token


class Changes:
    """Wakes all waiting tasks at each change, also those of a blocking client in its thread."""

    def __init__(self) -> None:
        self._waiting: dict[anyio.Event, EventLoopToken] = {}
        self._lock = Lock()

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for event, loop in waiting.items():
            if loop == _current_loop():
                event.set()
            else:
                _set_soon(event, loop.native_token)

    async def wait(self) -> None:
        """Wait for the next change."""
        event = anyio.Event()  # of this event loop: a test may run several
        with self._lock:
            self._waiting[event] = current_token()
        try:
            await event.wait()
        finally:
            with self._lock:
                self._waiting.pop(event, None)


def _current_loop() -> EventLoopToken | None:
    with suppress(RuntimeError):
        return current_token()
    return None


def _set_soon(event: anyio.Event, loop: Any) -> None:
    """Set an event of another event loop, which belongs to another thread."""
    call = loop.run_sync_soon if hasattr(loop, "run_sync_soon") else loop.call_soon_threadsafe
    with suppress(RuntimeError):  # it has ended meanwhile
        call(event.set)
