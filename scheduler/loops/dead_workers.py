"""Dead workers: jobs of a worker that stopped sending heartbeats become available again.

The leases of those jobs would expire anyway, but a lease may be long, and three missed heartbeats
show earlier that the worker is dead. The record of a worker lives in one shard, and its jobs may be
in any, so recovery takes several scripts. *find* moves the worker to the lost workers of its own
shard, *recover* walks the active jobs of every shard, and *finish* removes the worker. The removal
is last: after a crash the next leader does everything again, which changes nothing twice.

A walk costs as much as the shard has active jobs, so it is shared. One walk of a shard serves all
workers that were found dead before it began, and walks of one shard begin ``WALK_INTERVAL_S``
apart. So the cost does not grow with the number of dead workers.

A shard that does not answer delays no other shard. A retry walks only the shards that are missing.

A worker that announced its end and held no job is not logged.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.workers import workers
from ojs_cluster.store.workers.workers import DeadWorker
from scheduler.pacing import Step, StepLimiter, StepResult

log = logging.getLogger("ojs.scheduler")

WALK_INTERVAL_S: Final = 2.0
"""Walks of one shard begin this far apart, in seconds."""
MAX_WORKERS: Final = 500
"""Dead workers that one walk serves."""
FAILED_SHARD_PAUSE_S: Final = 5.0
"""A shard whose walk failed is not walked again for this long, in seconds."""


class RecoveryIncomplete(Exception):
    """Some shard could not be searched for a dead worker's jobs; the step is tried again."""


@dataclass(frozen=True, slots=True)
class DeadWorkers:
    """One page of the dead workers of one shard.

    Args:
        workers: the workers.
        now_ms: when they were found, in milliseconds of the shard's clock.
        next_ms: when the next one may be found, in milliseconds; None for never.
        more: whether there may be more of them now.
    """

    workers: Sequence[DeadWorker]
    now_ms: int
    next_ms: int | None
    more: bool = False


