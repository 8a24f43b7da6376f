"""Draining queues: which jobs they refuse, and which still enter them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from ojs_cluster.core.errors import QueueDraining
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.workflows import workflows
from tests.store.cron.test_cron import definition
from tests.store.hot_queues import put_into, spread
from tests.store.shortcuts import (
    DAY,
    QUEUE,
    ack,
    active,
    foreign_id,
    nack,
    new_job,
    promote_all,
    put,
    shard_of,
    take,
)
from tests.store.unique_jobs import keys_there, locks_left, once
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_cron, age_job


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    """Check that refused requests leave nothing behind."""
    yield
    consistent()


async def one(store: Store) -> object:
    return await put(store)


async def later(store: Store) -> object:
    return await put(store, delay_until="+PT1H")


async def with_its_own_id(store: Store) -> object:
    return await put(store, id=foreign_id(store))


async def a_unique_one(store: Store) -> object:
    return await once(store)


async def a_batch(store: Store) -> object:
    return await enqueue_many(store, [new_job("other"), new_job(QUEUE), new_job("third")])


async def a_workflow(store: Store) -> object:
    step = {"name": "one", "type": "t", "args": [], "options": {"queue": QUEUE}}
    body = json.dumps({"type": "group", "jobs": [step]}).encode()
    return await workflows.create(store, parse_workflow(body))


@pytest.mark.parametrize("create", [one, later, with_its_own_id, a_unique_one, a_batch, a_workflow])
@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_draining_queue_refuses_new_jobs_until_it_is_resumed(
    store: Store, db: Any, create: Callable[[Store], Awaitable[object]], partitions: int
) -> None:
    await spread(store, db, partitions)
    await ack(store, await active(store))  # the queue is in use, and known to the fast path
    await pauses.pause_or_resume(store, QUEUE, "drain")
    before = {key for key in keys_there(db) if b":j:" in key}

    with pytest.raises(QueueDraining) as refused:
        await create(store)
    assert refused.value.details == {"queue": QUEUE}
    assert {key for key in keys_there(db) if b":j:" in key} == before
    assert not locks_left(store, db)

    await pauses.pause_or_resume(store, QUEUE, "resume")
    await create(store)


async def test_accepted_jobs_still_enter_a_draining_queue(store: Store, db: Any) -> None:
    delayed = await put(store, delay_until="+PT1H")
    failing = await active(store)
    chain = [{"name": n, "type": "t", "args": [], "options": {"queue": QUEUE}} for n in "ab"]
    body = json.dumps({"type": "chain", "steps": chain}).encode()
    await workflows.create(store, parse_workflow(body))
    await pauses.pause_or_resume(store, QUEUE, "drain")

    await nack(store, failing)
    age_job(db, shard_of(store), failing.id, DAY)
    age_job(db, shard_of(store), delayed.id, DAY)
    await promote_all(store)
    for _ in range(4):
        [job] = await take(store)
        await ack(store, job)
    stats = await get_stats(store, QUEUE)
    assert (stats.counts[State.COMPLETED], stats.depth, stats.status) == (4, 0, "draining")
    with pytest.raises(QueueDraining):
        await put(store)


async def test_a_cron_occurrence_for_a_draining_queue_is_recorded(store: Store, db: Any) -> None:
    await cron.register(store, definition())
    queue = "reports"
    await pauses.pause_or_resume(store, queue, "drain")
    age_cron(db, store.keys.meta, "daily", DAY)
    await fire_due(RedisCronStore(store), 10)
    [occurrence] = await cron.history(store, "daily", 10)
    assert occurrence.error == f"queue_full: queue '{queue}' is draining: it takes no new jobs"


async def test_a_pause_and_a_drain_end_together(store: Store) -> None:
    await pauses.pause_or_resume(store, QUEUE, "pause")
    assert (await pauses.pause_or_resume(store, QUEUE, "drain"))[1] == "paused"
    assert (await get_stats(store, QUEUE)).draining_ms is not None
    assert (await pauses.pause_or_resume(store, QUEUE, "resume"))[1] == "active"
    assert (await get_stats(store, QUEUE)).draining_ms is None


async def test_new_partitions_of_a_draining_queue_are_draining(store: Store, db: Any) -> None:
    await pauses.pause_or_resume(store, QUEUE, "drain")
    for shard in await spread(store, db, 4):
        with pytest.raises(QueueDraining):
            await put_into(store, shard)
