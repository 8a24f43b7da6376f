"""Dead workers: what a worker held that stopped sending heartbeats becomes available again.

Its leases would end by themselves, but a lease may be long and three missed heartbeats are known
sooner. The record of a worker lives in one shard, its jobs may be in any, so recovery is several
scripts: *find* marks the worker as lost in its own shard, *recover* walks the active jobs of every
shard, *bury* removes the mark. The mark is removed last: whoever leads after a crash in between
does it all again, which finds nothing twice.

A walk costs as much as the shard has active jobs, so it is shared: one walk of a shard serves all
workers that were found dead before it began, whatever shard their records lie in, and walks of one
shard begin ``WALK_EVERY_S`` apart. So the cost does not grow with the number of dead workers.

A shard that does not answer delays no other: they are walked, and what was walked is not walked
again when the rest is retried.

A worker that said it terminates and left no job is no loss, and nothing is logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.sweeps.sweep_result import Tick as StoreTick
from ojs_cluster.store.workers import workers
from ojs_cluster.store.workers.workers import DeadWorker
from scheduler.pacing import Slots, Step, Tick

log = logging.getLogger("ojs.scheduler")

WALK_EVERY_S: Final = 2.0
"""Walks of one shard begin this far apart, in seconds."""
WORKERS_MOST: Final = 500
"""Dead workers that one walk serves."""
AWAY_S: Final = 5.0
"""A shard whose walk failed is left alone for this long, in seconds."""


class RecoveryIncomplete(Exception):
    """Some shard could not be searched for a dead worker's jobs; the mark stays for a retry."""


@dataclass(frozen=True, slots=True)
class Found:
    """Dead workers of one shard, whether there are more, and when the next one could be found."""

    lost: Sequence[DeadWorker]
    now_ms: int
    next_ms: int | None
    more: bool = False


