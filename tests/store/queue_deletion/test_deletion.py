"""A queue is deleted together with its jobs, which are discarded or moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import BackendUnavailable, Conflict, InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.queues import exhaustion, fair_share, pauses, queues
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions, set_partitions
from ojs_cluster.store.features.bulk import execution
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import (
    BulkOperation,
    BulkState,
    Position,
    Walk,
)
from ojs_cluster.store.features.queue_deletion.deletion import (
    DeletionStep,
    abandon,
    begin_deletion,
    open_target,
)
from ojs_cluster.store.features.queue_deletion.ending import after_walk
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.features.retention.retention import retire
from ojs_cluster.store.ground import job_fields as f
from tests.store.hot_queues import close_empty, put_into, spread
from tests.store.queues.test_lifecycle import before
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    envelope,
    foreign_id,
    home_id,
    nack,
    put,
    shard_of,
    take,
)
from tests.store.tenants.shortcuts import put_for
from tests.store.workflow_jobs import chain, state_of, step
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_queue

Check = Callable[[], InvariantReport]


async def begin(store: Store, target: str = "", queue: str = QUEUE) -> BulkOperation:
    operation = await begin_deletion(store, home_id(store), queue, target)
    assert operation is not None
    return operation


async def carry_out(store: Store, db: Any, operation: BulkOperation) -> BulkOperation:
    """Run the scheduler's steps, without its pauses, until the operation is over."""
    for _ in range(50):
        found = await operations.get(store, operation.id)
        if found.ended:
            return found
        db.zadd(store.keys.meta.bulk_running, {operation.id: 1}, xx=True)
        await execution.run_due(store)
    raise AssertionError(found)


async def lose() -> None:
    raise BackendUnavailable("no answer", outcome="unknown")


async def jobs_in_all_states(store: Store) -> list[str]:
    """Return the ids of jobs of ``QUEUE``, in each state that is not terminal."""
    retrying = await active(store)
    await nack(store, retrying)
    held = await active(store)
    made = [await put(store, scheduled_at="+PT1H"), await put(store, pending=True)]
    made += [await put(store, id=foreign_id(store), expires_at="+PT2H")]
    made += [await put(store, rate_limit={"key": "k", "concurrency": 1}) for _ in range(3)]
    return [job.id for job in (retrying, held, *made)]


async def test_a_deletion_discards_jobs_of_all_states_and_partitions(
    store: Store, db: Any, consistent: Check
) -> None:
    gone = await jobs_in_all_states(store)
    shards = await spread(store, db, 3)
    gone += [(await put_into(store, shard)).id for shard in shards]
    kept = await put(store, "other")

    ended = await carry_out(store, db, await begin(store))

    assert (ended.state, ended.failed) == (BulkState.COMPLETED, 0), ended
    assert ended.succeeded == len(gone)
    for job_id in gone:
        job = await read_jobs.get(store, job_id)
        assert (job.state, job.dead) == (State.DISCARDED, False)
        assert envelope(job)["error"]["type"] == "queue_deleted"
    assert (await queues.get_stats(store, QUEUE)).deleted
    assert (await get_partitions(store, QUEUE)).count == 1
    assert [job.id for job in await take(store, "other")] == [kept.id]
    consistent()


async def test_a_discarded_step_fails_its_workflow_and_a_discarded_lock_is_free(
    store: Store, db: Any, consistent: Check
) -> None:
    flow = await chain(store, step(), step("second"))
    unique = {"keys": ["type"], "on_conflict": "reject"}
    await put(store, type="once", unique=unique)

    await carry_out(store, db, await begin(store))

    assert await state_of(store, flow) == "failed"
    await put(store, "other", type="once", unique=unique)
    consistent()


