"""Jobs of full rate limit keys do not delay a job whose key is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import start_deadline
from ojs_cluster.redis.script import Script
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch import fetch, long_poll
from ojs_cluster.store.engine.fetch.long_poll import Waiters, fetch_or_wait
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from tests.store.hot_queues import put_into, spread
from tests.store.limit_jobs import key_in, keyed, token_counts
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    take,
    until,
)
from tests.store.unique_jobs import keys_there
from tests.support.invariants import InvariantReport
from tests.support.recording import Recording

Consistent = Callable[[], InvariantReport]

KEYS = 1000
LOOKS = 2
"""Fetches within which a job whose key is free must start."""


@pytest.fixture(params=["key at home", "key elsewhere"])
def free(request: pytest.FixtureRequest, store: Store) -> str:
    """Return a key with free tokens, whose state is in the queue's shard or in another."""
    return key_in(store, home=request.param == "key at home")


async def block(store: Store, keys: int = KEYS, *, jobs: int = 2, queue: str = QUEUE) -> None:
    """Put jobs of many full keys into a queue."""
    limits = [{"key": f"full:{number}", "concurrency": 0} for number in range(keys)] * jobs
    for at in range(0, len(limits), 500):
        await enqueue_many(
            store, [new_job(queue, rate_limit=limit) for limit in limits[at : at + 500]]
        )


async def looks_until(store: Store, wanted: Sequence[JobRecord]) -> int:
    """Return the number of fetches of one job each until all given jobs are taken."""
    missing = {job.id for job in wanted}
    for number in range(1, 100):
        missing -= {job.id for job in await take(store)}
        if not missing:
            return number
    raise AssertionError("the job was not found")


async def test_a_free_key_does_not_wait_for_the_jobs_of_a_full_one(
    store: Store, consistent: Consistent, free: str
) -> None:
    full = {"key": "full", "concurrency": 1}
    await enqueue_many(store, [new_job(rate_limit=full) for _ in range(300)])
    [active] = await take(store)
    job = await keyed(store, free, concurrency=1)

    assert await looks_until(store, [job]) <= LOOKS
    consistent()
    await ack(store, active)
    [following] = await take(store)
    assert following.fields[b"rl"].startswith(b"full ")
    consistent()


async def test_a_free_key_does_not_wait_for_a_thousand_full_ones(
    store: Store, consistent: Consistent, free: str
) -> None:
    await block(store)
    job = await keyed(store, free, concurrency=1)

    assert await looks_until(store, [job]) <= LOOKS
    consistent()


async def test_a_free_key_does_not_wait_for_keys_known_to_be_full(
    store: Store, consistent: Consistent, free: str
) -> None:
    await block(store)
    for _ in range(5):
        assert await take(store) == []
    job = await keyed(store, free, concurrency=1, priority=-9)

    assert await looks_until(store, [job]) <= LOOKS
    consistent()


async def test_a_key_that_is_free_again_does_not_wait_for_full_ones(
    store: Store, consistent: Consistent, free: str
) -> None:
    await block(store)
    for _ in range(3):
        await keyed(store, free, concurrency=1)
    [job] = [job for _ in range(LOOKS) for job in await take(store)]
    for _ in range(2):
        await ack(store, job)
        [job] = [job for _ in range(LOOKS) for job in await take(store)]
        assert job.fields[b"rl"].startswith(free.encode())
    consistent()


async def put_unmet(store: Store, jobs: int) -> None:
    """Enqueue jobs of twenty full keys."""
    limits = [{"key": f"full:{number % 20}", "concurrency": 0} for number in range(jobs)]
    for at in range(0, jobs, 500):
        await enqueue_many(store, [new_job(rate_limit=limit) for limit in limits[at : at + 500]])


@pytest.mark.parametrize("keys", [2000, pytest.param(12_000, marks=pytest.mark.soak)])
async def test_a_plain_job_behind_many_full_keys_waits_for_few_requests(
    store: Store, consistent: Consistent, keys: int
) -> None:
    await block(store, keys, jobs=1)
    plain = await put(store)
    scripts = Recording(store.scripts)

    assert await looks_until(replace(store, scripts=scripts), [plain]) == 1

    calls = keys / 200 + 1
    # A call that passes more keys blocks its node for more than 10 ms.
    assert keys / 200 <= scripts.times["fetch_full"] <= calls
    assert scripts.times["limit_request"] <= 32 * calls
    consistent()


def calls_for(keys: int) -> float:
    """Return how many calls pass the first jobs of this many full keys (docs/adr/011)."""
    return keys / 200 + keys / 128 + 6


@pytest.mark.parametrize(
    ("keys", "further_calls"), [(KEYS, 1), pytest.param(20_000, 60, marks=pytest.mark.soak)]
)
async def test_a_free_key_behind_many_full_ones_waits_for_a_counted_number_of_fetches(
    store: Store,
    consistent: Consistent,
    free: str,
    monkeypatch: pytest.MonkeyPatch,
    keys: int,
    further_calls: int,
) -> None:
    monkeypatch.setattr(fetch, "_FURTHER_CALLS", further_calls)
    await block(store, keys, jobs=1)
    job = await keyed(store, free, concurrency=1)
    scripts = Recording(store.scripts)

    looks = await looks_until(replace(store, scripts=scripts), [job])

    assert looks <= LOOKS + calls_for(keys) / (4 + further_calls)
    assert scripts.times["fetch_full"] <= calls_for(keys) + LOOKS * 4
    assert scripts.times["limit_request"] <= keys + 1, "each key is asked once"
    assert scripts.times["outbox_record_delivered"] <= scripts.times["fetch_full"] + LOOKS
    consistent()