class Ward(Protocol):
    """The store's part of it."""

    async def find(self, shard: int, skip: int) -> Found:
        """Mark workers of `shard` that are dead. Return those marked, without the `skip` first."""
        ...

    async def recover(
        self, shard: int, lost: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        """Take jobs of `shard` from the dead; '' begins. How many of each, and where to go on."""
        ...

    async def bury(self, shard: int, lost: DeadWorker) -> None:
        """Remove the mark in the worker's own shard."""
        ...


@dataclass(frozen=True, slots=True)
class StoreWard:
    """The store's part of it, `batch` dead workers at a time."""

    store: Store
    batch: int

    async def find(self, shard: int, skip: int) -> Found:
        """Mark and return dead workers."""
        lost, next_ms, now_ms = await workers.find_dead(
            self.store, self.store.keys.shard(shard), self.batch, skip
        )
        return Found(lost, now_ms, next_ms, more=len(lost) >= self.batch)

    async def recover(
        self, shard: int, lost: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        """Walk through a bounded number of jobs."""
        return await workers.recover(self.store, self.store.keys.shard(shard), lost, cursor)

    async def bury(self, shard: int, lost: DeadWorker) -> None:
        """Remove the mark."""
        await workers.bury(self.store, self.store.keys.shard(shard), lost)


def step(ward: Ward, shards: Sequence[int], *, slots: Slots, call_timeout_s: float) -> Step:
    """Return the step of the loop: the dead workers of one shard, their jobs of all shards.

    :param slots: bound on recovery scripts in flight; not the loop's own slots, one of which the
        step itself holds.
    :param call_timeout_s: bound on each script; the step as a whole takes as long as it takes.
    """
    walks = [_Walks(ward, shard, slots, call_timeout_s) for shard in shards]
    known: dict[int, dict[DeadWorker, _Search]] = {}

    async def recover_shard(shard: int) -> Tick:
        # Another leader may have buried some, so what is not found any more is forgotten.
        searches, found = await _find_all(ward, shard, known.get(shard, {}))
        known[shard] = searches
        if searches:
            async with trio.open_nursery() as nursery:
                for walk in walks:
                    nursery.start_soon(walk.cover, list(searches.values()))
        done, unsearched = 0, []
        for search in searches.values():
            missing = [walk.shard for walk in walks if walk.shard not in search.walked]
            if missing:
                unsearched.append(f"{search.lost.id} in shards {missing}")
                continue
            _tell(search)
            await ward.bury(shard, search.lost)
            done += search.jobs + 1
        if unsearched:
            raise RecoveryIncomplete("; ".join(unsearched))
        return StoreTick(done, found.next_ms, found.now_ms, more=bool(searches))

    return recover_shard


async def _find_all(
    ward: Ward, shard: int, before: Mapping[DeadWorker, _Search]
) -> tuple[dict[DeadWorker, _Search], Found]:
    """Find the dead workers of a shard: all whose search goes on, and up to ``WORKERS_MOST`` more.

    While a shard is away no search ends, so those that go on must not keep others from beginning.
    """
    searches: dict[DeadWorker, _Search] = {}
    fresh, skip = 0, 0
    while True:
        found = await ward.find(shard, skip)
        for lost in found.lost:
            fresh += lost not in before
            searches[lost] = before.get(lost) or _Search(lost)
        skip += len(found.lost)
        if not found.more or fresh >= WORKERS_MOST:
            return searches, found


def _tell(search: _Search) -> None:
    if search.jobs or not search.lost.terminated:
        log.warning(
            "worker lost", extra={"worker_id": search.lost.id, "jobs_recovered": search.jobs}
        )


class _Search:
    """The search for one dead worker's jobs: which shards were walked, what was found."""

    def __init__(self, lost: DeadWorker) -> None:
        self.lost = lost
        self.jobs = 0
        self.walked: set[int] = set()


class _Batch:
    """The searches that the next walk of a shard serves."""

    def __init__(self) -> None:
        self.searches: dict[_Search, None] = {}
        self.done = False


class _Walks:
    """The walks through one shard's active jobs, one at a time."""

    def __init__(self, ward: Ward, shard: int, slots: Slots, call_timeout_s: float) -> None:
        self._ward = ward
        self.shard = shard
        self._slots = slots
        self._call_timeout_s = call_timeout_s
        self._walking = trio.Lock()
        self._next = _Batch()
        self._begin_at = float("-inf")
        self._away_until = float("-inf")

    async def cover(self, searches: Sequence[_Search]) -> None:
        """Walk the shard for these searches, unless it was, and note it in each.

        Returns also when the walk failed, or the shard is left alone: then nothing is noted.
        """
        wanted = [search for search in searches if self.shard not in search.walked]
        if not wanted:
            return
        batch = self._next
        batch.searches.update(dict.fromkeys(wanted))
        async with self._walking:
            if batch.done or trio.current_time() < self._away_until:
                return
            await trio.sleep_until(self._begin_at)
            self._begin_at = trio.current_time() + WALK_EVERY_S
            if self._next is batch:
                self._next = _Batch()  # this walk may miss the jobs of workers that come later
            waiting = list(batch.searches)
            for first in range(0, len(waiting), WORKERS_MOST):
                await self._walk(waiting[first : first + WORKERS_MOST])
            batch.done = True

    async def _walk(self, searches: Sequence[_Search]) -> None:
        lost = [search.lost for search in searches]
        cursor: str | None = ""
        try:
            while cursor is not None:
                async with self._slots.hold():
                    with trio.fail_after(self._call_timeout_s):
                        found, cursor = await self._ward.recover(self.shard, lost, cursor)
                for search in searches:
                    search.jobs += found[search.lost.id]
        except Exception as error:  # a shard that fails must not stop the others
            self._away_until = trio.current_time() + AWAY_S
            log.warning(
                "dead workers' jobs not recovered",
                extra={"shard": self.shard, "workers": len(lost), "error": repr(error)},
            )
            return
        for search in searches:
            search.walked.add(self.shard)