async def test_moved_jobs_keep_ids_order_and_schedules_in_shards_that_workers_search(
    store: Store, db: Any, consistent: Check
) -> None:
    foreign = await put(store, id=foreign_id(store))
    shards = await spread(store, db, 2)
    await fair_share.set_fair_share(store, "target", on=True)
    first = [await put(store, "target")]
    for shard in shards:  # the target had partitions there before, which are closed
        db.hset(shard.queue_counters("target"), "created", 1)
    wanted = [await put_into(store, shards[0], priority=p) for p in (0, 5, 0, 5)]
    of_tenant = await put_for(store, "a")
    other_shard = await put_into(store, shards[1])
    limited = await put(store, rate_limit={"key": "k", "concurrency": 9})
    later = await put(store, scheduled_at="2099-01-01T00:00:00Z")

    ended = await carry_out(store, db, await begin(store, "target"))

    assert (ended.state, ended.succeeded) == (BulkState.COMPLETED, 9), ended
    assert (await queues.get_stats(store, QUEUE)).deleted
    consistent()
    moved = await read_jobs.get(store, later.id)
    assert (moved.queue, moved.state) == ("target", State.SCHEDULED)
    assert envelope(moved)["scheduled_at"] == envelope(later)["scheduled_at"]
    assert (await read_jobs.get(store, foreign.id)).queue == "target"
    taken: list[str] = []
    for _ in range(30):
        taken += [job.id for job in await take(store, "target", count=1)]
    in_first = [wanted[1].id, wanted[3].id, foreign.id, wanted[0].id, wanted[2].id]
    assert [job_id for job_id in taken if job_id in in_first] == in_first
    all_ids = {job.id for job in (*first, foreign, *wanted, of_tenant, other_shard, limited)}
    assert sorted(taken) == sorted(all_ids)
    consistent()
    for job_id in taken:
        await ack(store, job_id)
    await cancel(store, later.id)
    await close_empty(store, db, "target")
    assert (await get_partitions(store, "target")).open_count == 1


async def test_a_move_waits_for_active_jobs_and_moves_those_that_are_retried(
    store: Store, db: Any, consistent: Check
) -> None:
    completed, retried = await active(store), await active(store)
    operation = await begin(store, "target")
    waiting = await execution.run_for(store, operation, 5)
    assert (waiting.ended, waiting.position) == (False, None)
    assert (await queues.get_stats(store, QUEUE)).status == "draining"

    await ack(store, completed)
    await nack(store, retried)
    ended = await carry_out(store, db, operation)

    assert (ended.state, ended.succeeded) == (BulkState.COMPLETED, 1)
    assert (await read_jobs.get(store, retried.id)).queue == "target"
    assert (await read_jobs.get(store, completed.id)).queue == QUEUE
    consistent()


@pytest.mark.parametrize("field", [f.MAX_ATTEMPTS, f.PRIORITY])
async def test_a_move_of_a_malformed_job_fails_and_says_why(
    store: Store, db: Any, field: bytes
) -> None:
    bad, good = await put(store), await put(store)
    db.hset(shard_of(store).job(bad.id), field, b"x")

    ended = await carry_out(store, db, await begin(store, "target"))

    assert (ended.state, ended.succeeded) == (BulkState.FAILED, 1), ended
    assert bad.id in ended.reason
    assert (await read_jobs.get(store, good.id)).queue == "target"
    assert (await queues.get_stats(store, QUEUE)).status == "active"


async def test_a_wait_for_active_jobs_is_no_walk_that_changes_nothing(store: Store) -> None:
    await put(store)
    operation = replace(await begin(store, "target"), walk=Walk(waits=True))
    steps = 0
    while operation.state is not BulkState.FAILED:
        steps += 1
        operation, _ = after_walk(operation, DeletionStep.WAITING_JOBS)
    assert steps == 4  # the wait, and three walks


async def test_a_deletion_removes_jobs_whose_small_fields_are_unreadable(
    store: Store, db: Any, consistent: Check
) -> None:
    held, waiting = await active(store), await put(store)
    odd = [await put(store) for _ in range(7)]
    db.hset(shard_of(store).job(held.id), f.CREATED, b"x")
    db.hset(shard_of(store).job(waiting.id), f.STATE, b"x")
    for job, created in zip(
        odd, (b"1.5", b"1e12", b"007", b"0x10", b"-7", b"9" * 23), strict=False
    ):
        db.hset(shard_of(store).job(job.id), f.CREATED, created)
    db.hset(shard_of(store).job(odd[-1].id), f.REPLAYS, b"9" * 23)

    ended = await carry_out(store, db, await begin(store))

    assert (ended.state, ended.succeeded) == (BulkState.COMPLETED, 9), ended
    assert (await queues.get_stats(store, QUEUE)).deleted
    consistent()


