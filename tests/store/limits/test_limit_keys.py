"""The number of rate limit keys is bounded, and unused keys are removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ojs_cluster.core.errors import TooManyRateLimitKeys
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.workflows import workflows
from ojs_cluster.store.ground.process_state import limit_keys
from tests.store.limit_jobs import key_in, keyed, settle
from tests.store.shortcuts import HOUR, MINUTE, ack, new_job, put, take

KEY = "customer:1"


@pytest.fixture
def crowd(store: Store, db: Any) -> Iterator[Callable[[int], Shard]]:
    """Add names of keys to the shard of ``KEY``; only the keys that the tests use have a state."""
    shard = store.keys.shard_of_limit(KEY)

    def add(count: int) -> Shard:
        if count:
            db.zadd(shard.rate_limits, {f"other:{number}": 0 for number in range(count)})
        return shard

    yield add
    db.zremrangebylex(shard.rate_limits, "[other:", "(other;")


def age(db: Any, shard: Shard, key: str, ms: int) -> None:
    """As if a key had been used ``ms`` earlier, and the scheduler checked it now."""
    db.hset(shard.rate_limit(key), "used_at", int(db.hget(shard.rate_limit(key), "used_at")) - ms)
    db.zadd(shard.rate_limit_checks, {key: 1})


async def test_a_new_key_is_refused_in_a_full_shard(
    store: Store, db: Any, crowd: Callable[[int], Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_keys, "_MAX_AGE_S", 0.0)
    crowd(limit_keys.MAX_KEYS - 1)
    await keyed(store, KEY, concurrency=1)
    await settle(store, db)
    other = f"{KEY}:{next(i for i in range(10_000) if is_beside(store, i))}"
    with pytest.raises(TooManyRateLimitKeys) as caught:
        await keyed(store, other, concurrency=1)
    assert caught.value.details == {"key": other}
    with pytest.raises(TooManyRateLimitKeys):
        await enqueue_many(store, [new_job(), new_job(rate_limit={"key": other, "concurrency": 1})])
    with pytest.raises(TooManyRateLimitKeys):
        await rate_limits.override_key(store, other, RateLimits(concurrency=2), None)
    step = {"type": "t", "args": [], "options": {"rate_limit": {"key": other, "concurrency": 1}}}
    with pytest.raises(TooManyRateLimitKeys):
        await workflows.create(
            store, parse_workflow(json.dumps({"type": "group", "jobs": [step]}).encode())
        )
    await keyed(store, KEY, concurrency=1)
    await keyed(store, key_elsewhere(store), concurrency=1)
    await put(store)


async def test_an_accepted_job_runs_although_its_key_exceeds_the_limit(
    store: Store, db: Any, crowd: Callable[[int], Shard]
) -> None:
    """Another process has filled the shard in between."""
    await keyed(store, key_elsewhere(store), concurrency=1)
    shard = crowd(0)
    await store.limit_keys._count(store, shard)
    crowd(limit_keys.MAX_KEYS)
    for number in range(3):
        await keyed(store, KEY, concurrency=1, type=f"t{number}")
    await settle(store, db)
    assert db.zscore(shard.rate_limits, KEY) is None
    ran = 0
    for _ in range(20):
        for job in await take(store, count=10):
            await ack(store, job)
            ran += 1
        await settle(store, db)
    assert ran == 4


@pytest.mark.parametrize(("others", "idle_ms"), [(0, 25 * HOUR), (9500, 2 * MINUTE)])
async def test_an_unused_key_is_removed_sooner_in_a_crowded_shard(
    store: Store, db: Any, crowd: Callable[[int], Shard], others: int, idle_ms: int
) -> None:
    shard = crowd(others)
    await keyed(store, KEY, concurrency=1)
    await settle(store, db)
    for job in await take(store):
        await ack(store, job)
    await settle(store, db)
    age(db, shard, KEY, idle_ms // 4)
    await rate_limits.sweep_rate_limits(store, shard, 100)
    assert db.exists(shard.rate_limit(KEY))
    age(db, shard, KEY, idle_ms)
    await rate_limits.sweep_rate_limits(store, shard, 100)
    assert not db.exists(shard.rate_limit(KEY))
    assert db.zscore(shard.rate_limits, KEY) is None


def is_beside(store: Store, number: int) -> bool:
    """Whether a key with this number shares the shard of ``KEY``."""
    shard_of = store.keys.shard_of_limit
    return shard_of(f"{KEY}:{number}") is shard_of(KEY)


def key_elsewhere(store: Store) -> str:
    """A key of another shard."""
    keys = (key_in(store, home=home) for home in (True, False))
    shard = store.keys.shard_of_limit(KEY)
    return next(key for key in keys if store.keys.shard_of_limit(key) is not shard)
