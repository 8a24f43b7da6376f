"""Lists in an order that the client asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter, JobOrder
from ojs_cluster.store.features.search import sorted_jobs
from ojs_cluster.store.features.search.lists import list_jobs
from tests.store.search.test_lists import pages, put_body, wanted_by
from tests.store.shortcuts import QUEUE, active, put, queues_in_other_shards

By = Literal["created_at", "priority", "scheduled_at"]


async def ids_of(store: Store, wanted: JobFilter, by: By, ascending: bool, limit: int) -> list[str]:
    sorted_filter = replace(wanted, order=JobOrder(by, ascending))
    return [job.id for job in await pages(store, sorted_filter, limit)]


@pytest.mark.parametrize("limit", [2, 50])
async def test_jobs_of_all_states_are_sorted(store: Store, limit: int) -> None:
    queues = queues_in_other_shards(store, 3)
    made = []
    for number in range(9):
        queue, priority = queues[number % 3], (number * 4) % 5
        if number < 2:
            made.append(await active(store, queue, priority=priority))
        elif number < 5:
            made.append(await put(store, queue, priority=priority, scheduled_at="+PT1H"))
        else:
            made.append(await put(store, queue, priority=priority))
    await cancel(store, made[8].id)
    by_time = [job.id for job in sorted(made, key=lambda job: (job.created_ms, job.id))]
    by_priority = [job.id for job in sorted(made, key=lambda job: (job.priority, job.id))]
    assert await ids_of(store, JobFilter(), "created_at", True, limit) == by_time
    assert await ids_of(store, JobFilter(), "created_at", False, limit) == by_time[::-1]
    assert await ids_of(store, JobFilter(), "priority", True, limit) == by_priority
    assert await ids_of(store, JobFilter(), "priority", False, limit) == by_priority[::-1]
    scheduled = JobFilter(state=State.SCHEDULED)
    of_state = [job_id for job_id in by_priority if job_id in {job.id for job in made[2:5]}]
    assert await ids_of(store, scheduled, "priority", True, limit) == of_state
    of_queue = sorted(job.id for job in made if job.queue == queues[1])
    in_queue = JobFilter(queue=queues[1])
    assert await ids_of(store, in_queue, "created_at", True, limit) == of_queue
    ids = wanted_by(f"id:{made[3].id},{made[6].id},{made[0].id}")
    assert await ids_of(store, ids, "created_at", True, limit) == sorted(
        job.id for job in (made[0], made[3], made[6])
    )


@pytest.mark.parametrize("limit", [2, 50])
async def test_scheduled_jobs_are_sorted_in_both_directions_without_a_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(sorted_jobs, "MAX_ENTRIES", 1)
    queues = queues_in_other_shards(store, 5)
    made = {
        hour: (await put(store, queues[hour - 1], scheduled_at=f"+PT{hour}H")).id
        for hour in (3, 1, 2, 5, 4)
    }
    wanted = JobFilter(state=State.SCHEDULED)
    soonest = [made[hour] for hour in sorted(made)]
    assert await ids_of(store, wanted, "scheduled_at", True, limit) == soonest
    assert await ids_of(store, wanted, "scheduled_at", False, limit) == soonest[::-1]


async def test_too_many_jobs_are_not_sorted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorted_jobs, "MAX_ENTRIES", 3)
    made = sorted([(await put(store)).id for _ in range(3)])
    assert await ids_of(store, JobFilter(), "created_at", True, 2) == made
    await put(store, scheduled_at="+PT1H")
    with pytest.raises(InvalidRequest, match="at most 3 jobs"):
        await ids_of(store, JobFilter(), "created_at", True, 2)
    available = JobFilter(state=State.AVAILABLE)
    assert await ids_of(store, available, "created_at", True, 2) == made
    monkeypatch.setattr(sorted_jobs, "MAX_QUEUES", 0)
    with pytest.raises(InvalidRequest, match="name a queue"):
        await ids_of(store, available, "created_at", True, 2)


async def test_a_sorted_page_has_the_total_and_an_offset(store: Store) -> None:
    made = sorted([await put_body(store, QUEUE, type="t", args=[0]) for _ in range(6)])
    hit = await put_body(store, QUEUE, type="u", args=[1])
    await put(store, type="other")
    wanted = JobFilter(type="t", order=JobOrder("created_at", ascending=True))
    page = await list_jobs(store, wanted, limit=2, offset=3)
    assert ([job.id for job in page.jobs], page.total) == (made[3:5], 6)
    searched = replace(wanted_by("args.0:1"), order=wanted.order)
    page = await list_jobs(store, searched, limit=10)
    assert ([job.id for job in page.jobs], page.total) == ([hit], None)


async def test_a_cursor_of_another_order_is_refused(store: Store) -> None:
    for _ in range(3):
        await put(store)
    first = await list_jobs(store, JobFilter(order=JobOrder("priority", ascending=True)), limit=1)
    for order in (JobOrder("priority", ascending=False), JobOrder("created_at", ascending=True)):
        with pytest.raises(InvalidRequest, match="another order"):
            await list_jobs(store, JobFilter(order=order), limit=1, cursor=first.next_cursor)


async def test_damaged_jobs_are_left_out(store: Store, db: Any) -> None:
    job = await put(store)
    broken = await put(store)
    shard = store.keys.shard_of_queue(QUEUE)
    db.hset(shard.job(broken.id), mapping={b"c": b"\xff"})
    db.zadd(shard.queue_available(QUEUE), {b"\xff\xfe": 1})
    assert await ids_of(store, JobFilter(), "created_at", True, 5) == [job.id]
