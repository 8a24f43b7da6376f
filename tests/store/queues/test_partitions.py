"""Queues of several partitions: where jobs are stored, and how a fetch finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, Duplicate
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.fetch import partition_fetch
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.partition_maintenance import set_partitions
from ojs_cluster.store.ground.process_state import depth_cache, partitions
from tests.store.hot_queues import failing, put_into, spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    foreign_id,
    id_in,
    new_job,
    put,
    queues_in_other_shards,
    take,
)
from tests.store.unique_jobs import once
from tests.store.workflow_jobs import chain, group, run_one, state_of, step
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient, lossy
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


def where(store: Store, db: Any, job: JobRecord) -> Shard:
    """Return the shard that has the job."""
    [shard] = [shard for shard in store.keys if db.hexists(shard.job(job.id), "s")]
    return shard


async def test_a_queue_of_one_partition_has_no_extra_keys(store: Store, db: Any) -> None:
    names = queues_in_other_shards(store, 3)
    for name in names:
        for priority in (0, 5, 0):
            await put(store, name, priority=priority)

    got = await take(store, *names, count=9)

    assert not db.exists(store.keys.meta.partitions)
    assert [job.queue for job in got] == [name for name in names for _ in range(3)]
    assert [job.priority for job in got] == [5, 0, 0] * 3
    assert {where(store, db, job) for job in got} == {store.keys.shard_of_queue(q) for q in names}


@pytest.mark.parametrize("count", [4, 16])
async def test_workers_get_every_job_once_and_from_all_partitions(
    store: Store, other_store: Store, db: Any, consistent: Check, count: int
) -> None:
    shards = await spread(store, db, count)
    await other_store.partitions.read(other_store)
    wanted: set[str] = set()
    got: list[str] = []

    async def produce(of: Store) -> None:
        for _ in range(50):
            wanted.add((await put(of)).id)

    async def work(of: Store) -> None:
        while len(got) < 400:
            for job in await take(of, count=3):
                await ack(of, job)
                got.append(job.id)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(produce, (store, other_store)[number % 2])
            for number in range(6):
                nursery.start_soon(work, (store, other_store)[number % 2])

    assert Counter(got) == Counter(wanted)
    assert consistent().count() == {"completed": 400}
    assert all(db.zcard(shard.finished) for shard in shards)
    assert await take(store) == []


async def test_within_a_partition_priority_and_then_age_decide(store: Store, db: Any) -> None:
    shards = await spread(store, db, 4)
    for priority in (0, 3, 3, 7):
        for shard in shards:
            await put_into(store, shard, priority=priority)

    got: dict[Shard, list[JobRecord]] = {}
    for job in await take(store, count=16):
        got.setdefault(where(store, db, job), []).append(job)

    assert got.keys() == set(shards)
    for of_one in got.values():
        assert [job.priority for job in of_one] == [7, 3, 3, 0]
        assert of_one[1].id < of_one[2].id


async def test_a_small_batch_stays_together_and_a_large_one_is_split(
    store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 4)
    counted, client = lossy(store)
    small = await enqueue_many(counted, [new_job() for _ in range(90)])
    assert len({store.keys.shard_of_id(job.id) for job in small}) == 1
    assert "transaction_commit" not in client.calls

    large = await enqueue_many(store, [new_job(priority=n % 3) for n in range(410)])
    places = [store.keys.shard_of_id(job.id) for job in large]

    assert set(places) == set(shards)
    changes = sum(before is not after for before, after in pairwise(places))
    assert changes == 3, "each partition has one portion"
    assert [job.priority for job in large] == [n % 3 for n in range(410)]
    assert consistent().count() == {"available": 500}
    assert len(await take(store, count=500)) == 500


async def test_on_a_busy_queue_a_fetch_is_one_call(store: Store, db: Any) -> None:
    shards = await spread(store, db, 16)
    for shard in shards:
        for _ in range(10):
            await put_into(store, shard)
    counted, client = lossy(store)
    began = trio.current_time()

    for _ in range(160):
        assert len(await take(counted)) == 1

    assert client.calls["fetch"] == 160
    # Sizes are read once a second, however many fetches there are.
    assert client.calls["read_each"] <= 2 + trio.current_time() - began


async def test_the_fuller_partition_is_searched_first(store: Store, db: Any) -> None:
    few, many = await spread(store, db, 2)
    for _ in range(3):
        await put_into(store, few)
    for _ in range(13):
        await put_into(store, many)
    for _ in range(7):
        await take(store)
    left = [db.zcard(shard.queue_available(QUEUE)) for shard in (few, many)]

    assert left in ([3, 6], [2, 7]), "of seven one is taken in turn"


async def test_no_partition_starves_beside_a_fuller_one(store: Store, db: Any) -> None:
    few, many = await spread(store, db, 2)
    await put_into(store, few)
    await enqueue_many(store, [new_job(id=id_in(many.index)) for _ in range(90)])
    for _ in range(8):
        await take(store)

    assert db.zcard(few.queue_available(QUEUE)) == 0


async def test_a_partition_that_gets_no_new_jobs_is_emptied_first(store: Store, db: Any) -> None:
    [first, *old] = await spread(store, db, 4)
    for shard in old:
        await put_into(store, shard)
    await set_partitions(store, QUEUE, 1)
    await enqueue_many(store, [new_job() for _ in range(50)])
    for _ in old:
        await take(store)

    assert [db.zcard(shard.queue_available(QUEUE)) for shard in (first, *old)] == [50, 0, 0, 0]


async def test_a_wrong_queue_depth_cache_never_hides_a_job(
    store: Store, other_store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4)
    await other_store.partitions.read(other_store)
    for shard in shards:
        assert await take(store) == [], "now it remembers that all are empty"
        job = await put_into(other_store, shard)
        assert [found.id for found in await take(store)] == [job.id]


async def test_a_fetch_gathers_what_it_wants_from_all_partitions(store: Store, db: Any) -> None:
    for shard in await spread(store, db, 4):
        for _ in range(2):
            await put_into(store, shard)

    assert len(await take(store, count=7)) == 7
    assert len(await take(store, count=7)) == 1


async def test_a_client_that_disconnects_during_a_search_strands_no_job(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    monkeypatch.setattr(depth_cache, "FRESH_S", 1000)
    monkeypatch.setattr(partition_fetch, "PEEK_S", 1000)
    looking = trio.Event()

    class Slow(LossyClient):
        async def read_each(self, *_: Any, **__: Any) -> Any:
            looking.set()
            await trio.sleep_forever()

    shards = await spread(store, db, 4)
    assert await take(store) == []
    job = await put_into(store, shards[2])
    slow = replace(store, redis=cast(Client, Slow(store.redis, lambda *_: False)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(take, slow, count=5))
        await looking.wait()
        assert (await read_jobs.get(store, job.id)).state is State.ACTIVE
        nursery.cancel_scope.cancel()
    found = await read_jobs.get(store, job.id)
    assert (found.state, found.attempt) == (State.AVAILABLE, 0)
    consistent()


async def test_a_later_queue_is_searched_when_all_partitions_of_the_earlier_are_empty(
    store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4, "first")
    await put(store, "second")
    for shard in shards:
        assert await take(store, "first") == []
        await put_into(store, shard, "first")
        [job] = await take(store, "first", "second")
        assert job.queue == "first"
    assert [job.queue for job in await take(store, "first", "second")] == ["second"]


async def test_due_jobs_of_all_partitions_are_promoted_by_fetch(
    store: Store, db: Any, consistent: Check
) -> None:
    for shard in await spread(store, db, 4):
        job = await put_into(store, shard, scheduled_at="+PT1H")
        assert await take(store) == []
        age_job(db, shard, job.id, HOUR)
        assert [found.id for found in await take(store)] == [job.id]
    consistent()


async def test_a_clients_id_is_found_and_unique_wherever_its_job_is(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    shards = await spread(store, db, 4)
    ids = [id_in(shards[3].index), foreign_id(store)]
    for job_id in ids:
        stored = await put(store, id=job_id)
        assert (await read_jobs.get(other_store, job_id)).json() == stored.json()
        # The other process has not read of the partitions: it would put it elsewhere.
        with pytest.raises(Duplicate):
            await put(other_store, id=job_id)
    assert consistent().count() == {"available": 2}
    assert {job.id for job in await take(store, count=2)} == set(ids)


async def test_a_unique_job_is_there_once_over_all_partitions(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    await spread(store, db, 4)
    await other_store.partitions.read(other_store)
    refused = 0

    async def produce(of: Store) -> None:
        nonlocal refused
        try:
            await once(of)
        except Duplicate:
            refused += 1

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(produce, (store, other_store)[number % 2])

    assert refused == 15
    assert consistent().count() == {"available": 1}
    replaced = await once(store, on_conflict="replace")
    assert [job.id for job in await take(store, count=9)] == [replaced.id]


async def test_workflows_go_through_partitions(store: Store, db: Any, consistent: Check) -> None:
    await spread(store, db, 8)
    steps = await chain(store, *(step(f"s{number}") for number in range(5)))
    for number in range(5):
        assert await run_one(store) == f"s{number}"
    assert await state_of(store, steps) == "completed"
    many = await group(store, *(step() for _ in range(40)))
    for job in await take(store, count=40):
        await ack(store, job)
    assert await state_of(store, many) == "completed"
    consistent()


async def test_an_unreachable_partition_does_not_block_the_jobs_of_the_others(
    store: Store, db: Any
) -> None:
    shards = await spread(store, db, 4)
    for shard in shards:
        await put_into(store, shard)
    away = failing(store, lambda name, slot: slot == shards[1].slot)

    assert len(await take(away, count=4)) == 3
    with pytest.raises(BackendUnavailable):
        await take(away)
    store.depth_cache.of(QUEUE, 4)._unreachable_until = [0.0] * 4  # five seconds later
    assert len(await take(store, count=4)) == 1


async def test_a_producer_that_cannot_read_the_table_uses_its_last_copy(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = await spread(store, db, 16)
    monkeypatch.setattr(partitions, "MAX_AGE_S", 0.0)
    monkeypatch.setattr(partitions, "REFRESH_S", 0.0)
    cut_off = failing(store, lambda name, _: name == "partitions")

    placed = {where(store, db, await put(cut_off)) for _ in range(200)}

    assert placed == set(shards)
    assert len(await take(cut_off, count=200)) == 200


async def test_jobs_that_declare_a_limit_are_counted_together(store: Store, db: Any) -> None:
    shards = await spread(store, db, 4)
    limited = [await put(store, rate_limit={"max_per_second": 2}) for _ in range(6)]
    assert {where(store, db, job) for job in limited} == {shards[0]}
    limit = {"queue": QUEUE, "rate_limit": {"max_per_second": 2}}
    steps = await group(store, *({**step(), "options": limit} for _ in range(20)))
    assert {store.keys.shard_of_id(node.job_id) for node in steps.plan.jobs} == {shards[0]}
    free = [await put_into(store, shard) for shard in shards[1:]]

    got = {job.id for job in await take(store, count=9)}
    assert len(got & {job.id for job in limited}) == 2
    assert got >= {job.id for job in free}


async def test_a_keys_limits_hold_over_all_partitions(
    store: Store, db: Any, consistent: Check
) -> None:
    await spread(store, db, 4)
    limit = {"key": "customer-7", "concurrency": 2}
    wanted = {(await put(store, rate_limit=limit)).id for _ in range(12)}
    held: list[JobRecord] = []
    done: set[str] = set()

    with trio.fail_after(60):
        while done != wanted:
            held += await take(store, count=5)
            assert len(held) <= 2
            if held:
                job = held.pop(0)
                await ack(store, job)
                done.add(job.id)
            else:
                await trio.sleep(0.01)
    assert consistent().count() == {"completed": 12}
