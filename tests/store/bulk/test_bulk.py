"""Bulk operations change each chosen job once, in slices, whatever happens between two slices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import trio

from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, OJSError, RateLimited
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs as jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.bulk import candidates, execution
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk_records import operations, updates
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState, Target
from tests.store.hot_queues import spread
from tests.store.shortcuts import (
    ack,
    active,
    foreign_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import without

WAITING = (State.PENDING, State.AVAILABLE, State.SCHEDULED, State.RETRYABLE)


async def begin(store: Store, action: BulkAction, *states: State, **given: Any) -> BulkOperation:
    """Create an operation that the scheduler is to carry out."""
    options: dict[str, Any] = {
        name: given.pop(name) for name in ("ids", "dry_run") if name in given
    }
    if "new_priority" in given:
        options["priority"] = given.pop("new_priority")
    operation_id = new_job_id(0, len(store.keys), time.time_ns() // 1_000_000)
    return await operations.create(
        store, operation_id, action, Selection(states, **given), **options
    )


async def carry_out(store: Store, operation: BulkOperation) -> BulkOperation:
    """Run the scheduler's steps until the operation is over."""
    for _ in range(1000):
        found = await operations.get(store, operation.id)
        if found.ended:
            return found
        await execution.run_due(store)
    raise AssertionError(found)


async def dead(store: Store, queue: str = "mail", **options: Any) -> JobRecord:
    """A dead letter."""
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    job = await active(store, queue, retry=retry, **options)
    await nack(store, job)
    return await jobs.get(store, job.id)


async def test_a_request_sees_that_its_operation_was_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 1)
    for _ in range(3):
        await put(store, "bulk")
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="bulk")
    await operations.stop(store, operation.id)

    ended = await execution.run_for(store, operation, 5)

    assert (ended.state, ended.succeeded) == (BulkState.STOPPED, 1)


async def test_a_filter_chooses_jobs_in_all_indexes_and_shards(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    wanted, spared = [], []
    for queue in queues_in_other_shards(store, 3):
        wanted += [await put(store, queue), await put(store, queue, scheduled_at="+PT1H")]
        wanted += [await put(store, queue, pending=True)]
        spared += [await put(store, queue, type="other.type"), await active(store, f"{queue}x")]
    operation = await begin(store, BulkAction.CANCEL, *WAITING, type="mail.*")

    ended = await carry_out(store, operation)

    assert (ended.state, ended.matched, ended.succeeded) == (BulkState.COMPLETED, 9, 9)
    assert (ended.failed, ended.failures, ended.slice) == (0, (), None)
    assert {(await jobs.get(store, job.id)).state for job in wanted} == {State.CANCELLED}
    states = {(await jobs.get(store, job.id)).state for job in spared}
    assert states == {State.AVAILABLE, State.ACTIVE}
    consistent()


async def test_one_queue_with_partitions_and_ties_is_walked_completely(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], monkeypatch: Any
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 7)
    await spread(store, db, 3, "hot")
    at = "2099-01-01T00:00:00Z"  # one score for all
    await enqueue_many(store, [new_job("hot", scheduled_at=at) for _ in range(60)])
    await enqueue_many(store, [new_job("hot") for _ in range(40)])

    ended = await carry_out(store, await begin(store, BulkAction.CANCEL, *WAITING, queue="hot"))

    assert (ended.matched, ended.succeeded, ended.failed) == (100, 100, 0)
    counts = (await get_stats(store, "hot")).counts
    assert {state: n for state, n in counts.items() if n} == {State.CANCELLED: 100}
    consistent()


