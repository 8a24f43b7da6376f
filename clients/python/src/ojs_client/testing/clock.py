"""The clock of a fake server, for tests without an event loop."""

from __future__ import annotations

from datetime import datetime

import anyio

from ojs_client.options import Duration
from ojs_client.testing.server import FakeServer
from ojs_client.worker.worker import Worker


class Clock:
    """Moves the clock of a fake server in a test without an event loop.

    Args:
        server: the fake server.
    """

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    @property
    def now(self) -> datetime:
        """The time of the server."""
        return self._server.now

    def advance(self, duration: Duration, *workers: Worker) -> None:
        """Move the clock, and let workers run each job at its time.

        Args:
            duration: how far the clock moves; 0 to run the jobs that are available.
            *workers: copies of them run meanwhile.

        Raises:
            TimeoutError: handlers run for longer than 30 real seconds.
        """

        async def advance() -> None:
            async with self._server.running(*workers):
                await self._server.advance(duration)

        anyio.run(advance)
