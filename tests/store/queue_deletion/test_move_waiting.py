"""One waiting job is moved to another queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound, QueueFull
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.limits import depth_bounds, partition_quotas
from ojs_cluster.store.engine.limits.depth_bounds import DepthBound
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions
from ojs_cluster.store.features.queue_deletion.move_waiting import move
from ojs_cluster.store.features.workflows import read_workflows
from tests.store.hot_queues import close_empty
from tests.store.queues.test_lifecycle import before
from tests.store.shortcuts import (
    QUEUE,
    ack,
    active,
    envelope,
    foreign_id,
    nack,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.store.tenants.shortcuts import put_for
from tests.store.workflow_jobs import chain, group, job_ids, state_of, step
from tests.support.invariants import InvariantReport

Check = Callable[[], InvariantReport]


def elsewhere(store: Store) -> str:
    """Return the name of a queue whose shard is not that of ``QUEUE``."""
    home = store.keys.shard_of_queue(QUEUE)
    names = queues_in_other_shards(store, 2)
    return next(name for name in names if store.keys.shard_of_queue(name) is not home)


async def test_a_job_of_each_waiting_state_keeps_all_but_its_queue(
    store: Store, db: Any, consistent: Check
) -> None:
    target = elsewhere(store)
    retrying = await active(store)
    await nack(store, retrying)
    unique = {"keys": ["type", "args"]}
    jobs = [
        retrying,
        await put(store, id=foreign_id(store), expires_at="+PT2H"),
        await put(store, scheduled_at="2099-01-01T00:00:00Z"),
        await put(store, pending=True),
        await put(store, rate_limit={"key": "k", "concurrency": 1}),
        await put(store, type="once", unique=unique),
        await put_for(store, "a"),
    ]
    before = [envelope(await read_jobs.get(store, job.id)) for job in jobs]
    for job in jobs:
        moved, queue = await move(store, job.id, target)
        assert (moved.queue, queue) == (target, QUEUE)
    consistent()
    after = [envelope(await read_jobs.get(store, job.id)) for job in jobs]
    assert after == [{**members, "queue": target} for members in before]
    assert await take(store, count=10) == []
    taken = await take(store, target, count=10)
    assert {job.id for job in taken} == {jobs[n].id for n in (1, 4, 5, 6)}
    for job in taken:
        await ack(store, job)
    for job in (jobs[0], jobs[2], jobs[3]):
        await cancel(store, job.id)
    consistent()
    await put(store, type="once", unique=unique)  # the lock of the moved job is free
    await close_empty(store, db, target)
    assert (await get_partitions(store, target)).open_count == 1


async def test_a_moved_job_is_behind_those_of_its_priority(store: Store) -> None:
    job = await put(store, priority=1)
    shard = shard_of(store)
    queues = (f"target{number}" for number in range(1000))
    target = next(name for name in queues if store.keys.shard_of_queue(name) is shard)
    low, high = await put(store, target), await put(store, target, priority=1)
    await move(store, job.id, target)
    assert [found.id for found in await take(store, target, count=9)] == [high.id, job.id, low.id]


async def test_a_step_that_is_moved_continues_its_workflow(store: Store, consistent: Check) -> None:
    flow = await chain(store, step(), step("second"))
    [first] = await take(store)
    await nack(store, first, {"message": "later"})
    moved, _ = await move(store, first.id, elsewhere(store))
    assert moved.queue == elsewhere(store)
    await cancel(store, first.id)
    assert await state_of(store, flow) != "running"
    consistent()


async def test_a_workflow_names_each_queue_that_its_steps_are_moved_to_once(store: Store) -> None:
    flow = await group(store, step(), step())
    first, second = job_ids(flow)
    for job_id in (first, second):
        await move(store, job_id, "target")
    for target in ("targe", QUEUE, "target"):
        await move(store, first, target)
    stored = await read_workflows.get(store, flow.id)
    assert stored.fields[b"moved_to"].decode().split() == ["target", "targe", QUEUE]
    assert stored.queues == {QUEUE, "target", "targe"}


async def test_the_steps_of_a_workflow_without_a_record_are_moved(store: Store, db: Any) -> None:
    """Its retention may end, or a restored master may lack it, while a step waits."""
    flow = await chain(store, step())
    db.delete(store.keys.shard_of_id(flow.id).workflow(flow.id))
    moved, _ = await move(store, job_ids(flow)[0], "target")
    assert moved.queue == "target"
    assert not db.exists(store.keys.shard_of_id(flow.id).workflow(flow.id))


async def test_a_repeated_move_changes_nothing(store: Store, consistent: Check) -> None:
    job = await put(store)
    await move(store, job.id, "target")
    assert (await move(store, job.id, "target"))[1] == "target"
    consistent()


async def test_a_job_that_does_not_wait_is_refused(store: Store, db: Any) -> None:
    held, ended = await active(store), await active(store)
    await ack(store, ended)
    for job, state in ((held, State.ACTIVE), (ended, State.COMPLETED)):
        with pytest.raises(Conflict, match=f"is {state}"):
            await move(store, job.id, elsewhere(store))
    with pytest.raises(NotFound):
        await move(store, foreign_id(store), "target")
    assert db.zscore(store.keys.meta.queues, elsewhere(store)) is None


async def test_a_job_that_is_unique_in_its_queue_is_refused(store: Store) -> None:
    job = await put(store, unique={"keys": ["type", "queue"]})
    with pytest.raises(Conflict, match="unique in its queue"):
        await move(store, job.id, "target")
    assert (await read_jobs.get(store, job.id)).queue == QUEUE


async def test_a_target_that_cannot_take_the_job_is_refused(
    store: Store, consistent: Check
) -> None:
    target = elsewhere(store)
    job = await put(store)
    await partition_quotas.set_limits(store, target, RateLimits(concurrency=5))
    with pytest.raises(Conflict, match=f"has limits, and job '{job.id}' is in another shard"):
        await move(store, job.id, target)
    await partition_quotas.set_limits(store, target, RateLimits())
    await pauses.pause_or_resume(store, target, "drain")
    with pytest.raises(Conflict, match="draining"):
        await move(store, job.id, target)
    await pauses.pause_or_resume(store, target, "resume")
    await put(store, target)
    for strategy in ("reject", "drop_oldest"):
        await depth_bounds.set_bound(store, target, DepthBound(1, strategy, 0.8))
        with pytest.raises(QueueFull):
            await move(store, job.id, target)
    found = await read_jobs.get(store, job.id)
    assert (found.queue, found.state) == (QUEUE, State.AVAILABLE)
    consistent()


async def test_a_job_with_a_declared_limit_stays_where_it_holds(store: Store) -> None:
    job = await put(store, rate_limit={"max_per_second": 5})
    with pytest.raises(Conflict, match=r"max_per_second.*, or cancel the job and enqueue it there"):
        await move(store, job.id, elsewhere(store))


async def test_another_job_with_a_declared_limit_is_in_no_way(
    store: Store, consistent: Check
) -> None:
    job = await put(store)
    await put(store, rate_limit={"max_per_second": 5})
    assert (await move(store, job.id, elsewhere(store)))[0].queue == elsewhere(store)
    consistent()


async def test_a_drain_that_begins_before_the_move_refuses_the_job(
    store: Store, other_store: Store, consistent: Check
) -> None:
    job, target = await put(store), elsewhere(store)

    async def drain() -> None:
        await pauses.pause_or_resume(other_store, target, "drain")

    with pytest.raises(Conflict, match=f"queue '{target}' is draining"):
        await move(before(store, "move_job", 0, drain), job.id, target)
    assert (await read_jobs.get(store, job.id)).queue == QUEUE
    consistent()


async def test_a_job_that_the_caller_refuses_is_not_moved(store: Store) -> None:
    job = await put(store)

    def refuse(_job: object) -> None:
        raise NotFound("job", job.id)

    with pytest.raises(NotFound):
        await move(store, job.id, "target", check=refuse)
    assert (await read_jobs.get(store, job.id)).queue == QUEUE