async def test_a_deletion_waits_longer_and_longer_for_active_jobs(store: Store, db: Any) -> None:
    await active(store)
    operation = await execution.run_for(store, await begin(store, "target"), 5)
    delays = []
    for _ in range(6):
        operation, delay_ms = after_walk(operation, DeletionStep.ACTIVE_JOBS)
        delays.append(delay_ms)
    assert delays == [4000, 8000, 16_000, 30_000, 30_000, 30_000]
    operation, delay_ms = after_walk(operation, DeletionStep.WAITING_JOBS)
    assert (operation.position, delay_ms) == (Position(), 2000)


@pytest.mark.parametrize("how", ["resumed", "drained", "stopped"])
async def test_an_operator_ends_a_deletion(store: Store, db: Any, how: str) -> None:
    held = await active(store)
    operation = await execution.run_for(store, await begin(store, "target"), 5)
    await nack(store, held)
    if how == "stopped":
        await operations.stop(store, operation.id)
    else:
        await pauses.pause_or_resume(store, QUEUE, "resume" if how == "resumed" else "drain")

    ended = await carry_out(store, db, operation)

    assert ended.state is BulkState.STOPPED
    status = (await queues.get_stats(store, QUEUE)).status
    assert status == ("draining" if how == "drained" else "active")
    assert (await read_jobs.get(store, held.id)).queue == QUEUE


@pytest.mark.parametrize("new", [False, True])
async def test_a_drain_that_begins_after_the_end_of_its_deletion_is_ended(
    store: Store, other_store: Store, new: bool
) -> None:
    await put(store)

    async def end() -> None:  # as the scheduler does when the request takes too long
        await execution.run_due(other_store)
        if new:  # the request is repeated, then the queue is created again
            await execution.run_for(other_store, await begin(other_store), 5)
            await lifecycle.create_queue(other_store, QUEUE)

    late = await execution.run_for(store, await begin(before(store, "pause_queue", 0, end)), 5)

    assert (late.state, late.succeeded) == (BulkState.STOPPED, 0)
    assert "does not drain" in late.reason
    stats = await queues.get_stats(store, QUEUE)
    assert (stats.deleted, stats.status) == (False, "active")


async def test_a_deletion_that_is_stopped_before_its_drain_leaves_none(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)

    async def stop() -> None:
        [operation_id] = db.zrange(store.keys.meta.bulk_running, 0, -1)
        await operations.stop(other_store, operation_id.decode())
        await execution.run_due(other_store)

    operation = await begin(before(store, "pause_queue", 0, stop))  # and then the process dies
    assert (await queues.get_stats(store, QUEUE)).status == "draining"

    ended = await carry_out(store, db, operation)
    assert ended.state is BulkState.STOPPED
    assert (await queues.get_stats(store, QUEUE)).status == "active"


async def test_a_late_drain_is_ended_if_redis_does_not_tell_the_end(store: Store, db: Any) -> None:
    await put(store)
    operation = await begin(store)
    db.hset(store.keys.meta.bulk(operation.id), "ended", 1)
    deaf = before(store, "bulk_update", 0, lose)

    with pytest.raises(BackendUnavailable):
        await execution.run_for(deaf, operation, 5)
    assert (await queues.get_stats(store, QUEUE)).status == "active"


async def test_a_deletion_that_has_not_drained_leaves_the_next_queue_alone(
    store: Store, other_store: Store, db: Any
) -> None:
    await put(store)
    operation = await begin(store)
    await execution.run_for(store, await begin(other_store), 5)
    await set_partitions(store, QUEUE, 3)  # for the next queue of this name

    ended = await carry_out(store, db, operation)

    assert ended.state is BulkState.STOPPED
    assert (await get_partitions(store, QUEUE)).count == 3


async def test_a_deletion_that_ends_twice_keeps_its_reason(store: Store, db: Any) -> None:
    await put(store, "target")
    await put(store)
    operation = await begin(store, "target")
    await rate_limits.set_queue_limits(store, "target", RateLimits(concurrency=1))
    dying = before(store, "bulk_update", 3, lose)  # its end, after that of the drain
    with pytest.raises(BackendUnavailable):
        await execution.run_for(dying, operation, 5)
    assert (await queues.get_stats(store, QUEUE)).status == "active"

    ended = await carry_out(store, db, operation)

    assert ended.state is BulkState.STOPPED
    assert "limits" in ended.reason


