"""Recovery of dead workers' jobs, over an in-memory WorkerStore."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.store.features.workers.workers import DeadWorker
from ojs_scheduler.loops.dead_workers import (
    FAILED_SHARD_PAUSE_S,
    WALK_INTERVAL_S,
    DeadWorkers,
    RecoveryIncomplete,
    step,
)
from ojs_scheduler.pacing import StepLimiter

SHARDS = range(8)
DEAD = DeadWorker("w1", dead_ms=500)


@dataclass
class InMemoryWorkerStore:
    """Jobs by shard and holder, two found per call."""

    held: dict[int, list[str]]
    dead: list[DeadWorker] = field(default_factory=lambda: [DEAD])
    broken: set[int] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    recovered: Counter[int] = field(default_factory=Counter)
    begun: list[tuple[float, int]] = field(default_factory=list)
    """When a walk of which shard began."""
    batch: int = 50

    async def find(self, shard: int, skip: int) -> DeadWorkers:
        await trio.lowlevel.checkpoint()
        page = tuple(self.dead[skip : skip + self.batch])
        return DeadWorkers(page, now_ms=1000, next_ms=9000, more=len(page) == self.batch)

    async def recover(
        self, shard: int, dead_workers: Sequence[DeadWorker], cursor: str
    ) -> tuple[Counter[str], str | None]:
        if not cursor:
            self.begun.append((trio.current_time(), shard))
        await trio.sleep(0.001)
        if shard in self.broken:
            raise OSError("node is down")
        if shard in self.hanging:
            await trio.sleep_forever()
        jobs = self.held.get(shard, [])
        seen = int(cursor or 0)
        dead = {worker.id for worker in dead_workers}
        taken = Counter(holder for holder in jobs[seen : seen + 2] if holder in dead)
        self.held[shard] = [
            "" if seen <= i < seen + 2 and holder in dead else holder
            for i, holder in enumerate(jobs)
        ]
        self.recovered[shard] += taken.total()
        return taken, str(seen + 2) if seen + 2 < len(jobs) else None

    async def finish_recovery(self, shard: int, worker: DeadWorker) -> None:
        await trio.lowlevel.checkpoint()
        self.dead.remove(worker)


@dataclass
class ShardedWorkerStore(InMemoryWorkerStore):
    """Each dead worker has a shard of its own."""

    homes: dict[int, list[DeadWorker]] = field(default_factory=dict)

    async def find(self, shard: int, skip: int) -> DeadWorkers:
        await trio.lowlevel.checkpoint()
        return DeadWorkers(tuple(self.homes.get(shard, ())), now_ms=1000, next_ms=None)

    async def finish_recovery(self, shard: int, worker: DeadWorker) -> None:
        await trio.lowlevel.checkpoint()
        self.homes[shard].remove(worker)


def jobs_everywhere() -> dict[int, list[str]]:
    return {shard: ["w1", "w2", "w1", "w3", "w1"] for shard in SHARDS}


async def test_jobs_in_every_shard_are_recovered_and_others_left(
    autojump_clock: MockClock,
) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere())
    result = await step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)(3)
    assert worker_store.recovered == Counter(dict.fromkeys(SHARDS, 3))
    assert all("w2" in jobs and "w3" in jobs for jobs in worker_store.held.values())
    assert worker_store.dead == []
    assert (result.done, result.next_ms) == (3 * len(SHARDS) + 1, 9000)


@pytest.mark.parametrize("how", ["broken", "hanging"])
async def test_a_failing_shard_leaves_the_worker_lost_and_the_others_are_searched(
    autojump_clock: MockClock, how: str
) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere())
    getattr(worker_store, how).add(5)
    run = step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)
    with pytest.raises(RecoveryIncomplete, match=r"w1 in shards \[5\]"):
        await run(3)
    assert worker_store.dead == [DEAD]
    assert sum(worker_store.recovered.values()) == 3 * (len(SHARDS) - 1)

    getattr(worker_store, how).clear()
    await trio.sleep(FAILED_SHARD_PAUSE_S)
    result = await run(3)
    assert worker_store.dead == []
    assert result.done == 3 * len(SHARDS) + 1


async def test_one_walk_of_each_shard_serves_all_the_dead(autojump_clock: MockClock) -> None:
    """However many they are, and in whatever shards their records lie."""
    homes = {home: [DeadWorker(f"w{home}-{n}", 500) for n in range(20)] for home in SHARDS}
    names = [dead.id for of_home in homes.values() for dead in of_home]
    worker_store = ShardedWorkerStore({shard: [*names, "lives"] for shard in SHARDS}, homes=homes)
    run = step(worker_store, SHARDS, limiter=StepLimiter(4), call_timeout_s=60.0)
    async with trio.open_nursery() as nursery:
        for home in SHARDS:
            nursery.start_soon(run, home)

    assert not any(homes.values())
    assert worker_store.recovered == Counter(dict.fromkeys(SHARDS, len(names)))
    # Those that were found when a walk had begun have the next one.
    assert max(Counter(shard for _, shard in worker_store.begun).values()) <= 2


async def test_walks_of_one_shard_begin_apart(autojump_clock: MockClock) -> None:
    """Workers that die one after the other cost a bounded number of walks."""
    worker_store = InMemoryWorkerStore(jobs_everywhere(), dead=[])
    run = step(worker_store, SHARDS, limiter=StepLimiter(8), call_timeout_s=1.0)
    for number in range(30):
        worker_store.dead = [DeadWorker(f"w{number}", 500)]
        await run(3)

    times = [at for at, shard in worker_store.begun if shard == 5]
    assert len(times) == 30
    assert min(after - at for at, after in itertools.pairwise(times)) >= WALK_INTERVAL_S


async def test_healthy_shards_do_not_wait_for_an_unreachable_one(autojump_clock: MockClock) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere(), hanging={5})
    run = step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 3)
        await trio.sleep(1.0)
        assert worker_store.recovered == Counter({shard: 3 for shard in SHARDS if shard != 5})
        nursery.cancel_scope.cancel()


async def test_a_retry_walks_only_the_shards_that_failed(autojump_clock: MockClock) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere(), broken={5})
    run = step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)
    for _ in range(4):
        with pytest.raises(RecoveryIncomplete):
            await run(3)
        await trio.sleep(FAILED_SHARD_PAUSE_S)

    assert Counter(shard for _, shard in worker_store.begun) == {**dict.fromkeys(SHARDS, 1), 5: 4}


async def test_a_shard_that_failed_is_not_walked_again_at_once(autojump_clock: MockClock) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere(), hanging={5})
    run = step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)
    with pytest.raises(RecoveryIncomplete):
        await run(3)
    before = trio.current_time()
    with pytest.raises(RecoveryIncomplete):
        await run(3)

    assert trio.current_time() == before


async def test_a_worker_that_terminated_is_not_logged_as_lost(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    gone = DeadWorker("gone", 500, terminated=True)
    left_jobs = DeadWorker("w1", 500, terminated=True)
    worker_store = InMemoryWorkerStore(jobs_everywhere(), dead=[gone, left_jobs])
    with caplog.at_level(logging.INFO, "ojs.scheduler"):
        await step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)(3)

    assert worker_store.dead == []
    assert [(entry.getMessage(), vars(entry)["worker_id"]) for entry in caplog.records] == [
        ("worker lost", "w1")
    ]


async def test_more_dead_than_one_walk_serves_are_all_recovered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_scheduler.loops.dead_workers.MAX_WORKERS", 1)
    worker_store = InMemoryWorkerStore(jobs_everywhere(), dead=[DEAD, DeadWorker("w2", 600)])
    await step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)(3)

    assert worker_store.dead == []
    assert worker_store.recovered == Counter(dict.fromkeys(SHARDS, 4))


async def test_dead_workers_that_wait_for_a_shard_do_not_delay_later_ones(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_scheduler.loops.dead_workers.MAX_WORKERS", 2)
    dead = [DeadWorker(f"w{number}", 500 + number) for number in range(9)]
    held = {shard: [one.id for one in dead] for shard in SHARDS}
    worker_store = InMemoryWorkerStore(held, dead=list(dead), broken={5}, batch=2)
    run = step(worker_store, SHARDS, limiter=StepLimiter(2), call_timeout_s=1.0)
    for _ in range(5):
        with pytest.raises(RecoveryIncomplete):
            await run(3)
        await trio.sleep(FAILED_SHARD_PAUSE_S)

    assert worker_store.recovered == Counter({shard: 9 for shard in SHARDS if shard != 5})
    assert worker_store.dead == dead
    worker_store.broken.clear()
    while worker_store.dead:
        await run(3)
    assert worker_store.recovered[5] == 9


async def test_a_leader_that_is_stopped_leaves_the_worker_lost(autojump_clock: MockClock) -> None:
    worker_store = InMemoryWorkerStore(jobs_everywhere())
    run = step(worker_store, SHARDS, limiter=StepLimiter(1), call_timeout_s=1.0)
    with trio.move_on_after(0.005):
        await run(3)
    assert worker_store.dead == [DEAD]
    await run(3)
    assert worker_store.dead == []
    assert worker_store.recovered == Counter(dict.fromkeys(SHARDS, 3))
