"""Send the events of all feeds to their followers.

One task sends to all clients, because waking a task for each copy of an event takes ten times as
long as the copy. It uses a bounded part of the event loop's time. If this is not enough, events
wait in the feeds, pieces become larger and so cheaper, and at last clients lose events
(``system.events_dropped``) instead of requests their rate.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

from ojs_cluster.store.features.events.feed import Feed
from ojs_cluster.store.features.events.loop_share import LoopShare

_LOOP_SHARE: Final = 0.12
"""Part of the time of the event loop that sending may use."""
_SLICE_S: Final = 0.001
"""Time in seconds after which requests have their turn."""
_TASK_S: Final = 0.0001
"""Time in seconds that the task of a client takes to send a piece."""
GATHER_S: Final = 0.02
"""Pause in seconds between two rounds, so that one piece has several events."""


class FanOut:
    """Sends new events to the clients that wait for them."""

    def __init__(self) -> None:
        """Begin without feeds."""
        self._feeds: dict[Feed, None] = {}
        self._added = trio.Event()
        self._share = LoopShare(_LOOP_SHARE)
        self.ending = trio.CancelScope()

    def add(self, feed: Feed) -> None:
        """Serve the followers of a feed that are behind."""
        self._feeds[feed] = None
        self._added.set()

    async def run(self) -> None:
        """Send until ``ending`` is cancelled."""
        with self.ending:
            while True:
                self._added = trio.Event()
                if not self._feeds:
                    await self._added.wait()
                feeds, self._feeds = self._feeds, {}
                for feed in feeds:
                    await self._serve(feed)
                await trio.sleep(GATHER_S)

    async def _serve(self, feed: Feed) -> None:
        """Send a piece to each follower that is behind."""
        began, tasks = perf_counter(), 0
        for follower in tuple(feed.followers):
            if not follower.is_ready:
                continue
            tasks += follower.push()
            if follower.is_ready:
                self.add(feed)
            used = perf_counter() - began + tasks * _TASK_S
            if used >= _SLICE_S:
                await self._share.spend(used)
                began, tasks = perf_counter(), 0
        await self._share.spend(perf_counter() - began + tasks * _TASK_S)