async def test_a_deletion_of_a_drained_queue_is_ended_by_the_next_one(
    store: Store, db: Any
) -> None:
    await put(store)
    await pauses.pause_or_resume(store, QUEUE, "drain")
    first = await begin(store)
    second = (await begin(store, "target")).deletion
    assert second is not None

    ended = await carry_out(store, db, first)
    assert (ended.state, ended.succeeded) == (BulkState.STOPPED, 0)
    await abandon(store, second)
    assert (await queues.get_stats(store, QUEUE)).status == "draining"


async def test_a_stopped_deletion_leaves_a_deleted_queue_deleted(store: Store, db: Any) -> None:
    await put(store)
    operation = await begin(store)
    deletion = operation.deletion
    assert deletion is not None
    for job in await take(store):
        await ack(store, job)
    await execution.run_for(store, operation, 0)
    await lifecycle.delete_drained(store, QUEUE, deletion.token)  # and then the process died
    await operations.stop(store, operation.id)

    ended = await carry_out(store, db, operation)

    assert ended.state is BulkState.COMPLETED
    assert (await queues.get_stats(store, QUEUE)).deleted


async def test_a_declared_limit_is_not_left_behind(store: Store, db: Any) -> None:
    await put(store, "target")
    await spread(store, db, 2)
    job = await put(store, rate_limit={"max_per_second": 1})
    with pytest.raises(Conflict, match="max_per_second"):
        await begin(store, "target")
    assert (await queues.get_stats(store, QUEUE)).status == "active"
    await cancel(store, job.id)


async def test_a_target_that_is_retired_before_a_job_comes_is_listed_again(
    store: Store, other_store: Store, db: Any, consistent: Check
) -> None:
    job = await put(store, scheduled_at="+PT1H")
    operation = await begin(store, "target")

    async def retire_target() -> None:
        for shard in await other_store.partitions.occupied_shards(other_store, "target"):
            age_queue(db, shard, "target", 2 * HOUR)
        assert await retire(other_store, "target")

    await execution.run_for(before(store, "move_job", 0, retire_target), operation, 5)

    assert (await read_jobs.get(store, job.id)).queue == "target"
    assert await queues.exists(store, "target")
    consistent()


async def test_a_moved_job_obeys_the_settings_of_its_new_queue(store: Store, db: Any) -> None:
    shards = await spread(store, db, 2)
    moved = await put_into(store, shards[1], retry={"max_attempts": 1})
    await exhaustion.set_on_exhaustion(store, "target", "dead_letter")
    await pauses.pause_or_resume(store, "target", "pause")

    await carry_out(store, db, await begin(store, "target"))

    assert await take(store, "target") == []
    await pauses.pause_or_resume(store, "target", "resume")
    [taken] = await take(store, "target")
    await nack(store, taken)
    assert (await read_jobs.get(store, moved.id)).dead


async def test_limits_that_a_target_gets_while_it_is_opened_end_the_move(
    store: Store, db: Any
) -> None:
    await spread(store, db, 2)
    await put(store)
    deletion = (await begin(store, "target")).deletion
    assert deletion is not None

    async def limit() -> None:
        await rate_limits.set_queue_limits(store, "target", RateLimits(concurrency=4))

    with pytest.raises(Conflict, match="limits"):
        await open_target(before(store, "compare_and_set_partitions", 0, limit), deletion)


async def test_a_target_that_cannot_take_the_jobs_is_refused(store: Store, db: Any) -> None:
    with pytest.raises(NotFound):
        await begin(store, "target")
    await put(store)
    with pytest.raises(InvalidRequest):
        await begin(store, QUEUE)
    await pauses.pause_or_resume(store, "target", "drain")
    with pytest.raises(Conflict, match="draining"):
        await begin(store, "target")
    await pauses.pause_or_resume(store, "target", "resume")
    await rate_limits.set_queue_limits(store, "target", RateLimits(concurrency=1))
    with pytest.raises(Conflict, match="limits"):
        await begin(store, "target")
    assert (await queues.get_stats(store, QUEUE)).status == "active"

    await rate_limits.set_queue_limits(store, "target", RateLimits())
    operation = await begin(store, "target")
    await rate_limits.set_queue_limits(store, "target", RateLimits(concurrency=1))
    ended = await carry_out(store, db, operation)
    assert (ended.state, ended.succeeded) == (BulkState.STOPPED, 0)
    assert "limits" in ended.reason
    assert (await queues.get_stats(store, QUEUE)).status == "active"
