"""Depth bounds of queues: which jobs are refused, which never are, and what a refusal leaves."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest
import trio

from ojs_cluster.core.errors import BackendUnavailable, QueueFull
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.workflow_request import parse_workflow
from ojs_cluster.redis.client import Client
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.cron import cron
from ojs_cluster.store.features.cron.cron_record import CronRecord
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import deliver, fire_due
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.retention.retention import retire_queues
from ojs_cluster.store.features.workflows import read_workflows, workflows
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from tests.store.cron.test_cron import definition
from tests.store.hot_queues import spread
from tests.store.shortcuts import (
    DAY,
    QUEUE,
    ack,
    active,
    foreign_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    take,
)
from tests.store.unique_jobs import keys_there, locks_left, once
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient, lossy
from tests.support.patience import patient_client
from tests.support.prelude import PRELUDE
from tests.support.timeshift import age_cron


@pytest.fixture(autouse=True)
def everything_agrees(consistent: Callable[[], InvariantReport]) -> Iterator[None]:
    """Check that refused requests leave nothing behind."""
    yield
    consistent()


def deaf_to(store: Store, *names: str) -> Store:
    """Return the store of a process that never gets a reply of the named scripts."""

    class Deaf(LossyClient):
        async def script(self, slot: int, script: Any, *args: Any, **kind: Any) -> Any:
            if script.name in names:
                raise BackendUnavailable("no reply", outcome="unknown")
            return await store.redis.script(slot, script, *args, **kind)

    return replace(store, redis=cast(Client, Deaf(store.redis, lambda *_: False)))


async def a_batch(store: Store) -> object:
    return await enqueue_many(store, [new_job("q0", id=foreign_id(store, "q0")), new_job("q1")])


async def a_workflow(store: Store) -> object:
    steps = [{"name": "one", "type": "t", "args": [], "options": {"queue": QUEUE}}]
    body = json.dumps({"type": "chain", "steps": steps}).encode()
    return await workflows.create(store, parse_workflow(body))


@pytest.mark.parametrize("create", [a_batch, a_workflow])
async def test_a_check_whose_reply_is_lost_has_stored_nothing(
    store: Store, db: Any, create: Callable[[Store], Awaitable[object]]
) -> None:
    with pytest.raises(BackendUnavailable) as failed:
        await create(deaf_to(store, "bound_check"))

    assert failed.value.outcome == "not_applied"
    assert not [key for key in keys_there(db) if re.search(rb":(j|u|wf):", key)]


@pytest.fixture
async def bounded(backend: Embedded) -> AsyncIterator[Store]:
    """Open the store of a process with a bound for all queues."""
    settings = StoreSettings(max_queue_depth=2)
    async with open_store(patient_client(backend), settings, prelude=PRELUDE) as opened:
        yield opened


async def depth(store: Store, queue: str = QUEUE) -> int:
    found = await get_stats(store, queue)
    return found.depth + found.counts[State.PENDING]


async def is_full(store: Store, queue: str = QUEUE, **options: Any) -> bool:
    try:
        await put(store, queue, **options)
    except QueueFull as error:
        return bool(error.details["queue"] == queue)
    return False


async def test_a_full_queue_refuses_a_job_until_one_is_taken(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, 2)
    await put(store)
    await put(store, delay_until="+PT1H")
    with pytest.raises(QueueFull) as caught:
        await put(store)
    assert caught.value.details == {
        "queue": QUEUE,
        "depth": 2,
        "bound": 2,
        "strategy": "reject",
    }
    assert await is_full(store, pending=True)
    assert await is_full(store, delay_until="+PT1H")
    assert len(await take(store)) == 1
    assert not await is_full(store)
    assert await depth(store) == 2


async def test_the_servers_bound_holds_unless_the_queue_has_its_own(bounded: Store) -> None:
    await depth_bounds.set_bound(bounded, "wide", 0)
    await depth_bounds.set_bound(bounded, "narrow", 1)
    for name, most in ((QUEUE, 2), ("wide", 5), ("narrow", 1)):
        stored = [not await is_full(bounded, name) for _ in range(5)]
        assert sum(stored) == most
    await depth_bounds.set_bound(bounded, "narrow", None)
    assert not await is_full(bounded, "narrow")


async def test_a_bound_that_is_set_while_a_queue_is_in_use_holds_at_once(
    store: Store, other_store: Store
) -> None:
    await put(store)
    await put(other_store)
    await depth_bounds.set_bound(store, QUEUE, 2)
    assert await is_full(store)
    assert await is_full(other_store)


async def test_a_batch_is_refused_as_a_whole(store: Store) -> None:
    [other] = queues_in_other_shards(store, 1)
    await depth_bounds.set_bound(store, QUEUE, 2)
    for batch in (
        [new_job() for _ in range(3)],
        [new_job() for _ in range(3)] + [new_job(other)],
        [new_job(unique={"keys": ["type"]}, type=f"t{i}") for i in range(3)],
    ):
        with pytest.raises(QueueFull):
            await enqueue_many(store, batch)
    assert await depth(store) == 0
    assert len(await enqueue_many(store, [new_job(), new_job()])) == 2


async def test_a_refused_job_leaves_no_lock_and_no_alias(store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, 1)
    await put(store)
    with pytest.raises(QueueFull):
        await once(store, type="other")
    with pytest.raises(QueueFull):
        await once(store, type="third", id=foreign_id(store))
    with pytest.raises(QueueFull):
        await enqueue_many(store, [new_job(type="fourth", unique={}), new_job("elsewhere")])
    job_id = foreign_id(store)
    with pytest.raises(QueueFull):
        await put(store, id=job_id)
    assert locks_left(store, db) == 0
    await take(store)
    assert (await put(store, id=job_id)).id == job_id


async def test_a_job_that_replaces_another_is_never_refused(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, 1)
    first = await once(store, on_conflict="replace")
    second = await once(store, on_conflict="replace")
    assert first.id != second.id
    assert await depth(store) == 1


async def test_accepted_jobs_are_never_refused(store: Store) -> None:
    waiting = await put(store, pending=True)
    retried = await active(store)
    dead = await active(store, retry={"max_attempts": 1, "on_exhaustion": "dead_letter"})
    await nack(store, dead)
    await depth_bounds.set_bound(store, QUEUE, 1)
    await nack(store, retried)
    await activate(store, waiting.id)
    await dead_letters.retry(store, dead.id)
    assert await depth(store) == 3
    assert await is_full(store)


async def test_a_workflow_is_refused_before_it_is_stored_and_never_later(store: Store) -> None:
    step = {"type": "t", "args": [], "options": {"queue": QUEUE}}
    await depth_bounds.set_bound(store, QUEUE, 1)

    def workflow(kind: str, **members: Any) -> Any:
        return parse_workflow(json.dumps({"type": kind, **members}).encode())

    with pytest.raises(QueueFull):
        await workflows.create(store, workflow("group", jobs=[step, step]))
    found, *_ = await read_workflows.list_workflows(store, limit=10)
    assert found == []
    await workflows.create(store, workflow("chain", steps=[step, step]))
    [first] = await take(store)
    await put(store)
    await ack(store, first)
    assert await depth(store) == 2


async def test_an_occurrence_of_a_full_queue_is_settled_in_the_history(
    store: Store, db: Any
) -> None:
    await cron.register(store, definition())
    await depth_bounds.set_bound(store, "reports", 1)
    await put(store, "reports")
    age_cron(db, store.keys.meta, "daily", DAY)
    await fire_due(RedisCronStore(store), 10)
    [occurrence] = await cron.history(store, "daily", 10)
    assert occurrence.outcome == "error"
    assert occurrence.error is not None
    assert occurrence.error.startswith(
        "queue_full: queue 'reports' has reached its depth bound (1)"
    )
    assert await depth(store, "reports") == 1
    with pytest.raises(QueueFull):
        await cron.trigger(store, "daily")
    record = await cron.get(store, "daily")
    assert record.firing is None
    await take(store, "reports")
    await cron.trigger(store, "daily")
    assert await depth(store, "reports") == 1


async def test_concurrent_producers_never_exceed_a_bound(store: Store, other_store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, 10)

    async def produce(process: Store) -> None:
        with suppress(QueueFull):
            await put(process)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(produce, store)
            nursery.start_soon(produce, other_store)
    assert await depth(store) == 10


async def test_a_queue_without_a_bound_has_no_extra_cost(store: Store) -> None:
    await depth_bounds.set_bound(store, "bounded", 5)
    await put(store)
    process, client = lossy(store)
    await put(process)
    assert client.calls == {"enqueue_one": 1}
    for _ in range(2):
        await put(process, "bounded")
    assert client.calls == {"enqueue_one": 2, "enqueue": 2}, "the second knows of the bound"


async def test_each_partition_has_its_part_of_the_bound(store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, 7)
    await spread(store, db, 3)
    stored = 0
    for _ in range(60):
        stored += not await is_full(store)
    assert stored == 9
    await depth_bounds.set_bound(store, QUEUE, None)
    assert not await is_full(store)


async def test_a_queue_with_a_bound_is_not_retired(store: Store, db: Any) -> None:
    await depth_bounds.set_bound(store, QUEUE, 3)
    db.hset(store.keys.shard_of_queue(QUEUE).queue_counters(QUEUE), "created", 1)
    await retire_queues(store)
    assert await depth_bounds.get_bound(store, QUEUE) == DepthBound(3)
    assert await queues.exists(store, QUEUE)


async def test_a_full_queue_costs_no_run_that_makes_way(store: Store, db: Any) -> None:
    await cron.register(store, definition(overlap_policy="cancel_previous"))
    _, running = await cron.trigger(store, "daily")
    await take(store, "reports")
    await depth_bounds.set_bound(store, "reports", 1)
    await put(store, "reports")
    age_cron(db, store.keys.meta, "daily", DAY)
    await fire_due(RedisCronStore(store), 10)
    assert (await read_jobs.get(store, running.id)).state is State.CANCELLED
    [occurrence, _] = await cron.history(store, "daily", 10)
    assert (occurrence.outcome, occurrence.error) == ("fire", "")
    assert (await read_jobs.get(store, occurrence.job_id)).state is State.AVAILABLE


async def owed_to_a_full_queue(store: Store, db: Any) -> CronRecord:
    """A leader stalls after it has claimed an occurrence whose queue is full."""
    await cron.register(store, definition(overlap_policy="enqueue"))
    await cron.trigger(store, "daily")
    await depth_bounds.set_bound(store, "reports", 1)
    age_cron(db, store.keys.meta, "daily", DAY)
    at = 1
    while (claimed := await cron.get(store, "daily")).firing is None:
        await dies_at(store, at, True, lambda mortal: fire_due(RedisCronStore(mortal), 10))
        at += 1
    return claimed


async def test_a_slower_process_does_not_store_an_occurrence_that_was_refused(
    store: Store, db: Any
) -> None:
    claimed = await owed_to_a_full_queue(store, db)
    with pytest.raises(QueueFull):
        await deliver(RedisCronStore(store), claimed)
    [first] = await take(store, "reports")
    await deliver(RedisCronStore(store), claimed)
    assert await depth(store, "reports") == 0
    assert (await cron.history(store, "daily", 10))[0].outcome == "error"
    await ack(store, first)


async def test_a_refusal_that_comes_late_does_not_forget_the_run_that_was_stored(
    store: Store, db: Any
) -> None:
    claimed = await owed_to_a_full_queue(store, db)
    assert claimed.firing is not None
    await take(store, "reports")
    await deliver(RedisCronStore(store), claimed)
    job_id = claimed.firing.job_id
    await RedisCronStore(store).record_outcome(
        "daily", "refused", job_id, (job_id,), reason="queue_full: late"
    )
    record = await cron.get(store, "daily")
    assert record.held_runs == (job_id,)
    assert job_id in record.open_runs


async def test_only_jobs_above_the_threshold_are_warned_of(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, DepthBound(4, threshold=0.5))
    assert [(await put(store)).pressure for _ in range(4)] == [None, None, (3, 4), (4, 4)]
    await take(store, count=4)
    [first, second, third] = await enqueue_many(store, [new_job() for _ in range(3)])
    assert {first.pressure, second.pressure, third.pressure} == {(3, 4)}


async def test_the_threshold_is_four_fifths_by_default(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, 5)
    assert [(await put(store)).pressure for _ in range(5)] == [None, None, None, None, (5, 5)]


async def test_a_refusal_names_the_strategy_of_the_queue(store: Store) -> None:
    await depth_bounds.set_bound(store, QUEUE, DepthBound(1, "block"))
    assert await depth_bounds.get_bound(store, QUEUE) == DepthBound(1, "block")
    await put(store)
    for refused in (put, a_wide_batch):
        with pytest.raises(QueueFull) as caught:
            await refused(store)
        assert caught.value.details["strategy"] == "block"
    await depth_bounds.set_bound(store, QUEUE, None)
    assert await depth_bounds.get_bound(store, QUEUE) is None


async def a_wide_batch(store: Store) -> object:
    return await enqueue_many(store, [new_job(QUEUE), new_job("q1"), new_job("q2")])
