"""A script over many large jobs moves few bytes and sends a bounded number of commands.

Redis serves no other client while it runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workflows.read_workflows import read_inputs
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.open import open_store
from tests.store.shortcuts import QUEUE, failure, home_id, put, reap_all, shard_of, take
from tests.support.budget import OVER, budget
from tests.support.patience import patient_client

MANY = 100
LARGE = b'"args":["%b"]' % (b"x" * 1_000_000)


@pytest.fixture
async def store(backend: Embedded) -> AsyncIterator[Store]:
    async with open_store(patient_client(backend)) as opened:
        yield opened


@pytest.fixture
async def metered(backend: Embedded, store: Store) -> AsyncIterator[Store]:
    """Scripts fail when they exceed their budget."""
    async with open_store(patient_client(backend), prelude=budget()) as opened:
        yield opened


async def make_large(store: Store, db: Any, *, fetched: bool) -> list[JobRecord]:
    """Jobs that were small while they were made."""
    made = [await put(store, id=home_id(store)) for _ in range(MANY)]
    if fetched:
        made = await take(store, count=MANY)
        assert len(made) == MANY
    for job in made:
        db.hset(shard_of(store).job(job.id), f.ENVELOPE, LARGE)
    return made


async def test_many_large_acks_and_nacks_move_few_bytes(
    store: Store, metered: Store, db: Any
) -> None:
    large = await make_large(store, db, fetched=True)
    half = MANY // 2
    acks = [Ack(job.id, job.lease_id, b"1") for job in large[:half]]
    nacks = [Nack(job.id, job.lease_id, failure(), requeue=False) for job in large[half:]]

    assert set(await ack_many(metered, acks, worker_id="w1")) == {State.COMPLETED}
    assert set(await nack_many(metered, nacks, worker_id="w1")) == {State.RETRYABLE}

    assert (await read_jobs.get(store, large[-1].id)).errors()


async def test_many_large_results_are_reported_in_portions(store: Store, metered: Store) -> None:
    for _ in range(12):
        await put(store)
    taken = await take(store, count=12)
    result = b'"%b"' % (b"x" * 900_000)

    acks = [Ack(job.id, job.lease_id, result) for job in taken]
    assert set(await ack_many(metered, acks, worker_id="w1")) == {State.COMPLETED}

    assert (await read_jobs.get(store, taken[-1].id)).result == result


@pytest.mark.parametrize("index", ["active", "expiring"])
async def test_many_large_jobs_are_reaped_within_the_budget(
    store: Store, metered: Store, db: Any, index: str
) -> None:
    large = await make_large(store, db, fetched=index == "active")
    key = getattr(shard_of(store), index)
    for job in large:
        if index == "expiring":
            db.hset(shard_of(store).job(job.id), f.EXPIRES, 1)
        db.zadd(key, {job.id: 1})

    assert (await reap_all(metered, limit=MANY)).done == MANY


async def test_many_large_jobs_are_purged_within_the_budget(
    store: Store, metered: Store, db: Any
) -> None:
    large = await make_large(store, db, fetched=True)
    await ack_many(store, [Ack(job.id, None, None) for job in large], worker_id="w1")
    for job in large:
        db.zadd(shard_of(store).finished, {job.id: 1})
    removed = 0
    while (tick := await retention.purge_due(metered, shard_of(store), 200)).done:
        removed += tick.done
    assert removed == MANY

    await make_large(store, db, fetched=False)
    assert await purges.purge(metered, QUEUE) == (MANY, 0)


async def test_large_jobs_are_fetched_within_the_budget_and_none_is_left(
    store: Store, metered: Store, db: Any
) -> None:
    large = await make_large(store, db, fetched=False)
    taken = await take(metered, count=MANY)
    assert 8 <= len(taken) <= 9
    for number in range(MANY // len(taken)):
        taken += await take(metered, count=MANY)
        assert number < MANY
    assert [job.id for job in taken][:MANY] == [job.id for job in large]


async def test_large_jobs_that_are_due_are_fetched_within_the_budget(
    store: Store, metered: Store, db: Any
) -> None:
    shard = shard_of(store)
    made = [await put(store, scheduled_at="+PT1H") for _ in range(20)]
    made += [await put(store) for _ in range(5)]
    for number, job in enumerate(made, 1):
        db.hset(shard.job(job.id), f.ENVELOPE, LARGE)
        if number <= 20:
            db.hset(shard.job(job.id), f.DUE, number)
            db.zadd(shard.due, {job.id: number})

    taken: list[str] = []
    while found := await take(metered, count=MANY):
        taken += [job.id for job in found]

    assert sorted(taken) == sorted(job.id for job in made)
    due = [job.id for job in made[:20]]
    assert [job_id for job_id in taken if job_id in due] == due


async def test_large_results_of_a_workflow_are_read_in_portions(
    store: Store, metered: Store, db: Any
) -> None:
    shard = shard_of(store)
    workflow = home_id(store)
    db.hset(shard.workflow_definitions(workflow), "9", LARGE)
    results = {number: b"%d" % number * 1_000_000 for number in range(1, 8)} | {8: b"8" * 900_000}
    db.hset(
        shard.workflow_results(workflow), mapping={b"%d" % n: value for n, value in results.items()}
    )

    definition, found = await read_inputs(metered, workflow, 9, [8, 77, 7, 6, 5, 4, 3, 2, 1])

    assert definition == LARGE
    assert found == results
    db.hset(shard.workflow_results(workflow), "0", "0" * 500_000)
    _, found = await read_inputs(metered, workflow, None, [*range(1, 9), 0])
    assert found == results, "nothing beyond the bound"
    assert await read_inputs(metered, workflow, None, []) == (b"", {})


async def test_a_script_over_its_budget_is_found(store: Store, metered: Store, db: Any) -> None:
    large = await make_large(store, db, fetched=True)
    shard = shard_of(store)
    for job in large[:2]:
        db.hset(shard.job(job.id), f.ENVELOPE, LARGE * 6)
    with pytest.raises(RedisReplyError, match=OVER):
        await ack_many(metered, [Ack(large[0].id, None, None)], worker_id="w1")
