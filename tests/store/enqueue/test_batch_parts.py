"""Many jobs in one request: all of a shard or none, answered in the order asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable, Duplicate, TooManyQueues
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis import Client, Reply, Script
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.ground.portions import PORTION_BYTES
from tests.store.shortcuts import (
    QUEUE,
    home_id,
    new_job,
    put,
    queues_in_other_shards,
    sibling_queue,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient
from tests.support.servers import all_keys

Check = Callable[[], InvariantReport]


async def test_a_batch_is_answered_in_its_order_with_what_is_stored(
    store: Store, consistent: Check
) -> None:
    queues = [*queues_in_other_shards(store, 4), sibling_queue(store)]
    batch = [
        new_job(queues[number % 5], type=f"t.n{number}", priority=number % 3, tags=[str(number)])
        for number in range(40)
    ]
    batch += [new_job(scheduled_at="+PT1H"), new_job(pending=True), new_job(expires_at="+PT1H")]

    stored = await enqueue_many(store, batch)

    assert [job.type for job in stored] == [job.type for job in batch]
    assert [job.queue for job in stored] == [job.queue for job in batch]
    for job in stored:
        assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert consistent().count() == {"available": 41, "scheduled": 1, "pending": 1}


async def test_a_large_batch_that_fails_before_its_commit_was_not_applied(
    store: Store, consistent: Check
) -> None:
    class Silent(LossyClient):
        async def script(self, slot: int, script: Script, *args: Any, **kind: Any) -> Reply:
            if script.name == "transaction_record" and self.calls.get(script.name):
                raise BackendUnavailable("no answer", outcome="unknown")
            return await super().script(slot, script, *args, **kind)

    client = Silent(store.redis, lambda _name, _before: False)
    body = b'{"type":"t","args":["%b"],"options":{"queue":"%b"}}'
    text = b"x" * (PORTION_BYTES * 2 // 5)
    queues = queues_in_other_shards(store, 2) * 3
    batch = [parse_job(body % (text, queue.encode())) for queue in queues]
    with pytest.raises(BackendUnavailable) as failed:
        await enqueue_many(replace(store, redis=cast(Client, client)), batch)
    assert client.calls["transaction_record"] == 1
    assert failed.value.outcome == "not_applied"
    assert consistent().count() == {}


async def test_a_thousand_jobs_with_ids_of_both_kinds_are_one_batch(
    store: Store, consistent: Check
) -> None:
    batch = [new_job(id=home_id(store) if number % 2 else None) for number in range(1000)]
    stored = await enqueue_many(store, batch)

    assert len({job.id for job in stored}) == 1000
    assert consistent().count() == {"available": 1000}
    assert [job.id for job in await take(store, count=1000)] == [job.id for job in stored]


async def test_a_batch_in_one_shard_is_stored_whole_or_not_at_all(
    store: Store, backend: Embedded, consistent: Check
) -> None:
    taken = await put(store, id=home_id(store))
    twin = sibling_queue(store)
    before = all_keys(backend)
    for position in (0, 1, 499):
        batch = [new_job(twin if number % 2 else QUEUE) for number in range(500)]
        batch[position] = new_job(twin, id=taken.id)
        with pytest.raises(Duplicate) as refusal:
            await enqueue_many(store, batch)
        assert refusal.value.details["index"] == position

    created = all_keys(backend) - before
    assert not [key for key in created if b":j:" in key or b":q:" in key]
    assert consistent().count() == {"available": 1}


async def test_a_duplicate_is_named_by_its_place_in_the_whole_batch(store: Store) -> None:
    taken = await put(store, id=home_id(store))
    batch = [new_job(name) for name in queues_in_other_shards(store, 3) if name != QUEUE]
    with pytest.raises(Duplicate) as refusal:
        await enqueue_many(store, [*batch, new_job(id=taken.id)])

    assert refusal.value.details["index"] == len(batch)


async def test_one_duplicate_alone_names_no_index(store: Store) -> None:
    taken = await put(store, id=home_id(store))
    with pytest.raises(Duplicate) as refusal:
        await put(store, id=taken.id)

    assert "index" not in refusal.value.details
    assert refusal.value.details["existing_job_id"] == taken.id


async def test_a_batch_with_one_queue_too_many_stores_nothing(
    store: Store, consistent: Check
) -> None:
    store = replace(store, settings=replace(store.settings, max_queues=3))
    with pytest.raises(TooManyQueues, match="3 allowed"):
        await enqueue_many(store, [new_job(f"n{number}") for number in range(4)])

    assert consistent().states == {}


async def test_states_of_a_batch_are_its_jobs_own(store: Store) -> None:
    past, future, pending = await enqueue_many(
        store,
        [
            new_job(scheduled_at="2001-01-01T00:00:00Z"),
            new_job(scheduled_at="2099-01-01T00:00:00Z"),
            new_job(scheduled_at="2099-01-01T00:00:00Z", pending=True),
        ],
    )

    assert [job.state for job in (past, future, pending)] == [
        State.AVAILABLE,
        State.SCHEDULED,
        State.PENDING,
    ]
