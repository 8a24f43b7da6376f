"""Full queues that drop their oldest available jobs (spec: ojs-backpressure 5.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import QueueFull, TenantLimitExceeded
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import exhaustion
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.ground.process_state import rejections
from tests.http.api import until
from tests.store.limits.test_depth_bounds import a_workflow
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    clock_ms,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    sibling_queue,
    take,
)
from tests.store.tenants.shortcuts import limit
from tests.store.unique_jobs import locks_left, once
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.patience import LONG_S


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    yield
    consistent()


async def bound(store: Store, jobs: int, queue: str = QUEUE) -> None:
    await depth_bounds.set_bound(store, queue, DepthBound(jobs, "drop_oldest"))


async def states(store: Store, *ids: str) -> list[State]:
    return [(await read_jobs.get(store, each)).state for each in ids]


async def test_the_job_that_came_first_is_dropped_whatever_its_priority(
    store: Store, db: Any
) -> None:
    await bound(store, 4)
    await exhaustion.set_on_exhaustion(store, QUEUE, "dead_letter")
    waiting = await put(store, delay_until="+PT1H")
    jobs = [await put(store, priority=priority) for priority in (9, -9, 0, 9, 5)]
    found = await states(store, waiting.id, *(job.id for job in jobs))
    assert found == [State.SCHEDULED, State.DISCARDED, State.DISCARDED, *3 * [State.AVAILABLE]]
    assert (await get_stats(store, QUEUE)).dead == 0
    dropped = await read_jobs.get(store, jobs[0].id)
    assert (dropped.attempt, b'"type":"overflow"' in dropped.fields[b"h0"]) == (0, True)
    kinds = [entry[b"t"] for _, entry in db.xrange(shard_of(store).events)]
    assert kinds.count(b"backpressure.dropped") == kinds.count(b"job.discarded") == 2


async def test_a_queue_drops_none_when_its_available_jobs_are_too_few(store: Store) -> None:
    await bound(store, 3)
    await put(store, delay_until="+PT1H")
    await put(store, pending=True)
    kept = await put(store)
    with pytest.raises(QueueFull) as refused:
        await enqueue_many(store, [new_job(), new_job()])
    assert refused.value.details["strategy"] == "drop_oldest"
    assert await states(store, kept.id) == [State.AVAILABLE]
    with pytest.raises(QueueFull):  # the jobs would never fit
        await enqueue_many(store, [new_job() for _ in range(4)])
    assert await states(store, kept.id) == [State.AVAILABLE]


@pytest.mark.parametrize("strategy", ["reject", "drop_oldest"])
@pytest.mark.parametrize("same_shard", [True, False])
async def test_a_batch_that_one_queue_refuses_drops_no_job_of_another(
    store: Store, strategy: depth_bounds.Strategy, same_shard: bool
) -> None:
    one, other = queues_in_other_shards(store, 2)
    if same_shard:
        other = sibling_queue(store, one)
    await bound(store, 1, one)
    await depth_bounds.set_bound(store, other, DepthBound(1, strategy))
    old = await put(store, one)
    await put(store, other, delay_until="+PT1H")  # not available, so it cannot be dropped
    with pytest.raises(QueueFull) as refused:
        await enqueue_many(store, [new_job(one), new_job(other)])
    assert refused.value.details["queue"] == other
    assert await states(store, old.id) == [State.AVAILABLE]
    await depth_bounds.set_bound(store, other, DepthBound(2, strategy))
    await enqueue_many(store, [new_job(one), new_job(other)])
    assert await states(store, old.id) == [State.DISCARDED]


async def test_a_workflow_that_its_tenant_may_not_create_drops_no_job(store: Store) -> None:
    await limit(store, "a", max_queue_depth=0)
    await bound(store, 1)
    old = await put(store)
    step = b'{"type":"t","args":[],"options":{"queue":"%b"}}' % QUEUE.encode()
    flow = parse_workflow(b'{"type":"group","jobs":[%b]}' % step, tenant="a")
    with pytest.raises(TenantLimitExceeded):
        await workflows.create(store, flow)
    assert await states(store, old.id) == [State.AVAILABLE]


async def test_what_depends_on_a_dropped_job_is_told(store: Store, db: Any) -> None:
    await bound(store, 5)
    unique = await once(store)
    flow: Any = await a_workflow(store)
    await put(store, rate_limit={"key": "k", "concurrency": 1})
    blocked = await put(store, rate_limit={"key": "k", "concurrency": 1})
    expiring = await put(store, expires_at="+PT1H")
    await bound(store, 1)
    last = await put(store)
    [taken] = await take(store)
    assert taken.id == last.id

    async def are_told() -> bool:
        failed = (await read_workflows.get(store, flow.id)).state == "failed"
        return failed and locks_left(store, db) == 0

    await until(are_told)
    assert (await once(store)).id != unique.id
    assert await states(store, unique.id, blocked.id, expiring.id) == 3 * [State.DISCARDED]


async def test_a_write_does_not_wait_for_the_effects_of_its_drop(store: Store, db: Any) -> None:
    may_end, unlock = trio.Event(), store.effects["unlock"]

    async def slow(*args: Any) -> None:
        await may_end.wait()
        await unlock(*args)

    await bound(store, 1)
    await once(store)
    await put(replace(store, effects={**store.effects, "unlock": slow}))
    may_end.set()

    async def is_unlocked() -> bool:
        return locks_left(store, db) == 0

    # An effect that the write had waited for would be left to the scheduler after ``LONG_S``.
    await until(is_unlocked, timeout_s=LONG_S / 2)


async def test_a_batch_drops_as_many_as_it_needs(store: Store) -> None:
    await bound(store, 120)
    old = await enqueue_many(store, [new_job() for _ in range(120)])
    await enqueue_many(store, [new_job() for _ in range(110)])
    found = await states(store, *(job.id for job in old))
    assert found == 110 * [State.DISCARDED] + 10 * [State.AVAILABLE]
    # Written in several steps, because it is unique: a check precedes the write.
    await enqueue_many(store, [new_job(unique={}), new_job("other")])
    assert (await get_stats(store, QUEUE)).depth == 120


async def test_concurrent_producers_are_all_accepted_and_the_bound_holds(
    store: Store, other_store: Store
) -> None:
    await bound(store, 5)
    stored: list[str] = []

    async def produce(process: Store) -> None:
        for _ in range(10):
            stored.append((await put(process)).id)
            assert (await get_stats(process, QUEUE)).depth <= 5

    async with trio.open_nursery() as nursery:
        for process in (store, other_store, store, other_store):
            nursery.start_soon(produce, process)
    found = await states(store, *stored)
    assert (found.count(State.AVAILABLE), found.count(State.DISCARDED)) == (5, 35)


async def test_many_producers_are_accepted_with_few_calls(store: Store) -> None:
    await bound(store, 5)
    process, client = lossy(store)

    async def produce() -> None:
        for _ in range(3):
            await put(process)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(produce)
    # Each job is refused once at most, and drops have room for five.
    assert client.calls["enqueue"] <= 2 * 300
    assert client.calls["drop_oldest"] <= 100
    assert (await get_stats(store, QUEUE)).depth == 5
    assert not store.room_groups.waiting


async def test_jobs_for_which_a_group_finds_too_little_room_are_stored(store: Store) -> None:
    await bound(store, 5)
    for _ in range(4):
        await put(store, delay_until="+PT1H")
    await put(store)
    stored: list[str] = []

    async def produce() -> None:
        stored.append((await put(store)).id)

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(produce)
    assert len(stored) == 60
    assert (await get_stats(store, QUEUE)).depth == 5


async def test_a_lost_reply_drops_no_second_job(store: Store) -> None:
    await bound(store, 3)
    jobs = [await put(store) for _ in range(3)]
    await put(lossy(store, "drop_oldest", times=1)[0])
    assert await states(store, *(job.id for job in jobs)) == [
        State.DISCARDED,
        State.AVAILABLE,
        State.AVAILABLE,
    ]


async def test_an_active_or_malformed_job_is_not_dropped(store: Store, db: Any) -> None:
    active = await put(store)
    await take(store)
    damaged, healthy = await put(store), await put(store)
    key = shard_of(store).job(damaged.id)
    db.hset(key, "c", "never")
    await bound(store, 2)
    await put(store)
    assert await states(store, active.id, healthy.id) == [State.ACTIVE, State.DISCARDED]
    db.hset(key, "c", damaged.fields[b"c"])
    await ack(store, active)


async def test_a_queue_announces_refusals_at_intervals(store: Store, db: Any) -> None:
    assert not await rejections.append(store, store.events_arg, "unknown", "t", 1, 1)
    await put(store)
    for key_age_ms, appended in ((None, True), (9000, False), (11_000, True), (-HOUR, True)):
        if key_age_ms is not None:
            at = await clock_ms(store, shard_of(store).slot) - key_age_ms
            db.hset(shard_of(store).queue_counters(QUEUE), "rejected_at", at)
        assert await rejections.append(store, store.events_arg, QUEUE, "t", 1, 1) is appended
