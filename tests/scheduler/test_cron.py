"""A year of cron jobs in virtual time: leaders start, stop, die during a firing and overlap."""

from __future__ import annotations

import json
from random import Random

import pytest
import trio
from trio.testing import MockClock

from ojs_cluster.core.cron.cron_job import parse_cron
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import META
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Pace, ShardLoop, StepLimiter
from ojs_scheduler.stats import LoopStats
from tests.scheduler.cron_model import InMemoryCronStore, Redis, work
from tests.support.cron_oracle import ZONES, Named, random_expression, utc

YEAR_S = 365 * 24 * 3600
START = utc("2026-01-01 00:00:30")
EPOCH_MS = int(START.timestamp()) * 1000
# Sparse enough for a year of them to be walked, and for a leader's absence of half a minute.
PACE = Pace(max_sleep_s=24 * 3600.0, call_timeout_s=60.0)


def leader(redis: Redis, random: Random) -> ShardLoop:
    book = InMemoryCronStore(redis, random)

    async def step(_: int) -> SweepResult:
        return await fire_due(book, 100)

    return ShardLoop(
        "cron", step, pace=PACE, limiter=StepLimiter(8), stats=LoopStats(), random=random
    )


async def lead_in_turn(redis: Redis, random: Random, until_s: float) -> None:
    """Run leaders in turn; sometimes none for half a minute, sometimes two for an hour."""
    async with trio.open_nursery() as nursery:
        while (now := trio.current_time()) < until_s:
            with_rival = random.random() < 0.5
            ends = now + _some_time(redis, random)

            async def term(deadline: float) -> None:
                with trio.move_on_at(deadline):
                    await leader(redis, random).serve(META)

            nursery.start_soon(term, min(ends, until_s + 60))
            pause = -3600.0 if with_rival else random.uniform(0, 30)
            await trio.sleep(max(1.0, ends - now + pause))
        await trio.sleep(60)


def _some_time(redis: Redis, random: Random) -> float:
    """Return the length of a term: any, or one that ends during a firing."""
    if random.random() < 0.5:
        return random.uniform(3600, 20 * 24 * 3600)
    now = redis.now_ms()
    looks = [redis.check_ms(fields) for fields in redis.crons.values()]
    nearest = min(at for at in looks if at is not None)
    return max(1.0, (nearest - now) / 1000 + random.uniform(0, 0.4))


def some_crons(random: Random, count: int) -> list[tuple[Named, str]]:
    found: list[tuple[Named, str]] = []
    while len(found) < count:
        named, zone = random_expression(random, sparse=True), random.choice(ZONES)
        try:
            body = {"name": "c", "cron": named.text, "timezone": zone, "type": "t"}
            definition = parse_cron(json.dumps(body).encode())
        except InvalidRequest:
            continue  # 30 February
        if definition.schedule.following(EPOCH_MS, EPOCH_MS) is not None:
            found.append((named, zone))
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_no_occurrence_of_a_year_is_missed_or_doubled(
    autojump_clock: MockClock, seed: int
) -> None:
    random = Random(seed)
    redis = Redis(EPOCH_MS)
    crons = some_crons(random, 4)
    for at, (named, zone) in enumerate(crons):
        body = {"name": f"c{at}", "cron": named.text, "timezone": zone, "type": "t"}
        redis.register(parse_cron(json.dumps({**body, "overlap_policy": "allow"}).encode()))

    await lead_in_turn(redis, random, YEAR_S)

    end = utc("2027-01-01 00:00:30")
    for at, (named, zone) in enumerate(crons):
        expected = list(named.occurrences(zone, utc("2026-01-01 00:01"), end))
        fired = [at_ms for name, at_ms, _ in redis.fired if name == f"c{at}"]
        assert fired == expected, (named.text, zone)
    assert all(count == 1 for count in redis.stored.values())
    assert len(redis.stored) == len(redis.fired) > 0
    late = [now - at_ms for _, at_ms, now in redis.fired]
    assert max(late) < 40_000  # at most 30 s without a leader; a firing comes first
    assert not any(b"firing" in fields for fields in redis.crons.values())


async def test_runs_of_one_cron_job_wait_for_each_other_under_any_leader(
    autojump_clock: MockClock,
) -> None:
    random = Random(5)
    redis = Redis(EPOCH_MS)
    body = {"name": "c", "cron": "*/10 * * * *", "type": "t", "overlap_policy": "enqueue"}
    redis.register(parse_cron(json.dumps(body).encode()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, redis, random, 1100.0)
        await lead_in_turn(redis, random, 2 * 3600)
        nursery.cancel_scope.cancel()

    assert [at_ms for _, at_ms, _ in redis.fired] == [
        EPOCH_MS - 30_000 + minutes * 60_000 for minutes in range(10, 2 * 60 + 1, 10)
    ]
    assert len(redis.stored) == 12
    assert redis.most_active == 1
    begun = [job_id for job_id in redis.stored if redis.jobs.get(job_id) is not State.PENDING]
    assert len(begun) > 7
