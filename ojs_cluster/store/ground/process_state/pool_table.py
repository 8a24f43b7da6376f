"""This process's copy of the worker pools, and its part in their scheduling.

Only a fetch that names a pool uses the copy (``versioned_table``). A process counts what its
fetches got in memory, and adds its counts to those of the other processes every five seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, NotFound, OJSError
from ojs_cluster.core.pools.fair_shares import FairShares, plan_deepest
from ojs_cluster.core.pools.pool import Pool
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.depth_reader import QueueInShard
from ojs_cluster.store.ground.process_state.pools import POOLS
from ojs_cluster.store.ground.versioned_table import REFRESH_S, Snapshot, VersionedTable

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Arg, Runtime

log = logging.getLogger("ojs.store")

UNKNOWN_REFRESH_S: Final = 0.1
"""Age in seconds at which a fetch for an unknown pool reads the pools again."""
FLUSH_S: Final = 5.0
"""Seconds between two writes of counts."""
_CONFIGURATION: Final = b"@"
"""Field of the counts that says to which configuration of the pool they belong."""
_MAX_KINDS: Final = 100
"""Maximum number of sets of types for which a process keeps the depths of a pool."""
_LAST_FLUSH_S: Final = 1.0
"""Time limit in seconds for the last write of a process that stops."""


class PoolDepths:
    """The depths of a pool's queues as this process last read them, without planned jobs.

    ``pool_fetch`` reads them.
    """

    def __init__(self) -> None:
        """Begin without depths."""
        self._parts: dict[str, list[QueueInShard]] = {}
        self._used_up = False
        self.read_began = float("-inf")
        """When the last read began, in seconds of trio's clock."""

    def replace(self, parts: Iterable[QueueInShard], began: float) -> None:
        """Set the depths that a read has found, unless a later read is already done."""
        if began < self.read_began:
            return
        self.read_began, self._used_up = began, False
        self._parts = {}
        for part in parts:
            self._parts.setdefault(part.queue, []).append(part)

    def are_fresh(self, max_age_s: float) -> bool:
        """Return whether the depths may be used: they are recent, and no queue is used up.

        Many jobs may come to a queue that had few. So when its last job is planned, the depths are
        read again. Otherwise the other queues would get its share.
        """
        return not self._used_up and trio.current_time() - self.read_began < max_age_s

    def of(self, queues: Sequence[str]) -> dict[str, int]:
        """Return the depths of those queues that have jobs, in the order of ``queues``."""
        depths = {}
        for queue in queues:
            depth = sum(max(0, part.depth) for part in self._parts.get(queue, ()))
            if depth:
                depths[queue] = depth
        return depths

    def any_blocked(self, queues: Sequence[str]) -> bool:
        """Return whether one of the queues has only blocked jobs."""
        return any(part.depth < 0 for queue in queues for part in self._parts.get(queue, ()))

    def subtract(self, planned: Mapping[str, int]) -> list[tuple[QueueInShard, int]]:
        """Subtract planned jobs; return the partitions that have them, with their numbers."""
        calls = []
        for queue, count in planned.items():
            wanted = count
            for part in self._parts[queue]:
                taken = min(wanted, max(0, part.depth))
                if taken:
                    calls.append((part, taken))
                    part.depth -= taken
                    self._used_up = self._used_up or not part.depth
                    wanted -= taken
        return calls