class WorkerStore(Protocol):
    """The part of the store that recovery needs."""

    async def find(self, shard: int, skip: int) -> DeadWorkers:
        """Record which workers of ``shard`` are dead; return them without the first ``skip``."""
        ...

    async def recover(
        self, shard: int, dead: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        """Recover jobs of ``shard`` from dead workers, beginning at ``cursor`` ('' to begin).

        Returns:
            How many jobs of each worker were recovered, and the next cursor, None at the end.
        """
        ...

    async def finish_recovery(self, shard: int, worker: DeadWorker) -> None:
        """Remove a worker from the lost workers of its own shard."""
        ...


@dataclass(frozen=True, slots=True)
class RedisWorkerStore:
    """The workers in Redis.

    Args:
        store: an open store.
        batch: dead workers that one call finds.
    """

    store: Store
    batch: int

    async def find(self, shard: int, skip: int) -> DeadWorkers:
        """Find dead workers, as ``WorkerStore.find``."""
        dead, next_ms, now_ms = await workers.find_dead(
            self.store, self.store.keys.shard(shard), self.batch, skip
        )
        return DeadWorkers(dead, now_ms, next_ms, more=len(dead) >= self.batch)

    async def recover(
        self, shard: int, dead: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        """Walk through a bounded number of jobs, as ``WorkerStore.recover``."""
        return await workers.recover(self.store, self.store.keys.shard(shard), dead, cursor)

    async def finish_recovery(self, shard: int, worker: DeadWorker) -> None:
        """Remove a worker, as ``WorkerStore.finish_recovery``."""
        await workers.finish_recovery(self.store, self.store.keys.shard(shard), worker)


def step(
    worker_store: WorkerStore, shards: Sequence[int], *, limiter: StepLimiter, call_timeout_s: float
) -> Step:
    """Return the step of the loop: recover the jobs of one shard's dead workers from all shards.

    Args:
        worker_store: the store.
        shards: indexes of all shards.
        limiter: bound on recovery scripts in flight. It is not the limiter of the loop: the step
            itself holds a place of that one.
        call_timeout_s: limit of each script in seconds. The step as a whole has none.
    """
    walks = [_ShardWalks(worker_store, shard, limiter, call_timeout_s) for shard in shards]
    known: dict[int, dict[DeadWorker, _Recovery]] = {}

    async def recover_shard(shard: int) -> StepResult:
        # A worker that is not found any more is forgotten: another leader finished its recovery.
        recoveries, found = await _find_all(worker_store, shard, known.get(shard, {}))
        known[shard] = recoveries
        if recoveries:
            async with trio.open_nursery() as nursery:
                for walk in walks:
                    nursery.start_soon(walk.cover, list(recoveries.values()))
        done, incomplete = 0, []
        for recovery in recoveries.values():
            missing = [walk.shard for walk in walks if walk.shard not in recovery.walked]
            if missing:
                incomplete.append(f"{recovery.worker.id} in shards {missing}")
                continue
            _log_recovery(recovery)
            await worker_store.finish_recovery(shard, recovery.worker)
            done += recovery.jobs + 1
        if incomplete:
            raise RecoveryIncomplete("; ".join(incomplete))
        return SweepResult(done, found.next_ms, found.now_ms, more=bool(recoveries))

    return recover_shard


async def _find_all(
    worker_store: WorkerStore, shard: int, before: Mapping[DeadWorker, _Recovery]
) -> tuple[dict[DeadWorker, _Recovery], DeadWorkers]:
    """Find dead workers of a shard: all in recovery, and up to ``MAX_WORKERS`` new ones.

    While a shard is unreachable no recovery ends. Those in progress must not keep new ones from
    beginning.
    """
    recoveries: dict[DeadWorker, _Recovery] = {}
    new, skip = 0, 0
    while True:
        found = await worker_store.find(shard, skip)
        for worker in found.workers:
            new += worker not in before
            recoveries[worker] = before.get(worker) or _Recovery(worker)
        skip += len(found.workers)
        if not found.more or new >= MAX_WORKERS:
            return recoveries, found


def _log_recovery(recovery: _Recovery) -> None:
    if recovery.jobs or not recovery.worker.terminated:
        log.warning(
            "worker lost",
            extra={"worker_id": recovery.worker.id, "jobs_recovered": recovery.jobs},
        )


class _Recovery:
    """The recovery of one dead worker's jobs: which shards were walked, how many jobs found."""

    def __init__(self, worker: DeadWorker) -> None:
        self.worker = worker
        self.jobs = 0
        self.walked: set[int] = set()


class _Batch:
    """The recoveries that the next walk of a shard serves."""

    def __init__(self) -> None:
        self.recoveries: dict[_Recovery, None] = {}
        self.done = False


class _ShardWalks:
    """The walks through one shard's active jobs, one at a time."""

    def __init__(
        self, worker_store: WorkerStore, shard: int, limiter: StepLimiter, call_timeout_s: float
    ) -> None:
        self._worker_store = worker_store
        self.shard = shard
        self._limiter = limiter
        self._call_timeout_s = call_timeout_s
        self._walking = trio.Lock()
        self._next = _Batch()
        self._begin_at = float("-inf")
        self._paused_until = float("-inf")

    async def cover(self, recoveries: Sequence[_Recovery]) -> None:
        """Walk the shard for the recoveries that have not walked it, and note it in each.

        It also returns when the walk failed or the shard is paused. Then nothing is noted.
        """
        wanted = [recovery for recovery in recoveries if self.shard not in recovery.walked]
        if not wanted:
            return
        batch = self._next
        batch.recoveries.update(dict.fromkeys(wanted))
        async with self._walking:
            if batch.done or trio.current_time() < self._paused_until:
                return
            await trio.sleep_until(self._begin_at)
            self._begin_at = trio.current_time() + WALK_INTERVAL_S
            if self._next is batch:
                self._next = _Batch()  # this walk may miss jobs of workers that are found later
            waiting = list(batch.recoveries)
            for first in range(0, len(waiting), MAX_WORKERS):
                await self._walk(waiting[first : first + MAX_WORKERS])
            batch.done = True

    async def _walk(self, recoveries: Sequence[_Recovery]) -> None:
        dead = [recovery.worker for recovery in recoveries]
        cursor: str | None = ""
        try:
            while cursor is not None:
                async with self._limiter.hold():
                    with trio.fail_after(self._call_timeout_s):
                        found, cursor = await self._worker_store.recover(self.shard, dead, cursor)
                for recovery in recoveries:
                    recovery.jobs += found[recovery.worker.id]
        except Exception as error:  # a shard that fails must not stop the others
            self._paused_until = trio.current_time() + FAILED_SHARD_PAUSE_S
            log.warning(
                "dead workers' jobs not recovered, will retry",
                extra={"shard": self.shard, "workers": len(dead), "error": repr(error)},
            )
            return
        for recovery in recoveries:
            recovery.walked.add(self.shard)
