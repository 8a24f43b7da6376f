"""Wake the tasks that wait for a change in the fake server."""

from __future__ import annotations

import anyio


class Changes:
    """Wakes all waiting tasks at each change."""

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake all tasks that wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait for the next change."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
