"""No script writes more deliveries than Redis can write while it serves no other client."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.features.rate_limits import rate_limits, rate_tokens
from ojs_cluster.store.ground.process_state.jobs_per_script import MOST_DELIVERIES, jobs_per_script
from ojs_cluster.store.ground.process_state.webhook_table import WebhookTable
from ojs_cluster.store.open import open_store
from tests.store.limit_jobs import key_in, keyed, token_counts
from tests.store.shortcuts import DAY, QUEUE, new_job, shard_of, take
from tests.store.webhook_jobs import subscribe
from tests.support.budget import budget
from tests.support.patience import patient_client
from tests.support.servers import observer
from tests.support.timeshift import age_job

SUBSCRIPTIONS = 100


@pytest.fixture
async def store(standalone: Embedded) -> AsyncIterator[Store]:
    """Scripts fail when they exceed a budget that is smaller than that of the largest jobs."""
    async with open_store(patient_client(standalone), prelude=budget(commands=4000)) as opened:
        for _ in range(SUBSCRIPTIONS):
            await subscribe(opened)
        await opened.webhooks.read(opened)
        yield opened


@pytest.fixture
def db(standalone: Embedded) -> Iterator[Any]:
    with observer(standalone) as client:
        yield client


def jobs(count: int, **members: Any) -> list[Any]:
    """Return jobs of different types, whose events cannot share an entry."""
    return [new_job(type=f"type.t{number}", **members) for number in range(count)]


async def test_jobs_that_are_due_together_are_promoted_in_portions(store: Store, db: Any) -> None:
    shard = shard_of(store)
    for job in await enqueue_many(store, jobs(100, scheduled_at="+PT1H")):
        age_job(db, shard, job.id, DAY)
    promoted = 0
    while (result := await promote(store, shard, 500)).done:
        promoted += result.done
    assert promoted == 100
    assert db.hlen(shard.webhook_deliveries) == 200 * SUBSCRIPTIONS + 1


async def test_leases_that_end_together_are_reaped_in_portions(store: Store, db: Any) -> None:
    shard = shard_of(store)
    await enqueue_many(store, jobs(60))
    for job in await take(store, QUEUE, count=60):
        age_job(db, shard, job.id, DAY)
    reaped = 0
    while (result := await reap(store, shard, 100)).done:
        reaped += result.done
    assert reaped == 60


async def test_large_requests_are_split_and_complete(store: Store, db: Any) -> None:
    await enqueue_many(store, jobs(80))
    taken = await fetch(store, [QUEUE], count=80, worker_id="w1")
    assert len(taken) == 80
    outcomes = await ack_many(store, [Ack(job.id, None, None) for job in taken], worker_id="w1")
    assert {str(outcome) for outcome in outcomes} == {"completed"}
    assert db.hlen(shard_of(store).webhook_deliveries) == 3 * 80 * SUBSCRIPTIONS + 1


async def block(store: Store, db: Any, key: str, count: int) -> None:
    """Let one job of a key be active, and a number of others wait for their tokens."""
    unaware = replace(store, webhooks=WebhookTable())  # for it, one fetch requests all tokens
    for _ in range(count + 1):
        await keyed(unaware, key, concurrency=1)
    assert len(await take(unaware, count=count + 1)) == 1
    assert await token_counts(store, key) == (1, count)
    # Granted tokens are kept, as if a fetch always had found blocked jobs just now.
    db.hset(shard_of(store).queue_counters(QUEUE), "demand_at", 2**50)


async def refresh(store: Store, db: Any, key: str) -> None:
    """Do what the scheduler does when it checks a key, which must be due now."""
    seconds, micros = db.time()
    due_ms = db.zscore(store.keys.shard_of_limit(key).rate_limit_checks, key)
    assert due_ms <= seconds * 1000 + micros // 1000
    await rate_tokens.run_key_script(store, "limit_refresh", key, [])


async def test_tokens_that_become_free_together_are_granted_in_portions(
    store: Store, db: Any
) -> None:
    key = key_in(store, home=False)
    await block(store, db, key, 20)
    await rate_limits.override_key(store, key, RateLimits(concurrency=100), None)
    granted = []
    while (counts := await token_counts(store, key))[1]:
        granted.append(counts[0])
        await refresh(store, db, key)
    assert granted == [4, 7, 10, 13, 16, 19]
    assert counts == (21, 0)
    shard = store.keys.shard_of_limit(key)
    stored = db.hvals(shard.webhook_deliveries)
    assert sum(b"rate_limit.released" in each for each in stored) == 20 * SUBSCRIPTIONS


async def test_new_requests_get_no_token_that_is_reserved_for_an_older_one(
    store: Store, db: Any
) -> None:
    key = key_in(store, home=False)
    names = (f"new-{number}" for number in itertools.count())
    near = (name for name in names if shard_of(store, name) is shard_of(store, QUEUE))
    first, second = next(near), next(near)
    for queue in (first, second):
        await keyed(store, key, queue, concurrency=1, on_limit="drop")
    await block(store, db, key, 8)
    await rate_limits.override_key(store, key, RateLimits(concurrency=10), None)
    assert await token_counts(store, key) == (4, 5)
    assert len(await take(store, first)) == 1
    assert await token_counts(store, key) == (7, 3)
    assert await take(store, second) == []
    assert await token_counts(store, key) == (9, 1)
    await refresh(store, db, key)
    assert await token_counts(store, key) == (10, 0)
    stored = db.hvals(shard_of(store).webhook_deliveries)
    assert sum(b"rate_limit.dropped" in each for each in stored) == SUBSCRIPTIONS


def test_the_number_of_jobs_depends_on_the_subscriptions_that_select_their_events() -> None:
    assert jobs_per_script("promote", 500, {}) == 500
    assert jobs_per_script("promote", 500, {"job.completed": 100}) == 500
    assert jobs_per_script("promote", 500, {"job.enqueued": 10, "job.expired": 3}) == (
        MOST_DELIVERIES // 10
    )
    assert jobs_per_script("nack_many", 100, {"job.failed": 100, "job.retrying": 100}) == 1
    assert jobs_per_script("reap", 100, {"job.failed": 10_000}) == 1
    both = {"rate_limit.released": 20, "rate_limit.exceeded": 100}
    assert jobs_per_script("limit_set", 1000, both) == MOST_DELIVERIES // 20
    assert jobs_per_script("limit_request", 1000, both) == (MOST_DELIVERIES - 100) // 20
