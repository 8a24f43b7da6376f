"""Jobs by queue and type: counted by processes, capped per queue, shown by the metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.ack import Ack, ack_many
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.ground.process_state.job_counts import read_types
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_cluster.store.operators.operations.metrics import collect
from tests.store.shortcuts import (
    QUEUE,
    ack,
    active,
    failure,
    home_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.workflow_jobs import chain, step
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE

LAST = {"max_attempts": 1}


async def counted(store: Store, queue: str = QUEUE) -> dict[str, list[int]]:
    """Write what the process has counted, and return it as the metrics show it."""
    await store.job_counts.flush(store)
    return (await collect(store, 1000)).queues[queue].types


@pytest.fixture
async def capped(backend: Embedded) -> AsyncIterator[Store]:
    settings = StoreSettings(metrics_types=2)
    async with open_store(patient_client(backend), settings, prelude=PRELUDE) as opened:
        yield opened


async def test_jobs_are_counted_by_type(store: Store) -> None:
    await ack(store, await active(store, type="a"))
    await ack(store, (await active(store, type="b")), worker_id="w1")
    await nack(store, await active(store, type="b", retry=LAST))
    await nack(store, await active(store, type="b"))
    assert await counted(store) == {"a": [1, 1, 0], "b": [3, 1, 1]}
    await put(store, type="a")
    assert (await counted(store))["a"] == [2, 1, 0]


async def test_every_way_to_store_jobs_is_counted(store: Store) -> None:
    far, near = queues_in_other_shards(store, 2)
    await put(store, near, id=home_id(store, near))
    await put(store, near, unique={})
    await put(store, near, unique={"on_conflict": "ignore"})  # a duplicate, which is not stored
    await enqueue_many(store, [new_job(near), new_job(near)])
    await enqueue_many(store, [new_job(near), new_job(far)])
    await chain(store, step("step", near))
    found = await counted(store, near)
    assert {name: numbers[0] for name, numbers in found.items()} == {"mail.send": 5, "step": 1}
    assert await counted(store, far) == {"mail.send": [1, 0, 0]}


async def test_batches_are_counted_once(store: Store) -> None:
    await enqueue_many(store, [new_job(type="a", retry=LAST) for _ in range(4)])
    jobs = await take(store, count=4)
    acks = [Ack(job.id, job.lease_id, None) for job in jobs[:2]]
    nacks = [Nack(job.id, job.lease_id, failure(), False) for job in jobs[2:]]
    for _ in range(2):
        await ack_many(store, acks, worker_id="w1")
        await nack_many(store, nacks, worker_id="w1")
        await nack(store, jobs[2], lease_id=jobs[2].lease_id)
    assert await counted(store) == {"a": [4, 2, 2]}


async def test_further_types_are_counted_as_other(capped: Store, db: Any) -> None:
    for job_type in ("a", "b", "c", "d", "a", "other"):
        await put(capped, type=job_type)
    assert await counted(capped) == {"a": [2, 0, 0], "b": [1, 0, 0], "other": [3, 0, 0]}
    assert db.pttl(shard_of(capped).queue_types(QUEUE)) > 0


async def test_no_types_are_counted_if_none_are_wanted(backend: Embedded) -> None:
    settings = StoreSettings(metrics_types=0)
    async with open_store(patient_client(backend), settings) as opened:
        await put(opened)
        assert await counted(opened) == {}


async def test_damaged_counts_are_replaced(store: Store, db: Any) -> None:
    key = shard_of(store).queue_types(QUEUE)
    await put(store, type="a")
    assert await counted(store) == {"a": [1, 0, 0]}
    for damage in (b"", b"x", b"1,2", b"-1,0,0", b"9" * 30 + b",0,0"):
        db.hset(key, "a", damage)
        db.hset(key, b"\xff", b"1,1,1")
        store.job_counts.count_failed(QUEUE.encode(), b"a", discarded=True)
        assert await counted(store) == {"a": [0, 0, 1]}
    assert read_types([b"a", b"1,2,x", b"b", b"1,1"]) == {}
    store.job_counts.count_failed(b"\xff", b"a", discarded=True)
    await store.job_counts.flush(store)  # a damaged name stops nothing
