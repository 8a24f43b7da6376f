"""The weights of tenants in the fair share of a queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.fair_share import set_fair_share
from ojs_cluster.store.engine.queues.partition_maintenance import maintain_queue, set_partitions
from ojs_cluster.store.features.tenants import changes, weights
from ojs_cluster.store.features.tenants.weights import WeightsCheck
from tests.store.hot_queues import spread
from tests.store.shortcuts import QUEUE, nack, shard_of, take
from tests.store.tenants.shortcuts import put_for, put_many, weigh
from tests.support.invariants import InvariantReport
from tests.support.lossy import without

Check = Callable[[], InvariantReport]


async def starts(store: Store, number: int, count: int = 1) -> Counter[str]:
    """Return how many jobs of each tenant some fetches start."""
    jobs = [job for _ in range(number) for job in await take(store, count=count)]
    return Counter(job.tenant or "-" for job in jobs)


@pytest.fixture
async def fair(store: Store) -> Store:
    await set_fair_share(store, QUEUE, on=True)
    return store


@pytest.mark.parametrize("count", [1, 10])
async def test_tenants_share_the_starts_by_their_weights(
    fair: Store, consistent: Check, count: int
) -> None:
    await weigh(fair, "a", 3)
    await put_many(fair, a=100, b=100)
    assert await starts(fair, 100 // count, count) == {"a": 75, "b": 25}
    consistent()


async def test_a_light_tenant_starts_a_job_in_each_of_its_turns(fair: Store) -> None:
    await weigh(fair, "light", 0.25)
    await put_many(fair, a=30, light=30)
    for _ in range(5):
        assert await starts(fair, 5) == {"a": 4, "light": 1}


async def test_a_weight_that_changes_counts_from_the_next_start(fair: Store) -> None:
    await put_many(fair, a=200, b=200)
    for a, b, share in ((3, 1, 30), (1, 1, 20), (1, 3, 10), (0.5, 2, 8)):
        await weigh(fair, "a", a)
        await weigh(fair, "b", b)
        await starts(fair, 8)  # what the earlier weights have charged
        assert await starts(fair, 40) == {"a": share, "b": 40 - share}


async def test_tenants_come_and_go(fair: Store, consistent: Check) -> None:
    await weigh(fair, "a", 2)
    await weigh(fair, "c", 3)
    await put_many(fair, a=100, b=100)
    assert await starts(fair, 30) == {"a": 20, "b": 10}
    joined = [await put_for(fair, "c") for _ in range(40)]
    assert await starts(fair, 60) == {"a": 20, "b": 10, "c": 30}
    for job in joined[30:]:
        await cancel(fair, job.id)
    consistent()
    assert await starts(fair, 30) == {"a": 20, "b": 10}
    await put_many(fair, c=40)
    # It has saved no turns.
    assert await starts(fair, 60) == {"a": 20, "b": 10, "c": 30}
    consistent()


async def test_each_start_counts_also_of_jobs_that_come_back(
    fair: Store, consistent: Check
) -> None:
    await weigh(fair, "a", 3)
    await put_many(fair, a=40, b=40)
    started: Counter[str] = Counter()
    for number in range(40):
        [job] = await take(fair)
        started[job.tenant or "-"] += 1
        await (release(fair, [job]) if number % 2 else nack(fair, job, requeue=True))
    assert started == {"a": 30, "b": 10}
    consistent()


async def test_each_partition_uses_the_weights(store: Store, db: Any, consistent: Check) -> None:
    await set_fair_share(store, QUEUE, on=True)
    await spread(store, db, 4)
    await set_partitions(store, QUEUE, 4)
    await maintain_queue(store, QUEUE)
    await weigh(store, "a", 3)
    for _ in range(96):  # so that no partition runs out of jobs of one tenant
        await put_many(store, a=1, b=1)
    jobs: list[JobRecord] = [job for _ in range(32) for job in await take(store)]
    started = Counter(job.tenant for job in jobs)
    # Each of the four has its own turns, so each may be one job ahead.
    assert abs(started["a"] - 24) <= 4
    consistent()


async def test_a_shard_without_a_correct_copy_gets_one(store: Store, db: Any) -> None:
    await weigh(store, "a", 3)
    shard = shard_of(store)
    assert db.hgetall(shard.tenant_weights)[b"a"] == b"3"
    check = WeightsCheck()
    await check.check(store)
    db.delete(shard.tenant_weights)
    await WeightsCheck().check(store)
    assert db.hgetall(shard.tenant_weights)[b"a"] == b"3"
    with pytest.raises(BackendUnavailable):
        await weigh(without(store, shard), "b", 2)
    others = [other for other in store.keys if other is not shard]
    assert all(db.hget(other.tenant_weights, "b") == b"2" for other in others)
    assert not db.hexists(shard.tenant_weights, "b")
    await check.check(store)
    assert db.hget(shard.tenant_weights, "b") == b"2"
    for tenant in "ab":
        await changes.delete(store, tenant)
    assert not any(db.exists(each.tenant_weights) for each in store.keys)


async def test_a_shard_that_does_not_answer_delays_no_weights_of_others(
    store: Store, db: Any
) -> None:
    await weigh(store, "a", 3)
    silent = shard_of(store)
    for shard in store.keys:
        db.delete(shard.tenant_weights)
    check = WeightsCheck()
    assert not await check.check(without(store, silent))
    assert [shard for shard in store.keys if not db.exists(shard.tenant_weights)] == [silent]
    assert await check.check(store)
    assert db.hget(silent.tenant_weights, "a") == b"3"


async def test_a_silent_shard_does_not_delay_the_check_of_each_minute(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await weigh(store, "a", 3)
    silent, lost, *_ = store.keys
    deaf, check = without(store, silent), WeightsCheck()
    began = trio.current_time()
    clock = SimpleNamespace(**vars(trio))
    monkeypatch.setattr(weights, "trio", clock)
    for second in (0, 30, 61):
        clock.current_time = lambda at=began + second: at
        assert not await check.check(deaf)
        if second == 0:
            db.delete(lost.tenant_weights)
    assert db.hget(lost.tenant_weights, "a") == b"3"
    assert caplog.text.count("are not checked") == 1


@pytest.mark.parametrize("weight", ["x", "nan", "0", "1e9"])
async def test_a_damaged_weight_counts_as_one(fair: Store, db: Any, weight: str) -> None:
    db.hset(shard_of(fair).tenant_weights, "a", weight)
    await put_many(fair, a=20, b=20)
    assert await starts(fair, 20) == {"a": 10, "b": 10}


async def test_a_job_that_the_fetch_promotes_is_charged_by_its_weight(
    fair: Store, db: Any, consistent: Check
) -> None:
    await weigh(fair, "c", 4)
    await put_many(fair, a=3)
    due = await put_for(fair, "c", scheduled_at="+PT1H")
    db.zadd(shard_of(fair).due, {due.id: 1})
    assert await starts(fair, 1, 9) == {"a": 3, "c": 1}
    assert db.zscore(shard_of(fair).tenant_turns(QUEUE), "c") == 0.25
    consistent()