class PoolState:
    """A pool, and what this process knows about its queues.

    Args:
        pool: the configuration. A changed pool gets a new state.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._depths: dict[str, PoolDepths] = {}
        self.shares = FairShares(pool.shares) if pool.shares else None
        self.fetches = 0
        self.dispatched: dict[str, int] = {}

    def depths(self, types: str) -> PoolDepths:
        """Return the depths for fetches that name these types, as ``pack_types``."""
        if types not in self._depths and len(self._depths) >= _MAX_KINDS:
            self._depths.clear()
        return self._depths.setdefault(types, PoolDepths())

    def plan(self, count: int, depths: dict[str, int]) -> dict[str, int]:
        """Return how many of the next ``count`` jobs to fetch from each queue."""
        if self.shares is None:
            return plan_deepest(count, depths)
        return self.shares.plan(count, depths)

    def undo(self, queue: str, count: int) -> None:
        """Take back planned jobs that were not found."""
        if self.shares is not None:
            self.shares.undo(queue, count)

    def count(self, queue: str) -> None:
        """Count a job that a fetch got."""
        self.dispatched[queue] = self.dispatched.get(queue, 0) + 1

    def take_counts(self) -> list[tuple[str, int]]:
        """Return the counts since the last call; the name of the fetches is ``#``."""
        counts = [*self.dispatched.items()]
        if self.fetches:
            counts.append(("#", self.fetches))
        self.fetches, self.dispatched = 0, {}
        return counts

    def return_counts(self, counts: list[tuple[str, int]]) -> None:
        """Keep counts that were not written for the next call of ``take_counts``."""
        for name, number in counts:
            if name == "#":
                self.fetches += number
            else:
                self.dispatched[name] = self.dispatched.get(name, 0) + number


class PoolTable:
    """This process's copy of the pools."""

    def __init__(self) -> None:
        """Begin without a copy; the first fetch that names a pool reads it."""
        self._states: dict[str, PoolState] = {}
        self._copy = VersionedTable("worker pools", POOLS.read_changed, self._replace)
        self.read = self._copy.read
        self.try_read = self._copy.try_read

    async def get(self, store: Runtime, name: str) -> PoolState:
        """Return the state of a pool.

        While the master of the meta tag does not answer, the last copy stays in use.

        Raises:
            NotFound: there is no such pool.
            BackendUnavailable: this process has no copy, and Redis did not answer in time.
        """
        await self._copy.refresh(store, REFRESH_S if name in self._states else UNKNOWN_REFRESH_S)
        if name not in self._states:
            raise NotFound("pool", name)
        return self._states[name]

    def _replace(self, snapshot: Snapshot[Pool]) -> None:
        states = {}
        for name, pool in snapshot.records.items():
            known = self._states.get(name)
            states[name] = known if known is not None and known.pool == pool else PoolState(pool)
        self._states = states

    async def run(self, store: Runtime) -> None:
        """Write the counts every ``FLUSH_S`` seconds, until cancelled."""
        while True:
            await trio.sleep(FLUSH_S)
            try:
                await self.flush(store)
            except Exception:  # an exception in the nursery would end the process
                log.exception("cannot write the counts of worker pools")

    async def finish(self, store: Runtime) -> None:
        """Write the last counts of a process that stops, within a second."""
        with trio.move_on_after(_LAST_FLUSH_S, shield=True):
            await self.flush(store)

    async def flush(self, store: Runtime) -> None:
        """Add the counts of this process to those of all processes.

        Counts that were certainly not written are kept.
        """
        if not store.redis.is_responsive(store.keys.meta.slot):
            return

        async def write(state: PoolState) -> None:
            counts = state.take_counts()
            if not counts:
                return
            args: list[Arg] = [state.pool.updated_ms]
            for pair in counts:
                args += pair
            keys = [store.keys.meta.pool_counts(state.pool.name)]
            try:
                await store.run_meta("pool_count", keys, args, idempotent=False)
            except BackendUnavailable as error:
                if error.outcome == "not_applied":
                    state.return_counts(counts)
            except (OJSError, RedisReplyError) as error:
                log.warning("cannot write the counts of pool %s: %s", state.pool.name, error)

        await run_concurrently(self._states.values(), write)


async def read_counts(store: Runtime, names: list[str]) -> dict[str, dict[str, int]]:
    """Return what the fetches of all processes got, by pool, then by queue; ``#`` counts fetches.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, dict[str, int]] = {}

    async def read(name: str) -> None:
        meta = store.keys.meta
        flat: Any = await store.redis.call(
            meta.slot, "HGETALL", meta.pool_counts(name), idempotent=True
        )
        items = iter(flat)
        found[name] = {
            field.decode(errors="replace"): int(number)
            for field, number in zip(items, items, strict=True)
            if number.isdigit() and field != _CONFIGURATION
        }

    await run_concurrently(names, read)
    return found
