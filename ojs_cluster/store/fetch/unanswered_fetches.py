"""Release the jobs of fetches whose outcome is unknown.

A fetch whose reply is lost may have leased jobs that no worker knows of. Left alone, their leases
expire, and each counts an attempt: a job on its last attempt would be discarded although no worker
ever had it. This process knows the prefix of the lease ids that it sent. It releases the jobs by
that prefix as soon as the shard answers again, as if they had not been fetched.

The release walks the active jobs of the shard (``store/include/jobs/walk_active.lua``), one walk at
a time for all prefixes of a shard. A walk that finds nothing is repeated a few times. A server that
was stopped or unreachable may run a fetch after the connection that sent it was abandoned.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.store.fetch.lease_ids import PREFIX_BYTES

log = logging.getLogger("ojs.store")

MAX_PENDING: Final = 1000
"""Most pending releases of a process. The leases of further fetches expire by themselves."""
GIVE_UP_S: Final = 600.0
"""Time in seconds after which a release is abandoned; the leases then expire by themselves."""
WALK_DELAYS_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Pause in seconds before each walk. The first walk that finds jobs of a fetch is its last."""
RETRY_S: Final = 1.0
"""Pause in seconds after a walk that failed."""
SHUTDOWN_S = 1.0
"""Longest time in seconds that a stopping process tries to release jobs."""

Release = Callable[[Shard, Sequence[bytes]], Awaitable[list[bytes]]]
"""Undo the fetches of one shard with these prefixes; return the prefix of each released job."""


@dataclass(slots=True)
class _UnansweredFetch:
    """One fetch of unknown outcome. Times are trio's."""

    prefix: bytes
    give_up_at: float
    next_walk_at: float
    walks: int = 0


class UnansweredFetches:
    """The fetches of this process whose outcome is unknown, by shard."""

    def __init__(self) -> None:
        self._pending: dict[Shard, list[_UnansweredFetch]] = {}
        self._served: set[Shard] = set()
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
                "more than %d fetches without a reply: the leases of further ones are not released "
                "but expire",
                MAX_PENDING,
            )
            return
        now = trio.current_time()
        pending.append(_UnansweredFetch(prefix, now + GIVE_UP_S, now + WALK_DELAYS_S[0]))
        self._added.set()

    async def run(self, release: Release) -> None:
        """Release the jobs of added fetches, until cancelled.

        Each shard has a task of its own, so a shard that does not answer delays no other.
        """
        async with trio.open_nursery() as nursery:
            while True:
                await self._added.wait()
                self._added = trio.Event()
                for shard in self._pending.keys() - self._served:
                    self._served.add(shard)
                    nursery.start_soon(self._serve, release, shard)

    async def finish(self, release: Release) -> None:
        """Try every pending release once more, within ``SHUTDOWN_S``; for a stopping process."""
        if not len(self):
            return
        with trio.move_on_after(SHUTDOWN_S, shield=True):
            async with trio.open_nursery() as nursery:
                for shard in list(self._pending):
                    nursery.start_soon(self._release, release, shard, self._pending[shard])

    async def _serve(self, release: Release, shard: Shard) -> None:
        while True:
            now = trio.current_time()
            pending = [fetch for fetch in self._pending.get(shard, ()) if fetch.give_up_at > now]
            if not pending:
                self._pending.pop(shard, None)
                self._served.discard(shard)
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
        except Exception as error:  # an exception would end this task, and with it the process
            if not isinstance(error, OJSError):
                log.exception(
                    "cannot release unanswered fetches of shard %d: trying again", shard.index
                )
            for fetch in fetches:
                fetch.next_walk_at = trio.current_time() + RETRY_S
            return
        if released:
            log.info(
                "released jobs of fetches without a reply",
                extra={"shard": shard.index, "jobs": len(released)},
            )
        done = set(released)
        for fetch in fetches:
            fetch.walks += 1
            if fetch.prefix in done or fetch.walks == len(WALK_DELAYS_S):
                fetch.give_up_at = float("-inf")
            else:
                fetch.next_walk_at = trio.current_time() + WALK_DELAYS_S[fetch.walks]
