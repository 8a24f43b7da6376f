"""No script writes more deliveries than Redis can write while it serves no other client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.enqueue import enqueue_many
from ojs_cluster.store.fetch.fetch import fetch
from ojs_cluster.store.jobs.ack import Ack, ack_many
from ojs_cluster.store.open import open_store
from ojs_cluster.store.sweeps.deadlines import promote, reap
from ojs_cluster.store.webhooks.fan_out import MOST_DELIVERIES, jobs_per_script
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


def test_the_number_of_jobs_depends_on_the_subscriptions_that_select_their_events() -> None:
    assert jobs_per_script("promote", 500, {}) == 500
    assert jobs_per_script("promote", 500, {"job.completed": 100}) == 500
    assert jobs_per_script("promote", 500, {"job.enqueued": 10, "job.expired": 3}) == (
        MOST_DELIVERIES // 10
    )
    assert jobs_per_script("nack_many", 100, {"job.failed": 100, "job.retrying": 100}) == 1
    assert jobs_per_script("reap", 100, {"job.failed": 10_000}) == 1
