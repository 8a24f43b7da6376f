"""Unique jobs inside of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.ground.process_state.queue_defaults import change_defaults
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    home_id,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.unique_jobs import assert_nothing_left, locks_left, once
from tests.support.invariants import InvariantReport


async def test_items_of_a_batch_are_decided_in_order(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    one, other = queues_in_other_shards(store, 2)
    there = await once(store, one, type="there")

    answers = await enqueue_many(
        store,
        [
            new_job(one, type="a", unique={}),
            new_job(other, type="there", unique={"on_conflict": "ignore"}),
            new_job(other, type="a", unique={"on_conflict": "ignore"}),
            new_job(other, type="a", unique={"on_conflict": "replace"}),
            new_job(other, type="plain"),
        ],
    )

    a, existing, same, newer, plain = answers
    assert (existing.id, existing.deduplicated) == (there.id, True)
    assert (same.id, same.deduplicated) == (a.id, True)
    assert a.state == State.CANCELLED
    assert [job.state for job in (newer, plain)] == [State.AVAILABLE] * 2
    taken = await take(store, one, other, count=9)
    assert {job.id for job in taken} == {there.id, newer.id, plain.id}
    for job in taken:
        await ack(store, job)
    assert_nothing_left(store, db)
    consistent()


async def test_a_job_that_the_batch_replaces_ends_as_any_cancelled_job(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    await change_defaults(store, QUEUE, {"retention": {"cancelled": "PT4H"}})
    await store.queue_defaults.read(store)
    cancelled = await put(store)
    await cancel(store, cancelled.id)
    unique = {"on_conflict": "replace"}

    replaced, _ = await enqueue_many(store, [new_job(unique=unique) for _ in range(2)])

    finished = shard_of(store).finished
    kept_longer_ms = db.zscore(finished, replaced.id) - db.zscore(finished, cancelled.id)
    assert 0 <= kept_longer_ms < HOUR
    assert db.hget(shard_of(store).queue_counters(QUEUE), "cancelled_total") == b"2"
    assert (await read_jobs.get(store, replaced.id)).json() == replaced.json()
    consistent()


async def test_a_rejected_item_fails_its_batch_and_leaves_nothing(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    one, other = queues_in_other_shards(store, 2)
    there = await once(store, one)
    own = home_id(store, other)
    batch = [
        new_job(other, type="x", unique={}),
        new_job(other, id=own, type="y"),
        new_job(one, unique={}),
    ]

    with pytest.raises(Duplicate) as refused:
        await enqueue_many(store, batch)

    assert refused.value.details["index"] == 2
    assert refused.value.details["existing_job_id"] == there.id
    assert [job.id for job in await take(store, one, other, count=9)] == [there.id]
    assert locks_left(store, db) == 1
    assert not db.exists(shard_of(store, other).job(own))
    consistent()


async def test_a_batch_rejects_what_it_holds_itself_twice(store: Store, db: Any) -> None:
    with pytest.raises(Duplicate, match=r"jobs\[1\] conflicts with jobs\[0\]"):
        await enqueue_many(store, [new_job(unique={}), new_job(unique={})])
    assert await take(store) == []
    assert locks_left(store, db) == 0
