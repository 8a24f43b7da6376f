"""Wake the tasks that wait for a change in the fake server."""

from __future__ import annotations

import anyio


class Changes:
    """Wakes all waiting tasks at each change."""

    def __init__(self) -> None:
        self._waiting: set[anyio.Event] = set()

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        for event in self._waiting:
            event.set()
        self._waiting.clear()

    async def wait(self) -> None:
        """Wait for the next change."""
        event = anyio.Event()  # of this event loop: a test may run several, one after the other
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)