async def test_a_fetch_behind_full_keys_makes_a_limited_number_of_calls(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FURTHER_CALLS", 2)
    await block(store)
    scripts = Recording(store.scripts)
    assert await take(replace(store, scripts=scripts)) == []
    assert scripts.times["fetch_full"] == fetch._MAX_CALLS + 2


@pytest.mark.parametrize("time_s", [60, 300])
async def test_a_fetch_behind_full_keys_leaves_a_part_of_the_time_of_its_request(
    store: Store, monkeypatch: pytest.MonkeyPatch, time_s: float
) -> None:
    monkeypatch.setattr(fetch, "_FURTHER_CALLS", 2)
    monkeypatch.setattr(fetch, "_RESERVED_S", 60)
    await block(store)
    deadline, scripts = start_deadline(), Recording(store.scripts)

    deadline.at = trio.current_time() + time_s
    assert await take(replace(store, scripts=scripts)) == []
    assert scripts.times["fetch_full"] == fetch._MAX_CALLS + 2

    class Slow(Recording):
        """Let time pass before the last call that needs none of the reserved time."""

        def __getitem__(self, name: str) -> Script:
            if name == "fetch_full" and self.times[name] == fetch._MAX_CALLS - 1:
                deadline.at = trio.current_time() + min(time_s / 2, fetch._RESERVED_S)
            return super().__getitem__(name)

    slow = Slow(store.scripts)
    deadline.at = trio.current_time() + time_s
    assert await take(replace(store, scripts=slow)) == []
    assert slow.times["fetch_full"] == fetch._MAX_CALLS


async def test_a_fetch_of_queues_in_several_shards_may_make_as_many_calls(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_FURTHER_CALLS", 2)
    await block(store)
    others = [
        name
        for name in queues_in_other_shards(store, 3)
        if shard_of(store, name) is not shard_of(store)
    ]
    scripts = Recording(store.scripts)
    start_deadline().at = trio.current_time() + 10  # the default time of a request

    assert await take(replace(store, scripts=scripts), QUEUE, *others[:2]) == []

    assert scripts.times["fetch_full"] == fetch._MAX_CALLS + 2


@pytest.mark.parametrize("jobs", [4000, pytest.param(20_000, marks=pytest.mark.soak)])
async def test_few_calls_pass_thousands_of_jobs_that_no_fetch_has_read(
    store: Store, consistent: Consistent, jobs: int
) -> None:
    await put_unmet(store, jobs)
    job = await keyed(store, key_in(store, home=False), concurrency=1)
    scripts = Recording(store.scripts)

    assert await looks_until(replace(store, scripts=scripts), [job]) <= LOOKS

    # 400 jobs each, and some calls that ask the twenty keys.
    assert scripts.times["fetch_full"] <= jobs / 400 + 6
    consistent()


async def test_a_free_key_does_not_wait_in_any_partition(
    store: Store, db: Any, consistent: Consistent
) -> None:
    shards = await spread(store, db, 4)
    await block(store)
    jobs = [await put_free_job(store, shard) for shard in shards]

    assert await looks_until(store, jobs) <= LOOKS + len(jobs) - 1
    consistent()


async def put_free_job(store: Store, shard: Shard) -> JobRecord:
    return await put_into(store, shard, rate_limit={"key": f"free:{shard.index}", "concurrency": 1})


@pytest.mark.parametrize("further_calls", [0, 60])
async def test_a_long_poll_gets_the_job_of_a_free_key_at_once(
    store: Store,
    other_store: Store,
    db: Any,
    free: str,
    monkeypatch: pytest.MonkeyPatch,
    further_calls: int,
) -> None:
    monkeypatch.setattr(long_poll, "CHECK_EVERY_S", 1000)
    monkeypatch.setattr(fetch, "_FURTHER_CALLS", further_calls)
    await block(store)
    waiters = Waiters()
    got: list[JobRecord] = []

    async def wait() -> None:
        got.extend(
            await fetch_or_wait(store, waiters, [QUEUE], count=1, worker_id="w", wait_ms=HOUR)
        )

    # A waiter that is not woken takes the job only when its time is up.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await until(lambda: asked_keys(db), lambda asked: asked == KEYS)
            job = await keyed(other_store, free, concurrency=1)
    assert [found.id for found in got] == [job.id]


async def asked_keys(db: Any) -> int:
    """Return how many of the full keys have a token request."""
    return sum(b":la:full:" in key for key in keys_there(db))


async def test_tokens_are_requested_again_when_all_requesting_jobs_are_cancelled(
    store: Store, consistent: Consistent, free: str
) -> None:
    jobs = [await keyed(store, free, concurrency=1) for _ in range(103)]
    [active] = await take(store)
    assert await take(store, count=100) == []
    assert await token_counts(store, free) == (1, 100)
    for job in jobs[1:101]:
        await cancel(store, job.id)
    consistent()
    await ack(store, active)

    assert [job.id for job in await take(store)] == [jobs[101].id]
    consistent()


async def test_a_plain_job_among_full_keys_is_fetched_at_once(store: Store) -> None:
    await block(store)
    plain = await put(store)
    assert await looks_until(store, [plain]) == 1
