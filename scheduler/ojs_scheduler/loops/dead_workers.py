"""Dead workers: make the jobs of a worker available again after it stopped sending heartbeats.

The leases of those jobs would expire anyway, but a lease may be long, and three missed heartbeats
show earlier that the worker is dead. The record of a worker lives in one shard, and its jobs may be
in any shard, so recovery takes several scripts. *find* moves the worker to the lost workers of its
own shard. *recover* reads the active jobs of every shard, and makes those of the dead worker
available. *finish* removes the worker from the lost workers. After a crash before *finish*, the
next leader repeats all steps, which are idempotent.

A *walk* is the sequence of *recover* calls that reads all active jobs of one shard. Its cost grows
with the number of active jobs. So one walk of a shard serves all workers that were found dead
before it began, and two walks of one shard begin at least ``WALK_INTERVAL_S`` apart. The cost does
not grow with the number of dead workers.

A shard that does not answer does not delay the recovery from other shards. A retry walks only the
shards whose walk has failed.

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
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.workers import DeadWorker
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Step, StepLimiter

log = logging.getLogger("ojs.scheduler")

WALK_INTERVAL_S: Final = 2.0
"""Minimum time in seconds between the beginnings of two walks of one shard."""
MAX_WORKERS: Final = 500
"""Maximum number of dead workers that one walk serves."""
FAILED_SHARD_PAUSE_S: Final = 5.0
"""Time in seconds after a failed walk of a shard before the next walk of that shard."""


class RecoveryIncomplete(Exception):
    """The active jobs of some shards could not be read, so the step must be tried again."""


@dataclass(frozen=True, slots=True)
class DeadWorkers:
    """One page of the dead workers of one shard.

    Args:
        workers: the workers.
        now_ms: Unix time in ms of the shard's clock when the workers were found.
        next_ms: Unix time in ms when the next worker may be found dead; None for never.
        more: whether there may be another page now.
    """

    workers: Sequence[DeadWorker]
    now_ms: int
    next_ms: int | None
    more: bool = False


class WorkerStore(Protocol):
    """The functions of the store that recovery calls."""

    async def find(self, shard: int, skip: int) -> DeadWorkers:
        """Record which workers of ``shard`` are dead, and return a page of them.

        Args:
            shard: index of the shard.
            skip: number of dead workers on earlier pages.
        """
        ...

    async def recover(
        self, shard: int, dead: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        """Make jobs of dead workers available again. Each call reads a part of the active jobs.

        Args:
            shard: index of the shard.
            dead: the dead workers.
            cursor: '' for the first call of a walk, otherwise the cursor that the last call
                returned.

        Returns:
            The number of recovered jobs by worker id, and the next cursor, None at the end.
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
        batch: maximum number of dead workers that one call of ``find`` returns.
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
        """Recover jobs, as ``WorkerStore.recover``."""
        return await workers.recover(self.store, self.store.keys.shard(shard), dead, cursor)

    async def finish_recovery(self, shard: int, worker: DeadWorker) -> None:
        """Remove a worker, as ``WorkerStore.finish_recovery``."""
        await workers.finish_recovery(self.store, self.store.keys.shard(shard), worker)


def step(
    worker_store: WorkerStore, shards: Sequence[int], *, limiter: StepLimiter, call_timeout_s: float
) -> Step:
    """Return the step of the loop: recover the jobs of one shard's dead workers from all shards.

    Args:
        worker_store: access to the workers in Redis.
        shards: indexes of all shards.
        limiter: limits the number of concurrent recovery scripts. It must not be the limiter of the
            steps. Steps could then hold all its places while they wait for a place for a script.
        call_timeout_s: time limit of each script in seconds. The whole step has no time limit.
    """
    walks = [_ShardWalks(worker_store, shard, limiter, call_timeout_s) for shard in shards]
    unfinished: dict[int, dict[DeadWorker, _Recovery]] = {}

    async def recover_shard(shard: int) -> SweepResult:
        # Recoveries that another leader has finished are not found again, and so are dropped.
        recoveries, found = await _find_all(worker_store, shard, unfinished.get(shard, {}))
        unfinished[shard] = recoveries
        if recoveries:
            async with trio.open_nursery() as nursery:
                for walk in walks:
                    nursery.start_soon(walk.walk_for, list(recoveries.values()))
        done, incomplete = 0, []
        for recovery in recoveries.values():
            missing = [walk.shard for walk in walks if walk.shard not in recovery.walked]
            if missing:
                incomplete.append(f"{recovery.worker.id} in shards {missing}")
                continue
            await worker_store.finish_recovery(shard, recovery.worker)
            _log_recovery(recovery)
            done += recovery.recovered_jobs + 1
        if incomplete:
            raise RecoveryIncomplete("; ".join(incomplete))
        return SweepResult(done, found.next_ms, found.now_ms, more=bool(recoveries))

    return recover_shard


