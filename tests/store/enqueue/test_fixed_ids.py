"""A job whose id was fixed in advance keeps it taken for two minutes after its end, however it is
removed: a process that stalled may still try to store it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import NotFound
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_with_ids
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import bulk_retry, dead_letters
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.ground import job_fields as f
from tests.store.archives import counted, export_text
from tests.store.shortcuts import MINUTE, QUEUE, home_id, nack, new_job, reap_all, shard_of, take
from tests.store.workflow_jobs import chain, step
from tests.support.fixed_ids import enqueue_with_id
from tests.support.invariants import InvariantReport
from tests.support.moments import Moment, at_moments
from tests.support.servers import all_keys
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
Make = Callable[[Store], Awaitable[str]]

POLICY: dict[str, Any] = {"max_attempts": 1, "on_exhaustion": "dead_letter"}


async def a_step(store: Store) -> str:
    made = await chain(store, step(options={"queue": QUEUE, "retry": POLICY}), step("next"))
    return made.plan.jobs[0].job_id


async def a_run(store: Store) -> str:
    """As cron enqueues it."""
    new = new_job(id=home_id(store), retry=POLICY)
    return (await enqueue(store, new, fields=[f.FIXED_ID, b"1"])).id


async def dies(store: Store, make: Make) -> JobRecord:
    job_id = await make(store)
    [job] = await take(store)
    assert job.id == job_id
    dead = await nack(store, job)
    assert dead.dead
    return dead


async def assert_taken(store: Store, job_id: str) -> None:
    assert not await enqueue_with_id(store, job_id, new_job())
    assert await take(store) == []


async def assert_removed_in_time(store: Store, db: Any, backend: Embedded, job_id: str) -> None:
    """Check that the job is removed after two minutes, and not after one."""
    shard = shard_of(store)
    age_job(db, shard, job_id, MINUTE)
    assert (await retention.purge_due(store, shard, 10)).done == 0
    await assert_taken(store, job_id)
    age_job(db, shard, job_id, 2 * MINUTE)
    assert (await retention.purge_due(store, shard, 10)).done == 1
    assert not [key for key in all_keys(backend) if key.endswith(b":j:" + job_id.encode())]


@pytest.mark.parametrize("make", [a_step, a_run])
async def test_a_deleted_dead_letter_cannot_be_found_and_its_id_stays_taken(
    store: Store, db: Any, backend: Embedded, make: Make, consistent: Check
) -> None:
    dead = await dies(store, make)

    assert (await dead_letters.delete(store, dead.id)).id == dead.id

    finds = (read_jobs.get, dead_letters.get)
    for act in (*finds, dead_letters.retry, dead_letters.retry_discarded, dead_letters.delete):
        with pytest.raises(NotFound):
            await act(store, dead.id)
    page = await list_jobs(store, JobFilter(queue=QUEUE), limit=10)
    assert [job.id for job in page.jobs] == []
    assert (await bulk_retry.retry_matching(store, JobFilter(queue=QUEUE))).matched == 0
    assert counted(await export_text(store)) == {}
    consistent()
    await assert_removed_in_time(store, db, backend, dead.id)
    consistent()


@pytest.mark.parametrize("make", [a_step, a_run])
async def test_one_that_is_deleted_while_it_is_retried_does_not_run(
    store: Store, make: Make, consistent: Check
) -> None:
    dead = await dies(store, make)

    async def delete(moment: Moment) -> None:
        if moment == Moment("before", "retry_dead", 1):
            await dead_letters.delete(store, dead.id)

    with pytest.raises(NotFound):
        await dead_letters.retry_discarded(at_moments(store, delete), dead.id)
    with pytest.raises(NotFound):
        await read_jobs.get(store, dead.id)
    consistent()


@pytest.mark.parametrize("make", [a_step, a_run])
async def test_one_that_died_long_ago_is_removed_at_once(
    store: Store, db: Any, make: Make, consistent: Check
) -> None:
    dead = await dies(store, make)
    age_job(db, shard_of(store), dead.id, 3 * MINUTE)

    await dead_letters.delete(store, dead.id)
    await retention.purge_due(store, shard_of(store), 10)

    assert consistent().states == {}


@pytest.mark.parametrize("make", [a_step, a_run])
async def test_over_the_cap_of_dead_letters_the_oldest_keeps_its_id_taken(
    store: Store, db: Any, backend: Embedded, make: Make, consistent: Check
) -> None:
    store = replace(store, settings=replace(store.settings, dead_letter_max=1))
    first = await dies(store, make)
    second = await dies(store, make)

    [left], *_ = await dead_letters.list_dead_letters(store, queue=QUEUE, limit=10)
    assert left.id == second.id
    consistent()
    await assert_removed_in_time(store, db, backend, first.id)


async def test_of_two_that_die_at_once_over_the_cap_both_ids_stay_taken(
    store: Store, db: Any, consistent: Check
) -> None:
    store = replace(store, settings=replace(store.settings, dead_letter_max=1))
    ids = [await a_run(store) for _ in range(2)]
    for job in await take(store, count=2):
        db.zadd(shard_of(store).active, {job.id: 1})

    assert (await reap_all(store)).done == 2

    assert (await dead_letters.list_dead_letters(store, queue=QUEUE, limit=10))[1] == 1
    assert (await retention.purge_due(store, shard_of(store), 10)).done == 0
    for job_id in ids:
        await assert_taken(store, job_id)
    consistent()


@pytest.mark.parametrize("make", [a_step, a_run])
async def test_a_purged_job_keeps_its_id_taken(
    store: Store, db: Any, backend: Embedded, make: Make, consistent: Check
) -> None:
    job_id = await make(store)

    assert (await purges.purge(store, QUEUE))[0] == 1

    assert (await purges.purge(store, QUEUE)) == (0, 0)
    consistent()
    await assert_removed_in_time(store, db, backend, job_id)


async def test_a_portion_is_stored_in_its_order_though_one_of_its_jobs_exists(
    store: Store, consistent: Check
) -> None:
    ids = [home_id(store) for _ in range(4)]
    assert await enqueue_with_id(store, ids[2], new_job())
    jobs = [(job_id, new_job(), ()) for job_id in ids]

    assert await enqueue_with_ids(store, shard_of(store), jobs, 0) == 3
    assert await enqueue_with_ids(store, shard_of(store), jobs, 0) == 0
    assert [job.id for job in await take(store, count=9)] == [ids[2], ids[0], ids[1], ids[3]]
    consistent()
