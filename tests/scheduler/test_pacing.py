"""When a loop checks which shard, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Pace, ShardLoop, Step, StepLimiter
from ojs_scheduler.stats import LoopStats
from tests.scheduler.running import eventually
from tests.scheduler.shard_model import FakeShards

PACE = Pace(max_sleep_s=10.0, call_timeout_s=2.0, backoff_min_s=0.1, backoff_max_s=5.0)


@asynccontextmanager
async def running(step: Step, shards: int, *, slots: int = 8) -> AsyncIterator[ShardLoop]:
    loop = ShardLoop(
        "promote",
        step,
        pace=PACE,
        limiter=StepLimiter(slots),
        stats=LoopStats(),
        random=Random(1),
    )
    async with trio.open_nursery() as nursery:
        for shard in range(shards):
            nursery.start_soon(loop.serve, shard)
        yield loop
        nursery.cancel_scope.cancel()


async def test_idle_shards_sleep(autojump_clock: MockClock) -> None:
    shards = FakeShards()
    async with running(shards.step, 64):
        await trio.sleep(1000)
    assert len(shards.steps) <= 64 * 101


async def test_due_jobs_are_handled_at_their_due_time(autojump_clock: MockClock) -> None:
    shards = FakeShards()
    random = Random(2)
    for _ in range(1000):
        shards.add(random.randrange(64), random.randrange(60_000))
    async with running(shards.step, 64):
        await trio.sleep(61)
    assert len(shards.late_ms) == 1000
    assert max(shards.late_ms) <= 3
    assert len(shards.steps) < 3 * 1000


async def test_an_announced_deadline_wakes_a_sleeping_shard(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards()
    async with running(shards.step, 4) as loop:
        await trio.sleep(1)
        loop.on_deadline(2, shards.add(2, 700))
        await trio.sleep(1)
        assert shards.late_ms
        assert shards.late_ms[0] <= 3
        assert shards.steps_of(2) <= 4


async def test_a_later_announcement_does_not_delay_an_earlier_one(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards()
    async with running(shards.step, 1) as loop:
        await trio.sleep(1)
        loop.on_deadline(0, shards.add(0, 500))
        loop.on_deadline(0, shards.add(0, 900))
        loop.on_deadline(0, shards.add(0, 200))
        await trio.sleep(1)
    assert len(shards.late_ms) == 3
    assert max(shards.late_ms) <= 3


async def test_a_later_announcement_does_not_delay_what_the_shard_planned_itself(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards()
    shards.add(0, 500)
    async with running(shards.step, 1) as loop:
        await trio.sleep(0.1)
        loop.on_deadline(0, shards.add(0, 5000))
        await trio.sleep(0.5)
        assert shards.late_ms
        assert shards.late_ms[0] <= 3


async def test_an_announcement_during_a_step_is_not_lost(autojump_clock: MockClock) -> None:
    shards = FakeShards(trip_s=0.1)
    async with running(shards.step, 1) as loop:
        # The script ran at 0.1 s; the answer is under way.
        await trio.sleep(0.15)
        loop.on_deadline(0, shards.add(0, 1000))
        await trio.sleep(2)
    assert shards.late_ms
    assert shards.late_ms[0] <= 200


async def test_the_first_failures_pause_a_shard_for_a_tenth_of_a_second_then_twice_that(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(trip_s=0.0)
    shards.failing.add(0)
    async with running(shards.step, 1):
        await trio.sleep(3)
    times = [at for at, _ in shards.steps]
    for number, longest_s in enumerate((0.1, 0.2, 0.4)):
        assert longest_s / 2 <= times[number + 1] - times[number] <= longest_s + 0.001


async def test_of_two_announcements_during_a_step_the_earlier_counts(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(trip_s=0.1)
    async with running(shards.step, 1) as loop:
        await trio.sleep(0.15)  # the script ran at 0.1 s; the answer is under way
        loop.on_deadline(0, shards.add(0, 1000))
        loop.on_deadline(0, shards.add(0, 5000))
        await trio.sleep(2)
    assert shards.late_ms
    assert shards.late_ms[0] <= 200


async def test_wake_checks_the_shard_at_once(autojump_clock: MockClock) -> None:
    shards = FakeShards()
    async with running(shards.step, 2) as loop:
        await trio.sleep(1)
        shards.add(1, 0)
        loop.wake(1)
        await trio.sleep(0.01)
    assert shards.late_ms == [0]


async def test_the_servers_wall_clock_is_never_compared_with_ours(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(epoch_ms=5)
    shards.add(0, 3000)
    async with running(shards.step, 1):
        await trio.sleep(4)
    assert shards.late_ms
    assert shards.late_ms[0] <= 3


async def test_a_wall_clock_step_on_the_server_delays_work_by_one_sleep_at_most(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards()
    async with running(shards.step, 1):
        await trio.sleep(1)
        shards.add(0, 60_000)
        shards.epoch_ms += 3_600_000
        await trio.sleep(PACE.max_sleep_s)
        assert len(shards.late_ms) == 1


async def test_a_backlog_in_one_shard_does_not_delay_others(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(batch=100, cost_s=0.00001)
    shards.add(0, 0, count=50_000)
    async with running(shards.step, 64, slots=2) as loop:
        await trio.sleep(0.1)
        at = trio.current_time()
        for shard in range(1, 64):
            loop.on_deadline(shard, shards.add(shard, 0))
        await trio.sleep(0.1)
        assert len(shards.due[0]) > 0, "the backlog was gone too early to be in the way"
    assert all(shards.steps_of(shard, since=at) for shard in range(1, 64))


async def test_no_more_steps_in_flight_than_the_limit(autojump_clock: MockClock) -> None:
    shards = FakeShards(batch=10)
    for shard in range(64):
        shards.add(shard, 0, count=200)
    async with running(shards.step, 64, slots=3):
        await trio.sleep(5)
    assert shards.most_in_flight == 3
    assert len(shards.late_ms) == 64 * 200


async def test_shards_with_backlogs_take_turns(autojump_clock: MockClock) -> None:
    shards = FakeShards(batch=10)
    for shard in range(16):
        shards.add(shard, 0, count=100)
    async with running(shards.step, 16, slots=2):
        await trio.sleep(0.02)
        counts = [shards.steps_of(s) for s in range(16)]
    assert max(counts) - min(counts) <= 1


async def test_a_failing_shard_backs_off_and_the_others_go_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ojs.scheduler")
    shards = FakeShards(failing={3})
    random = Random(3)
    async with running(shards.step, 8) as loop:
        for _ in range(200):
            shard = random.randrange(8)
            loop.on_deadline(shard, shards.add(shard, random.randrange(2000)))
            await trio.sleep(random.random())
        assert loop._stats.failing == {3}
        failures = loop._stats.failures
        shards.failing.clear()
        await trio.sleep(6)
        assert loop._stats.failing == set()
        assert not shards.due[3]
    assert failures < 60, "announcements must not make a failing shard's retries denser"
    messages = [r.getMessage() for r in caplog.records]
    assert messages == ["sweep of a shard fails, will retry", "sweep of a shard succeeds again"]


async def test_announcements_do_not_shorten_a_failing_shards_pauses(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(failing={0})
    async with running(shards.step, 1) as loop:
        for _ in range(2000):
            await trio.sleep(0.01)
            loop.on_deadline(0, shards.now_ms())
    # Doubling from 0.1 s to 5 s: about nine retries in 20 s.
    assert shards.steps_of(0) <= 16


async def test_a_wake_during_a_step_that_fails_ends_the_pause(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(trip_s=0.1, failing={0})
    async with running(shards.step, 1) as loop:
        await trio.sleep(60)
        steps = len(shards.steps)
        await eventually(lambda: len(shards.steps) == steps + 1, what="the next retry")
        loop.wake(0)
        rung = trio.current_time()
        again = await eventually(lambda: len(shards.steps) == steps + 2, what="one more")
    assert again - rung <= 0.15


async def test_a_failing_shard_is_checked_when_its_node_is_back(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(failing={0})
    async with running(shards.step, 1) as loop:
        await trio.sleep(60)
        shards.failing.clear()
        shards.add(0, 0)
        loop.wake(0)
        await trio.sleep(0.01)
    assert shards.late_ms == [0]


async def test_shards_of_an_unresponsive_node_do_not_block_the_others(
    autojump_clock: MockClock,
) -> None:
    silent = set(range(22))
    shards = FakeShards(hanging=silent)
    async with running(shards.step, 64, slots=8) as loop:
        for _ in range(50):
            await trio.sleep(0.2)
            loop.on_deadline(40, shards.add(40, 100))
        assert loop._stats.failing == silent
    assert len(shards.late_ms) >= 49
    # Only the moment in which the node falls silent is felt: three rounds of eight slots.
    assert sorted(shards.late_ms)[-3] <= 5
    assert max(shards.late_ms) <= 400


async def test_a_known_unresponsive_node_delays_no_other_shard(
    autojump_clock: MockClock,
) -> None:
    shards = FakeShards(hanging=set(range(16)))
    async with running(shards.step, 17, slots=1) as loop:
        await trio.sleep(30)
        for _ in range(100):
            loop.on_deadline(16, shards.add(16, 100))
            await trio.sleep(0.37)
    assert len(shards.late_ms) == 100
    assert max(shards.late_ms) <= 5


async def hurry(slots: StepLimiter, random: Random, step_s: float, waits: list[float]) -> None:
    """A shard with an endless backlog: its steps take 20 % more or less than `step_s`."""
    while True:
        asked = trio.current_time()
        async with slots.hold():
            waits.append(trio.current_time() - asked)
            await trio.sleep(step_s * random.uniform(0.8, 1.2))


@pytest.mark.parametrize(("shards", "step_s"), [(256, 0.02), (256, 0.05), (64, 0.03), (64, 0.09)])
async def test_many_busy_shards_with_slow_steps_all_have_their_turns(
    autojump_clock: MockClock, shards: int, step_s: float
) -> None:
    slots, random = StepLimiter(8), Random(4)
    waits: list[list[float]] = [[] for _ in range(shards)]
    fair_s = shards / 8 * step_s

    with trio.move_on_after(20 * fair_s):
        async with trio.open_nursery() as nursery:
            for mine in waits:
                nursery.start_soon(hurry, slots, random, step_s, mine)

    turns = [len(mine) for mine in waits]
    assert max(turns) - min(turns) <= 2
    assert max(max(mine) for mine in waits) <= 2 * fair_s


async def test_an_unanswered_step_stops_counting_and_no_waiter_loses_its_place(
    autojump_clock: MockClock,
) -> None:
    slots = StepLimiter(1, late_after_s=0.1)
    order: list[tuple[int, float]] = []

    async def silent(number: int) -> None:
        async with slots.hold():
            order.append((number, round(trio.current_time() - began, 3)))
            await trio.sleep(60)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(silent, number)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert order == [(0, 0.0), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]


async def test_a_waiter_that_is_cancelled_keeps_no_place(
    autojump_clock: MockClock,
) -> None:
    slots = StepLimiter(2, late_after_s=1000)
    held = 0

    async def hold(seconds: float) -> None:
        nonlocal held
        async with slots.hold():
            held += 1
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(hold, 10)
        await trio.sleep(1)
        for deadline in (2, 3, 10):  # the last ends in the moment in which slots are free again
            with trio.move_on_at(trio.current_time() - 1 + deadline):
                await hold(0)
        await trio.sleep(1)
        with trio.fail_after(1):
            async with slots.hold(), slots.hold():
                held += 2
    assert held >= 4


async def test_a_step_that_reports_work_and_does_none_is_paused(
    autojump_clock: MockClock,
) -> None:
    steps = 0

    async def step(shard: int) -> SweepResult:
        nonlocal steps
        steps += 1
        await trio.sleep(0.001)
        now_ms = int(trio.current_time() * 1000)
        return SweepResult(done=0, next_ms=now_ms - 5000, now_ms=now_ms, more=shard == 1)

    async with running(step, 2) as loop:
        await trio.sleep(100)
        assert loop._stats.stalled > 10
    assert steps < 200


async def test_a_stopped_loop_leaves_no_step_behind(autojump_clock: MockClock) -> None:
    shards = FakeShards(trip_s=0.05)
    async with running(shards.step, 64):
        await trio.sleep(0.08)
        assert shards.in_flight == 8
    assert shards.in_flight == 0
