"""Fake shards for the pacing tests: jobs with due times, in virtual time.

Like the lease model it stands in for a seam (:data:`ojs_scheduler.pacing.Step`), not for Redis.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import trio

from ojs_cluster.store.ground.sweep_result import SweepResult


@dataclass(slots=True)
class FakeShards:
    """Shards whose due jobs a step takes out, `batch` at a time.

    :ivar epoch_ms: what the servers' wall clock shows at virtual time 0; drift_ms moves it.
    :ivar trip_s: one way to the server.
    :ivar steps: (virtual time in s, shard) of every step. :ivar late_ms: lateness of every job.
    """

    batch: int = 100
    epoch_ms: int = 1_700_000_000_000
    trip_s: float = 0.0005
    cost_s: float = 0.0
    steps: list[tuple[float, int]] = field(default_factory=list)
    late_ms: list[int] = field(default_factory=list)
    failing: set[int] = field(default_factory=set)
    hanging: set[int] = field(default_factory=set)
    in_flight: int = 0
    most_in_flight: int = 0
    due: dict[int, list[int]] = field(default_factory=dict)

    def now_ms(self) -> int:
        return self.epoch_ms + int(trio.current_time() * 1000)

    def add(self, shard: int, delay_ms: int, count: int = 1) -> int:
        """Plan ``count`` jobs; return their due time, as a publisher announces it."""
        due_ms = self.now_ms() + delay_ms
        for _ in range(count):
            heapq.heappush(self.due.setdefault(shard, []), due_ms)
        return due_ms

    async def step(self, shard: int) -> SweepResult:
        self.steps.append((trio.current_time(), shard))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.sleep(self.trip_s)
            if shard in self.failing:
                raise OSError("node is down")
            if shard in self.hanging:
                await trio.sleep_forever()
            result = self._run(shard)
            await trio.sleep(self.trip_s + self.cost_s * result.done)
            return result
        finally:
            self.in_flight -= 1

    def _run(self, shard: int) -> SweepResult:
        now_ms = self.now_ms()
        jobs = self.due.setdefault(shard, [])
        done = 0
        while jobs and jobs[0] <= now_ms and done < self.batch:
            self.late_ms.append(now_ms - heapq.heappop(jobs))
            done += 1
        more = bool(jobs) and jobs[0] <= now_ms
        return SweepResult(done, jobs[0] if jobs else None, now_ms, more)

    def steps_of(self, shard: int, since: float = 0.0) -> int:
        return sum(1 for at, s in self.steps if s == shard and at >= since)
