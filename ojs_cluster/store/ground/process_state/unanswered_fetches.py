"""Release the jobs of fetches whose replies were lost.

Such a fetch may have leased jobs that no worker knows of. Without a release, the leases would
expire, and each would count as an attempt: a job on its last attempt would be discarded although no
worker ever had it. This process knows the prefix of the lease ids that it sent. As soon as the
shard answers again, it finds the jobs by that prefix and releases them, as if they had not been
fetched.

The release walks the active jobs of the shard (``store/include/jobs/walk_active.lua``). One walk
handles all prefixes of the shard. A walk that finds nothing is repeated a few times, because a
Redis server that was stopped or unreachable may run the fetch later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.store.ground.lease_ids import PREFIX_BYTES

log = logging.getLogger("ojs.store")

MAX_PENDING: Final = 1000
"""Maximum number of pending releases of a process. The leases of further fetches expire."""
GIVE_UP_S: Final = 600.0
"""Time in seconds after which a release is abandoned; the leases then expire."""
WALK_DELAYS_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Pauses in seconds before the walks for one fetch. The walks end when one has found its jobs."""
RETRY_S: Final = 1.0
"""Pause in seconds after a walk that failed."""
SHUTDOWN_S = 1.0
"""Longest time in seconds that a stopping process tries to release jobs."""

Release = Callable[[Shard, Sequence[bytes]], Awaitable[list[bytes]]]
"""Function that undoes the fetches of one shard with these prefixes of lease ids.

It returns the prefix of each released job."""


@dataclass(slots=True)
class _UnansweredFetch:
    """One fetch without a reply. Times are seconds of trio's clock."""

    prefix: bytes
    give_up_at: float
    next_walk_at: float
    walks: int = 0


class UnansweredFetches:
    """The fetches of this process whose replies were lost, by shard."""

    def __init__(self) -> None:
        self._pending: dict[Shard, list[_UnansweredFetch]] = {}
        self._shards_with_task: set[Shard] = set()
        self._added = trio.Event()

    def __len__(self) -> int:
        """Return the number of pending releases."""
        return sum(map(len, self._pending.values()))

    def add(self, shard: Shard, lease: bytes) -> None:
        """Schedule the release of every job of ``shard`` that one fetch has leased.

        Args:
            lease: the prefix of the fetch's lease ids, or any of these ids.
        """
        prefix = lease[:PREFIX_BYTES]
        pending = self._pending.setdefault(shard, [])
        if any(fetch.prefix == prefix for fetch in pending):
            return
        if len(self) >= MAX_PENDING:
            log.warning(
                "more than %d fetches got no reply from Redis: the jobs of further fetches stay "
                "active until their leases expire",
                MAX_PENDING,
            )
            return
        now = trio.current_time()
        pending.append(_UnansweredFetch(prefix, now + GIVE_UP_S, now + WALK_DELAYS_S[0]))
        self._added.set()

    async def run(self, release: Release) -> None:
        """Release the jobs of added fetches, until cancelled.

        Each shard has a task of its own, so a shard that does not answer delays no other shard.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await self._added.wait()
                self._added = trio.Event()
                for shard in self._pending.keys() - self._shards_with_task:
                    self._shards_with_task.add(shard)
                    nursery.start_soon(self._release_pending, release, shard)

    async def finish(self, release: Release) -> None:
        """Try every pending release once more, within ``SHUTDOWN_S``, before the process stops."""
        if not len(self):
            return
        with trio.move_on_after(SHUTDOWN_S, shield=True):
            async with trio.open_nursery() as nursery:
                for shard in list(self._pending):
                    nursery.start_soon(self._release, release, shard, self._pending[shard])

    async def _release_pending(self, release: Release, shard: Shard) -> None:
        """Release the jobs of one shard's fetches until none is pending."""
        while True:
            now = trio.current_time()
            pending = [fetch for fetch in self._pending.get(shard, ()) if fetch.give_up_at > now]
            if not pending:
                self._pending.pop(shard, None)
                self._shards_with_task.discard(shard)
                return
            self._pending[shard] = pending
            next_walk_at = min(fetch.next_walk_at for fetch in pending)
            if next_walk_at > now:
                with trio.move_on_at(next_walk_at):
                    await self._added.wait()
                continue
            due = [fetch for fetch in pending if fetch.next_walk_at <= now]
            await self._release(release, shard, due)

    async def _release(
        self, release: Release, shard: Shard, fetches: Sequence[_UnansweredFetch]
    ) -> None:
        try:
            released = await release(shard, [fetch.prefix for fetch in fetches])
        except Exception as error:  # a raised exception would end the nursery and the process
            if not isinstance(error, OJSError):
                log.exception(
                    "cannot release the jobs of fetches without a reply in shard %d: trying again",
                    shard.index,
                )
            for fetch in fetches:
                fetch.next_walk_at = trio.current_time() + RETRY_S
            return
        if released:
            log.info(
                "released jobs of fetches without a reply",
                extra={"shard": shard.index, "jobs": len(released)},
            )
        released_prefixes = set(released)
        for fetch in fetches:
            fetch.walks += 1
            if fetch.prefix in released_prefixes or fetch.walks == len(WALK_DELAYS_S):
                fetch.give_up_at = float("-inf")  # ``_release_pending`` then drops it
            else:
                fetch.next_walk_at = trio.current_time() + WALK_DELAYS_S[fetch.walks]
