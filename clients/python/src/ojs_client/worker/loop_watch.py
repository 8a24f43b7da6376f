"""Tells when the event loop of a worker stands still, and extends the leases meanwhile.

An async handler that blocks stops all tasks of the event loop, the heartbeats among them. A thread
sends them then, over a connection and an event loop of its own. It cannot run while C code holds
the interpreter: such a handler belongs into a child process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

import anyio

from ojs_client.errors import ApiError, ConnectionFailed
from ojs_client.transport import Transport
from ojs_client.worker.heartbeats import Heartbeats
from ojs_client.worker.held_jobs import WARN_S
from ojs_client.worker.view import WorkerView

log: Final = logging.getLogger("ojs_client.worker")

_CHECK_S: Final = 1.0
"""Longest time in seconds between two signs of life of the event loop."""
_WARN_AGAIN_S: Final = 60.0
_LIMIT_LEASES: Final = 10
"""Number of lease lengths after which the thread takes the event loop for dead."""


class LoopWatch:
    """Watches the event loop of a worker, and keeps its leases while the loop stands still.

    A thread of its own sends heartbeats then. It shares ``_alive_at``, a number that each side only
    replaces, and the held jobs, of which it iterates over a copy: the loop may go on at any time.

    Args:
        heartbeats: the heartbeats of the worker.
        view: gets the delay of each check.
        new_transport: returns the transport of the thread; None for no thread.
    """

    def __init__(
        self,
        heartbeats: Heartbeats,
        view: WorkerView,
        new_transport: Callable[[], Transport] | None,
    ) -> None:
        self._heartbeats = heartbeats
        self._new_transport = new_transport
        self._view = view
        # The thread notices within an interval that the loop stands still. A lease lasts for two
        # intervals at least. So one of exactly two may end while the heartbeat is under way.
        self._patience_s = heartbeats.interval_s / 2
        self._alive_at = 0.0

    async def watch(self) -> None:
        """Log that the event loop has stood still, until the task is cancelled.

        Meanwhile the thread runs, and ``view`` gets the delays.
        """
        ended = threading.Event()
        if self._new_transport is not None:
            run, args = self._extend_leases, (ended, self._new_transport)
            threading.Thread(target=run, args=args, name="ojs-leases", daemon=True).start()
        try:
            await self._measure()
        finally:
            ended.set()

    async def _measure(self) -> None:
        check_s = _CHECK_S if self._new_transport is None else min(_CHECK_S, self._patience_s / 2)
        warned_at = -math.inf
        while True:
            self._alive_at = time.monotonic()
            await anyio.sleep(check_s)
            late_s = time.monotonic() - self._alive_at - check_s
            self._view.loop_lag_s = late_s
            if late_s >= WARN_S and self._alive_at - warned_at >= _WARN_AGAIN_S:
                warned_at = self._alive_at
                log.warning(
                    "the event loop stood still for %.1f s: a handler blocks it or holds the GIL, "
                    "so other handlers wait and leases may expire; let a sync handler with "
                    "process=True do it",
                    late_s,
                )

    def _extend_leases(
        self, ended: threading.Event, new_transport: Callable[[], Transport]
    ) -> None:
        """Send heartbeats while the event loop stands still, until ``ended`` is set."""
        self._alive_at = time.monotonic()  # the loop may not have set it yet
        limit_s = _LIMIT_LEASES * self._heartbeats.held.lease_s
        while not ended.wait(self._patience_s):
            blocked_s = time.monotonic() - self._alive_at
            if self._patience_s < blocked_s < limit_s and self._heartbeats.held:
                try:
                    anyio.run(self._extend_once, new_transport)
                except (ApiError, ConnectionFailed) as error:
                    log.warning("heartbeat of the thread failed: %s", error)
                except Exception:  # such as too many open files
                    log.exception("heartbeat of the thread failed")

    async def _extend_once(self, new_transport: Callable[[], Transport]) -> None:
        async with new_transport() as transport:
            await self._heartbeats.extend_over(transport)
