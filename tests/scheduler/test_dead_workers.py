"""Recovery of dead workers' jobs, over an in-memory stand-in for the store's part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.store.workers import DeadWorker
from scheduler.dead_workers import Found, RecoveryIncomplete, step
from scheduler.pacing import Slots

SHARDS = range(8)
DEAD = DeadWorker("w1", dead_ms=500)


@dataclass
class FakeWard:
    """Jobs by shard and holder, two found per call."""

    held: dict[int, list[str]]
    marked: list[DeadWorker] = field(default_factory=lambda: [DEAD])
    broken: set[int] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    recovered: Counter[int] = field(default_factory=Counter)

    async def find(self, shard: int) -> Found:
        await trio.lowlevel.checkpoint()
        return Found(tuple(self.marked), now_ms=1000, next_ms=9000)

    async def recover(self, shard: int, lost: DeadWorker, cursor: str) -> tuple[int, str | None]:
        await trio.sleep(0.001)
        if shard in self.broken:
            raise OSError("node is down")
        if shard in self.hanging:
            await trio.sleep_forever()
        jobs = self.held.get(shard, [])
        seen = int(cursor or 0)
        page = jobs[seen : seen + 2]
        taken = sum(holder == lost.id for holder in page)
        self.held[shard] = [
            "" if seen <= i < seen + 2 and holder == lost.id else holder
            for i, holder in enumerate(jobs)
        ]
        self.recovered[shard] += taken
        return taken, str(seen + 2) if seen + 2 < len(jobs) else None

    async def bury(self, shard: int, lost: DeadWorker) -> None:
        await trio.lowlevel.checkpoint()
        self.marked.remove(lost)


def jobs_everywhere() -> dict[int, list[str]]:
    return {shard: ["w1", "w2", "w1", "w3", "w1"] for shard in SHARDS}


async def test_jobs_in_every_shard_are_recovered_and_others_left(
    autojump_clock: MockClock,
) -> None:
    ward = FakeWard(jobs_everywhere())
    tick = await step(ward, SHARDS, slots=Slots(2), call_timeout_s=1.0)(3)
    assert ward.recovered == Counter(dict.fromkeys(SHARDS, 3))
    assert all("w2" in jobs and "w3" in jobs for jobs in ward.held.values())
    assert ward.marked == []
    assert (tick.done, tick.next_ms) == (3 * len(SHARDS) + 1, 9000)


@pytest.mark.parametrize("how", ["broken", "hanging"])
async def test_a_sick_shard_keeps_the_mark_and_the_others_are_searched(
    autojump_clock: MockClock, how: str
) -> None:
    ward = FakeWard(jobs_everywhere())
    getattr(ward, how).add(5)
    run = step(ward, SHARDS, slots=Slots(2), call_timeout_s=1.0)
    with pytest.raises(RecoveryIncomplete, match=r"w1 in shards \[5\]"):
        await run(3)
    assert ward.marked == [DEAD]
    assert sum(ward.recovered.values()) == 3 * (len(SHARDS) - 1)

    getattr(ward, how).clear()
    tick = await run(3)
    assert ward.marked == []
    assert tick.done == 3 + 1


async def test_one_worker_that_cannot_be_recovered_does_not_hold_up_the_next(
    autojump_clock: MockClock,
) -> None:
    other = DeadWorker("w2", dead_ms=600)
    ward = FakeWard(jobs_everywhere(), marked=[DEAD, other])
    failing = ward.recover

    async def recover(shard: int, lost: DeadWorker, cursor: str) -> tuple[int, str | None]:
        if lost == DEAD and shard == 0:
            raise OSError("node is down")
        return await failing(shard, lost, cursor)

    ward.recover = recover  # type: ignore[method-assign]  # one failing pair, the rest as it is
    with pytest.raises(RecoveryIncomplete):
        await step(ward, SHARDS, slots=Slots(2), call_timeout_s=1.0)(3)
    assert ward.marked == [DEAD]


async def test_a_leader_stopped_in_between_leaves_the_mark(autojump_clock: MockClock) -> None:
    ward = FakeWard(jobs_everywhere())
    run = step(ward, SHARDS, slots=Slots(1), call_timeout_s=1.0)
    with trio.move_on_after(0.005):
        await run(3)
    assert ward.marked == [DEAD]
    await run(3)
    assert ward.marked == []
    assert ward.recovered == Counter(dict.fromkeys(SHARDS, 3))
