"""Release the jobs of fetches whose outcome is unknown.

A fetch whose reply is lost may have leased jobs that no worker was told of. Left alone, their
leases run out, and each counts an attempt: a job on its last attempt would be discarded although no
worker ever had it. This process knows the prefix of the lease ids that it sent. It releases by that
prefix as soon as the shard answers again, as if the jobs had not been fetched.

The release walks the active jobs of the shard (``store/include/jobs/walk_active.lua``), one walk at
a time for all prefixes of a shard. When it finds nothing it looks again a few times: a server that
was stopped, or that can be reached again, may carry out a fetch after the connection that sent it
was given up.
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

PENDING_MOST: Final = 1000
"""Pending releases of a process. The leases of further ones end by themselves."""
GIVE_UP_S: Final = 600.0
"""A shard that does not answer for this long keeps its leases, which end by themselves."""
LOOKS_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Pauses before each look, in seconds. The first look that finds jobs of a fetch is its last."""
RETRY_S: Final = 1.0
"""Pause after a look that failed, in seconds."""
DRAIN_S = 1.0
"""How long a process that stops goes on trying, in seconds."""

Release = Callable[[Shard, Sequence[bytes]], Awaitable[list[bytes]]]
"""Undo the fetches of one shard with these prefixes; return the prefix of each released job."""


@dataclass(slots=True)
class _Lost:
    """One fetch of unknown outcome."""

    prefix: bytes
    give_up_at: float
    next_look_at: float
    looks: int = 0


class UnansweredFetches:
    """The fetches of this process whose outcome is unknown, by shard."""

    def __init__(self) -> None:
        self._pending: dict[Shard, list[_Lost]] = {}
        self._served: set[Shard] = set()
        self._noted = trio.Event()

    def __len__(self) -> int:
        """Return the number of pending releases."""
        return sum(map(len, self._pending.values()))

    def note(self, shard: Shard, lease: bytes) -> None:
        """Release, soon, every job of ``shard`` that was leased by one fetch.

        Args:
            lease: the prefix of the fetch's lease ids, or any of these ids.
        """
        prefix = lease[:PREFIX_BYTES]
        pending = self._pending.setdefault(shard, [])
        if any(lost.prefix == prefix for lost in pending):
            return
        if len(self) >= PENDING_MOST:
            log.warning("too many fetches of unknown outcome: some leases end by themselves")
            return
        now = trio.current_time()
        pending.append(_Lost(prefix, now + GIVE_UP_S, now + LOOKS_S[0]))
        self._noted.set()

    async def run(self, release: Release) -> None:
        """Release what is noted, until cancelled. A shard that is away delays no other."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._noted.wait()
                self._noted = trio.Event()
                for shard in self._pending.keys() - self._served:
                    self._served.add(shard)
                    nursery.start_soon(self._serve, release, shard)

    async def finish(self, release: Release) -> None:
        """Look once more for all that is pending, within ``DRAIN_S``; for a process that stops."""
        if not len(self):
            return
        with trio.move_on_after(DRAIN_S, shield=True):
            async with trio.open_nursery() as nursery:
                for shard in list(self._pending):
                    nursery.start_soon(self._look, release, shard, self._pending[shard])

    async def _serve(self, release: Release, shard: Shard) -> None:
        while True:
            now = trio.current_time()
            pending = [lost for lost in self._pending.get(shard, ()) if lost.give_up_at > now]
            if not pending:
                self._pending.pop(shard, None)
                self._served.discard(shard)
                return
            self._pending[shard] = pending
            next_look_at = min(lost.next_look_at for lost in pending)
            if next_look_at > now:
                with trio.move_on_at(next_look_at):
                    await self._noted.wait()
                continue
            await self._look(release, shard, [lost for lost in pending if lost.next_look_at <= now])

    async def _look(self, release: Release, shard: Shard, lost: Sequence[_Lost]) -> None:
        try:
            released = await release(shard, [one.prefix for one in lost])
        except Exception as error:  # this task must go on, and with it the process
            if not isinstance(error, OJSError):
                log.exception("jobs of shard %d cannot be released", shard.index)
            for one in lost:
                one.next_look_at = trio.current_time() + RETRY_S
            return
        if released:
            log.info(
                "released jobs whose fetch was not answered",
                extra={"shard": shard.index, "jobs": len(released)},
            )
        done = set(released)
        for one in lost:
            one.looks += 1
            if one.prefix in done or one.looks == len(LOOKS_S):
                one.give_up_at = float("-inf")
            else:
                one.next_look_at = trio.current_time() + LOOKS_S[one.looks]
