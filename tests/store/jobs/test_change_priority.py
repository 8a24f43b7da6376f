"""A waiting job may get another priority, and keeps its place among the jobs of that priority."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from tests.store.shortcuts import HOUR, ack, active, foreign_id, promote_all, put, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job


async def order(store: Store) -> list[str]:
    return [job.id for job in await take(store, count=100)]


async def test_a_job_moves_to_its_place_of_arrival_in_the_new_priority(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    made = [await put(store, priority=priority) for priority in (0, 5, 0, 5, 0)]
    changed = await change_priority(store, made[2].id, 5)
    assert changed.priority == 5
    assert (await change_priority(store, made[2].id, 5)).priority == 5
    await change_priority(store, made[1].id, -100)
    consistent()
    assert await order(store) == [made[i].id for i in (2, 3, 0, 4, 1)]


@pytest.mark.parametrize("state", ["scheduled", "pending"])
async def test_a_job_that_is_not_in_its_queue_gets_the_priority_later(
    store: Store, db: Any, state: str
) -> None:
    options: dict[str, Any] = {"pending": True}
    if state == "scheduled":
        options = {"scheduled_at": "+PT10M", "id": foreign_id(store)}
    job, other = await put(store, **options), await put(store)
    assert (await change_priority(store, job.id, 10)).state == state
    if state == "scheduled":
        age_job(db, shard_of(store), job.id, HOUR)
        await promote_all(store)
        assert await order(store) == [job.id, other.id]
    assert (await jobs.get(store, job.id)).priority == 10


async def test_active_and_ended_jobs_keep_their_priority(store: Store) -> None:
    job = await active(store)
    for _ in range(2):
        with pytest.raises(Conflict):
            await change_priority(store, job.id, 1)
        if (await jobs.get(store, job.id)).state is State.ACTIVE:
            await ack(store, job)
    with pytest.raises(NotFound):
        await change_priority(store, foreign_id(store), 1)
    assert (await jobs.get(store, job.id)).priority == 0


async def test_a_blocked_job_moves_in_every_set_that_orders_it(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    limit = {"key": "shared", "concurrency": 1}
    made = [await put(store, rate_limit=limit) for _ in range(4)]
    started = {job.id for job in await take(store, count=10)}
    assert len(started) == 1  # the others are blocked, and some have requested a token
    shard = shard_of(store)
    ordered = (
        shard.queue_blocked("mail"),
        shard.token_unrequested("mail", "shared"),
        shard.token_requested("mail", "shared"),
    )
    for job in (job for job in made if job.id not in started):
        before = [db.zscore(key, job.id) for key in ordered]
        assert any(before)
        await change_priority(store, job.id, 50)
        expected = [None if place is None else place - 50 * 2**45 for place in before]
        assert [db.zscore(key, job.id) for key in ordered] == expected
    assert db.zscore(shard.queue_available("mail"), made[0].id) is None
    consistent()
