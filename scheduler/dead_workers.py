"""Dead workers: what a worker held that stopped sending heartbeats becomes available again.

Its leases would end by themselves, but a lease may be long and three missed heartbeats are known
sooner. The record of a worker lives in one shard, its jobs may be in any, so recovery is several
scripts: *find* marks the worker as lost in its own shard, *recover* goes through the active jobs
of every shard, *bury* removes the mark. The mark is removed last: whoever leads after a crash in
between does it all again, which finds nothing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from ojs_cluster.store import workers
from ojs_cluster.store.context import Store
from ojs_cluster.store.tick import Tick as StoreTick
from ojs_cluster.store.workers import DeadWorker
from scheduler.pacing import Slots, Step, Tick

log = logging.getLogger("ojs.scheduler")


class RecoveryIncomplete(Exception):
    """Some shard could not be searched for a dead worker's jobs; the mark stays for a retry."""


@dataclass(frozen=True, slots=True)
class Found:
    """The dead workers of one shard, and when the next one could be found."""

    lost: Sequence[DeadWorker]
    now_ms: int
    next_ms: int | None


class Ward(Protocol):
    """The store's part of it."""

    async def find(self, shard: int) -> Found:
        """Mark and return workers of `shard` that are dead, those still marked included."""
        ...

    async def recover(self, shard: int, lost: DeadWorker, cursor: str) -> tuple[int, str | None]:
        """Take jobs of `shard` from the dead; '' begins. How many, and where to go on."""
        ...

    async def bury(self, shard: int, lost: DeadWorker) -> None:
        """Remove the mark in the worker's own shard."""
        ...


@dataclass(frozen=True, slots=True)
class StoreWard:
    """The store's part of it, `batch` dead workers at a time."""

    store: Store
    batch: int

    async def find(self, shard: int) -> Found:
        """Mark and return dead workers."""
        lost, next_ms, now_ms = await workers.find_dead(
            self.store, self.store.keys.shard(shard), self.batch
        )
        return Found(lost, now_ms, next_ms)

    async def recover(self, shard: int, lost: DeadWorker, cursor: str) -> tuple[int, str | None]:
        """Take a bounded number of jobs."""
        recovered, following = await workers.recover(
            self.store, self.store.keys.shard(shard), [lost], cursor
        )
        return recovered[lost.id], following

    async def bury(self, shard: int, lost: DeadWorker) -> None:
        """Remove the mark."""
        await workers.bury(self.store, self.store.keys.shard(shard), lost)


def step(ward: Ward, shards: Sequence[int], *, slots: Slots, call_timeout_s: float) -> Step:
    """Return the step of the loop: the dead workers of one shard, their jobs of all shards.

    :param slots: bound on recovery scripts in flight; not the loop's own slots, one of which the
        step itself holds.
    :param call_timeout_s: bound on each script; the step as a whole takes as long as it takes.
    """

    async def recover_shard(shard: int) -> Tick:
        found = await ward.find(shard)
        done = 0
        unsearched: list[str] = []
        for lost in found.lost:
            search = _Search(ward, lost, slots, call_timeout_s)
            async with trio.open_nursery() as nursery:
                for other in shards:
                    nursery.start_soon(search.run, other)
            done += search.jobs
            if search.failed:
                unsearched.append(f"{lost.id} in shards {sorted(search.failed)}")
                continue
            log.warning("worker lost", extra={"worker_id": lost.id, "jobs_recovered": search.jobs})
            await ward.bury(shard, lost)
            done += 1
        if unsearched:
            raise RecoveryIncomplete("; ".join(unsearched))
        return StoreTick(done, found.next_ms, found.now_ms, more=bool(found.lost))

    return recover_shard


class _Search:
    """The search for one dead worker's jobs."""

    def __init__(self, ward: Ward, lost: DeadWorker, slots: Slots, call_timeout_s: float) -> None:
        self.jobs = 0
        self.failed: dict[int, Exception] = {}
        self._ward = ward
        self._lost = lost
        self._slots = slots
        self._call_timeout_s = call_timeout_s

    async def run(self, shard: int) -> None:
        """Go through one shard. A failure is kept, not raised: the other shards go on."""
        cursor: str | None = ""
        try:
            while cursor is not None:
                async with self._slots.hold():
                    with trio.fail_after(self._call_timeout_s):
                        jobs, cursor = await self._ward.recover(shard, self._lost, cursor)
                self.jobs += jobs
        except Exception as error:
            self.failed[shard] = error