async def _find_all(
    worker_store: WorkerStore, shard: int, unfinished: Mapping[DeadWorker, _Recovery]
) -> tuple[dict[DeadWorker, _Recovery], DeadWorkers]:
    """Return the recoveries of a shard's dead workers, and the last page of workers.

    Old recoveries do not count against the limit ``MAX_WORKERS``: while any shard is unreachable,
    no recovery finishes, and the jobs of further dead workers must still be recovered.

    Args:
        worker_store: access to the workers in Redis.
        shard: index of the shard.
        unfinished: the recoveries that the last step has not finished.
    """
    recoveries: dict[DeadWorker, _Recovery] = {}
    new, skip = 0, 0
    while True:
        found = await worker_store.find(shard, skip)
        for worker in found.workers:
            new += worker not in unfinished
            recoveries[worker] = unfinished.get(worker) or _Recovery(worker)
        skip += len(found.workers)
        if not found.more or new >= MAX_WORKERS:
            return recoveries, found


def _log_recovery(recovery: _Recovery) -> None:
    if recovery.recovered_jobs or not recovery.worker.terminated:
        log.warning(
            "worker lost",
            extra={"worker_id": recovery.worker.id, "jobs_recovered": recovery.recovered_jobs},
        )


class _Recovery:
    """The recovery of one dead worker's jobs."""

    def __init__(self, worker: DeadWorker) -> None:
        self.worker = worker
        self.recovered_jobs = 0
        self.walked: set[int] = set()  # indexes of the shards that were walked


class _WalkRequest:
    """The recoveries for which a shard is to be walked."""

    def __init__(self) -> None:
        self.recoveries: dict[_Recovery, None] = {}
        self.ended = False  # true also after a failed walk


class _ShardWalks:
    """The walks of one shard. There is one walk at a time."""

    def __init__(
        self, worker_store: WorkerStore, shard: int, limiter: StepLimiter, call_timeout_s: float
    ) -> None:
        self._worker_store = worker_store
        self.shard = shard
        self._limiter = limiter
        self._call_timeout_s = call_timeout_s
        self._walking = trio.Lock()
        self._next_request = _WalkRequest()
        self._next_walk_at = float("-inf")
        self._paused_until = float("-inf")

    async def walk_for(self, recoveries: Sequence[_Recovery]) -> None:
        """Walk the shard for all recoveries that have not walked it.

        After a successful walk, the shard is in ``walked`` of each recovery. After a failed walk,
        or while the shard is paused after a failure, it is not.
        """
        to_walk = [recovery for recovery in recoveries if self.shard not in recovery.walked]
        if not to_walk:
            return
        request = self._next_request
        request.recoveries.update(dict.fromkeys(to_walk))
        async with self._walking:
            # Another step may have walked the shard for the same request.
            if request.ended or trio.current_time() < self._paused_until:
                return
            await trio.sleep_until(self._next_walk_at)
            self._next_walk_at = trio.current_time() + WALK_INTERVAL_S
            if self._next_request is request:
                # Workers that are found during this walk need another one.
                self._next_request = _WalkRequest()
            waiting = list(request.recoveries)
            for first in range(0, len(waiting), MAX_WORKERS):
                await self._walk(waiting[first : first + MAX_WORKERS])
            request.ended = True

    async def _walk(self, recoveries: Sequence[_Recovery]) -> None:
        dead = [recovery.worker for recovery in recoveries]
        cursor: str | None = ""
        try:
            while cursor is not None:
                async with self._limiter.hold():
                    with trio.fail_after(self._call_timeout_s):
                        found, cursor = await self._worker_store.recover(self.shard, dead, cursor)
                for recovery in recoveries:
                    recovery.recovered_jobs += found[recovery.worker.id]
        except Exception as error:  # a shard that fails must not stop the others
            self._paused_until = trio.current_time() + FAILED_SHARD_PAUSE_S
            log.warning(
                "dead workers' jobs not recovered, will retry",
                extra={"shard": self.shard, "workers": len(dead), "error": repr(error)},
            )
            return
        for recovery in recoveries:
            recovery.walked.add(self.shard)