async def test_discarded_jobs_are_retried_and_deleted(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    foreign = await dead(store, "graves", id=foreign_id(store, "graves"))
    many = [foreign, *[await dead(store, "graves") for _ in range(3)]]
    done = await active(store, "done")
    await ack(store, done)

    retried = await carry_out(store, await begin(store, BulkAction.RETRY, State.DISCARDED))
    assert (retried.matched, retried.succeeded) == (4, 4)
    for job in await take(store, "graves", count=10):
        await nack(store, job)
    again = await carry_out(
        store, await begin(store, BulkAction.DELETE, State.DISCARDED, dead=True, queue="graves")
    )
    assert (again.matched, again.succeeded, again.failed) == (4, 4, 0)
    rest = await carry_out(
        store, await begin(store, BulkAction.DELETE, State.COMPLETED, State.CANCELLED)
    )

    assert (rest.matched, rest.succeeded) == (1, 1)
    for job in (*many, done):
        with pytest.raises(NotFound):
            await jobs.get(store, job.id)
    consistent()


async def test_a_purge_removes_waiting_and_ended_jobs_but_no_active_one(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    running = await active(store)
    gone = [await dead(store), await put(store), await put(store, scheduled_at="+PT1H")]
    gone += [await put(store, id=foreign_id(store))]

    ended = await carry_out(
        store, await begin(store, BulkAction.PURGE, *DEFAULT_STATES[BulkAction.PURGE])
    )

    assert (ended.matched, ended.succeeded, ended.failed) == (4, 4, 0)
    for job in gone:
        with pytest.raises(NotFound):
            await jobs.get(store, job.id)
    assert (await jobs.get(store, running.id)).state is State.ACTIVE
    consistent()


async def test_waiting_jobs_get_another_priority(store: Store) -> None:
    early, late = await put(store), await put(store, type="urgent")
    operation = await begin(store, BulkAction.PRIORITY, *WAITING, type="urgent", new_priority=50)
    assert (await carry_out(store, operation)).succeeded == 1
    assert [job.id for job in await take(store, count=2)] == [late.id, early.id]


async def test_a_dry_run_counts_and_changes_nothing(store: Store) -> None:
    made = [await put(store) for _ in range(5)]

    ended = await carry_out(
        store, await begin(store, BulkAction.CANCEL, *WAITING, queue="mail", dry_run=True)
    )

    assert (ended.matched, ended.succeeded, ended.failed) == (5, 0, 0)
    assert [(await jobs.get(store, job.id)).state for job in made] == [State.AVAILABLE] * 5


async def test_jobs_that_come_later_are_not_chosen(store: Store, db: Any) -> None:
    early = await dead(store)
    operation = await begin(store, BulkAction.RETRY, State.DISCARDED)
    db.hset(store.keys.meta.bulk(operation.id), "created", operation.created_ms - 60_000)
    assert (await carry_out(store, operation)).matched == 0
    assert (await jobs.get(store, early.id)).state is State.DISCARDED


async def test_a_tenant_changes_no_job_that_only_names_it_in_its_meta(store: Store) -> None:
    """An earlier version has stored no tenant, and ``meta.tenant_id`` was free."""
    named = new_job("mail", metadata={"tenant_id": "acme"})
    mine = (await enqueue_many(store, [named]))[0].id
    other = (await enqueue_many(store, [msgspec.structs.replace(named, tenant="")]))[0].id
    for chosen in ({"query": 'meta.tenant_id:"acme"'}, {"ids": [other]}):
        operation = await begin(store, BulkAction.CANCEL, State.AVAILABLE, tenant="acme", **chosen)
        await carry_out(store, operation)
    assert (await jobs.get(store, mine)).state == State.CANCELLED
    assert (await jobs.get(store, other)).state == State.AVAILABLE


async def test_ids_are_changed_if_their_jobs_match(store: Store) -> None:
    waiting, running = await put(store, "a"), await active(store, "b")
    missing = foreign_id(store)

    ended = await carry_out(
        store,
        await begin(store, BulkAction.CANCEL, *WAITING, ids=[waiting.id, running.id, missing]),
    )

    assert (ended.matched, ended.succeeded, ended.ids) == (1, 1, None)
    assert (await jobs.get(store, waiting.id)).state is State.CANCELLED
    assert (await jobs.get(store, running.id)).state is State.ACTIVE


async def test_a_job_that_cannot_be_changed_is_a_failure_with_its_reason(store: Store) -> None:
    unique: dict[str, Any] = {"keys": ["type"], "period": "PT1H"}
    old = await dead(store, "once", unique=unique)
    await put(store, "once", unique=unique)  # holds the lock now

    ended = await carry_out(
        store, await begin(store, BulkAction.RETRY, State.DISCARDED, queue="once")
    )

    assert (ended.matched, ended.succeeded, ended.failed) == (1, 0, 1)
    [(job_id, reason)] = ended.failures
    assert job_id == old.id
    assert reason


async def test_a_slice_that_a_crash_interrupted_is_finished_and_counted_once(
    store: Store, other_store: Store, monkeypatch: Any
) -> None:
    made = [await dead(store, "graves") for _ in range(4)]
    operation = await begin(store, BulkAction.RETRY, State.DISCARDED)
    begun: list[str] = []
    two_are_changed = trio.Event()

    async def dies(store: Store, action: BulkAction, target: Target, **how: Any) -> OJSError | None:
        begun.append(target.job_id)
        if len(begun) > 2:
            await two_are_changed.wait()
            raise KeyboardInterrupt
        error = await apply(store, action, target, **how)
        if (await jobs.get(store, begun[0])).replays + (
            await jobs.get(store, begun[1])
        ).replays > 1:
            two_are_changed.set()
        return error

    monkeypatch.setattr(execution, "apply", dies)
    with pytest.raises(BaseException):  # noqa: B017, PT011 - perhaps in a group
        await carry_out(store, operation)
    monkeypatch.setattr(execution, "apply", apply)
    # A worker runs a job that was retried, and it fails again: this operation must not retry it.
    for job in await take(store, "graves", count=1):
        await nack(store, job)

    ended = await carry_out(other_store, operation)

    assert (ended.matched, ended.succeeded, ended.failed) == (4, 4, 0)
    found = [await jobs.get(store, job.id) for job in made]
    assert [job.replays for job in found] == [1] * 4
    assert sorted(job.state for job in found) == [*[State.AVAILABLE] * 3, State.DISCARDED]


async def test_of_two_processes_one_stores_its_progress(store: Store, other_store: Store) -> None:
    made = [await put(store) for _ in range(3)]
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    stale = await operations.get(other_store, operation.id)

    ended = await carry_out(store, operation)
    with pytest.raises(updates.Superseded):
        await execution.advance(other_store, stale, 1)

    assert (ended.matched, ended.succeeded) == (3, 3)
    assert (await operations.get(store, operation.id)).succeeded == 3
    assert {(await jobs.get(store, job.id)).state for job in made} == {State.CANCELLED}


async def test_a_stopped_operation_changes_no_further_job(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(candidates, "PAGE", 2)
    await enqueue_many(store, [new_job() for _ in range(10)])
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    while not (await operations.get(store, operation.id)).succeeded:
        await execution.run_due(store)

    assert (await operations.stop(store, operation.id)).state is BulkState.STOPPING
    assert (await operations.stop(store, operation.id)).state is BulkState.STOPPING
    ended = await carry_out(store, operation)

    assert (ended.state, ended.succeeded) == (BulkState.STOPPED, 2)
    assert (await get_stats(store, "mail")).counts[State.AVAILABLE] == 8
    with pytest.raises(Conflict):
        await operations.stop(store, operation.id)


async def test_a_request_carries_out_an_operation_and_leaves_the_rest(
    store: Store, other_store: Store
) -> None:
    await enqueue_many(store, [new_job() for _ in range(10)])
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    done = await execution.run_for(store, operation, 60)
    assert (done.state, done.succeeded) == (BulkState.COMPLETED, 10)

    await enqueue_many(store, [new_job() for _ in range(10)])
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    left = await execution.run_for(store, operation, 0)
    assert (left.state, left.succeeded) == (BulkState.RUNNING, 0)
    assert (await carry_out(other_store, operation)).succeeded == 10


async def test_ended_operations_leave_when_their_retention_ends(store: Store, db: Any) -> None:
    meta = store.keys.meta
    ended = await carry_out(store, await begin(store, BulkAction.CANCEL, *WAITING, queue="none"))
    assert set(db.hkeys(meta.bulk(ended.id))).isdisjoint({b"ids", b"slice", b"position"})
    db.zincrby(meta.bulk_ended, -8 * 24 * 3_600_000, ended.id)
    assert (await execution.run_due(store)).done == 1
    assert not db.exists(meta.bulk(ended.id), meta.bulk_ended, meta.bulk_running)
    with pytest.raises(NotFound):
        await operations.get(store, ended.id)


async def test_the_number_of_operations_is_bounded(store: Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(operations, "MAX_RUNNING", 2)
    monkeypatch.setattr(operations, "MAX_OPERATIONS", 3)
    ended = [
        await carry_out(store, await begin(store, BulkAction.CANCEL, *WAITING, queue="none"))
        for _ in range(4)
    ]
    listed, total = await operations.list_operations(store, limit=10)
    assert (total, [op.id for op in listed]) == (3, [op.id for op in reversed(ended[1:])])
    for _ in range(2):
        await begin(store, BulkAction.CANCEL, *WAITING, queue="none")
    with pytest.raises(RateLimited):
        await begin(store, BulkAction.CANCEL, *WAITING, queue="none")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("filter", b"{"),
        ("filter", b'{"states":["gone"]}'),
        ("filter", b'{"states":["available"],"queue":7}'),
        ("position", b"[1]"),
        ("slice", b"[[[1]]]"),
        ("slice", b"7"),
        ("version", b""),
        ("created", b"x"),
        ("action", b"burn"),
        ("examined", b"many"),
        ("ids", b"5"),
        ("failures", b"[1]"),
    ],
)
async def test_a_damaged_operation_ends_and_delays_no_other(
    store: Store, db: Any, field: str, value: bytes
) -> None:
    meta = store.keys.meta
    job = await put(store)
    damaged = await begin(store, BulkAction.CANCEL, *WAITING)
    db.hset(meta.bulk(damaged.id), field, value)
    with pytest.raises(NotFound):
        await operations.get(store, damaged.id)
    sound = await begin(store, BulkAction.CANCEL, *WAITING)

    assert (await carry_out(store, sound)).succeeded == 1
    while db.zscore(meta.bulk_running, damaged.id) is not None:
        await execution.run_due(store)

    assert (await jobs.get(store, job.id)).state is State.CANCELLED
    assert db.hget(meta.bulk(damaged.id), "state") == b"failed"
    listed, total = await operations.list_operations(store, limit=10)
    assert total == 2
    assert sound.id in {operation.id for operation in listed}


async def test_an_operation_of_an_unreachable_shard_delays_no_other(store: Store, db: Any) -> None:
    first, second = queues_in_other_shards(store, 2)
    stuck, free = await put(store, first), await put(store, second)
    held = await begin(store, BulkAction.CANCEL, *WAITING, queue=first)
    other = await begin(store, BulkAction.CANCEL, *WAITING, queue=second)
    away = without(store, store.keys.shard_of_queue(first))

    ended = await carry_out(away, other)

    assert (ended.state, ended.succeeded) == (BulkState.COMPLETED, 1)
    assert (await jobs.get(store, free.id)).state is State.CANCELLED
    assert (await operations.get(store, held.id)).state is BulkState.RUNNING
    meta = store.keys.meta
    assert db.zscore(meta.bulk_running, held.id) > held.created_ms + 4000  # postponed
    db.zadd(meta.bulk_running, {held.id: 1})
    assert (await carry_out(store, held)).succeeded == 1
    assert (await jobs.get(store, stuck.id)).state is State.CANCELLED


async def test_an_operation_is_stopped_although_a_shard_is_unreachable(
    store: Store, monkeypatch: Any
) -> None:
    job = await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")

    async def unavailable(*_args: Any, **_how: Any) -> None:
        raise BackendUnavailable("no answer", outcome="unknown")

    monkeypatch.setattr(execution, "apply", unavailable)
    await execution.run_due(store)
    assert (await operations.get(store, operation.id)).slice is not None
    await operations.stop(store, operation.id)

    ended = await carry_out(store, operation)

    assert (ended.state, ended.matched, ended.succeeded) == (BulkState.STOPPED, 1, 0)
    assert ended.reason.endswith("no answer")
    assert (await jobs.get(store, job.id)).state is State.AVAILABLE


async def test_what_changed_since_it_was_chosen_is_reported(store: Store, monkeypatch: Any) -> None:
    first, second = await put(store), await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")

    async def late(store: Store, action: BulkAction, target: Target, **how: Any) -> OJSError | None:
        if target.job_id == first.id:
            assert [job.id for job in await take(store)] == [first.id]
        return await apply(store, action, target, **how)

    monkeypatch.setattr(execution, "apply", late)
    ended = await carry_out(store, operation)
    assert (ended.succeeded, ended.failed) == (1, 1)
    assert ended.failures == ((first.id, f"job '{first.id}' is active"),)
    assert (await jobs.get(store, first.id)).state is State.ACTIVE
    assert (await jobs.get(store, second.id)).state is State.CANCELLED
