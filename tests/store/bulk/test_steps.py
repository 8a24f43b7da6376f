"""When an operation is continued, and what it keeps of its failures."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.bulk import apply as applying
from ojs_cluster.store.features.bulk import candidates, execution
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import MAX_FAILURES, Target
from ojs_cluster.store.features.bulk_records.updates import PAUSE_MS, Superseded
from tests.store.bulk.test_bulk import WAITING, begin, carry_out
from tests.store.shortcuts import QUEUE, ack, active, clock_ms, nack, put, shard_of

FIRST = {"type": "SmtpError", "message": "no host"}


async def next_step_ms(store: Store, db: Any, operation_id: str) -> int:
    """Return how many milliseconds from now the scheduler continues an operation."""
    at_ms = db.zscore(store.keys.meta.bulk_running, operation_id)
    return int(at_ms) - await clock_ms(store, store.keys.meta.slot)


async def test_only_jobs_that_have_failed_in_the_period_are_chosen(store: Store) -> None:
    job = await active(store)
    await nack(store, job, FIRST)
    failed_ms = (await read_jobs.get(store, job.id)).last_failed_ms
    assert failed_ms is not None
    for name, at_ms, wanted in (
        ("error_since_ms", failed_ms + 1, 0),
        ("error_since_ms", failed_ms, 1),
        ("error_until_ms", failed_ms, 0),
        ("error_until_ms", failed_ms + 1, 1),
    ):
        given = {"error_type": "SmtpError", name: at_ms, "dry_run": True}
        operation = await begin(store, BulkAction.CANCEL, State.RETRYABLE, **given)
        assert (await carry_out(store, operation)).matched == wanted


async def test_a_purge_that_dies_leaves_a_job_that_is_removed_at_once(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="unknown")

    job = await put(store)
    monkeypatch.setattr(applying, "_delete", dies)
    target = Target(job.id, 0, State.AVAILABLE, job.created_ms)
    with pytest.raises(BackendUnavailable):
        await apply(store, BulkAction.PURGE, target)
    shard = shard_of(store)
    assert db.zscore(shard.finished, job.id) <= await clock_ms(store, shard.slot)


async def test_a_failed_step_is_repeated_after_a_pause(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise BackendUnavailable("no answer", outcome="not_applied")

    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    monkeypatch.setattr(execution, "choose", away)
    began_ms = await clock_ms(store, store.keys.meta.slot)
    await execution.run_due(store)
    at_ms = db.zscore(store.keys.meta.bulk_running, operation.id)
    assert at_ms >= began_ms + PAUSE_MS


async def test_a_stopped_operation_is_continued_at_once(store: Store, db: Any) -> None:
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    key = store.keys.meta.bulk_running
    db.zadd(key, {operation.id: db.zscore(key, operation.id) + 3_600_000})
    await operations.stop(store, operation.id)
    assert await next_step_ms(store, db, operation.id) <= 0


async def test_failures_are_kept_up_to_a_number_and_a_length(store: Store) -> None:
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    kept = operation.with_failures([("id", "x" * 5000)] * (MAX_FAILURES + 1))
    assert len(kept) == MAX_FAILURES
    assert {len(reason) for _, reason in kept} == {300}


async def test_a_job_that_has_the_priority_already_is_not_chosen(store: Store) -> None:
    await put(store, priority=5)
    other = await put(store, priority=1)
    operation = await begin(store, BulkAction.PRIORITY, *WAITING, queue=QUEUE, new_priority=5)
    ended = await carry_out(store, operation)
    assert (ended.matched, ended.succeeded) == (1, 1)
    assert (await read_jobs.get(store, other.id)).priority == 5


async def test_the_record_of_an_ended_operation_has_no_ids(store: Store, db: Any) -> None:
    job = await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, ids=[job.id])
    key = store.keys.meta.bulk(operation.id)
    assert db.hexists(key, "ids")
    await carry_out(store, operation)
    assert {b"ids", b"slice", b"position"}.isdisjoint(db.hkeys(key))


async def test_of_two_processes_in_one_slice_one_stores_its_progress(
    store: Store, other_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 1)
    for _ in range(3):
        await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    stale = await operations.get(other_store, operation.id)
    await execution.advance(store, operation, 1)

    with pytest.raises(Superseded):
        await execution.advance(other_store, stale, 1)

    assert (await operations.get(store, operation.id)).succeeded == 1
    ended = await carry_out(store, operation)
    assert (ended.matched, ended.succeeded, ended.failed) == (3, 3, 0)


async def test_a_dry_run_of_several_pages_counts_each_job_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "PAGE", 2)
    for _ in range(5):
        await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE, dry_run=True)
    assert (await carry_out(store, operation)).matched == 5


async def test_a_job_that_was_deleted_before_a_crash_is_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(*given: Any, **how: Any) -> None:
        assert await apply(*given, **how) is None
        raise BackendUnavailable("no answer", outcome="unknown")

    job = await active(store)
    await ack(store, job)
    operation = await begin(store, BulkAction.DELETE, State.COMPLETED)
    monkeypatch.setattr(execution, "apply", dies)
    await execution.run_due(store)
    monkeypatch.setattr(execution, "apply", apply)

    ended = await execution.run_for(store, await operations.get(store, operation.id), 60)
    assert (ended.matched, ended.succeeded, ended.failed) == (1, 1, 0)


async def test_operations_whose_records_are_lost_delay_no_other(store: Store, db: Any) -> None:
    await put(store)
    meta = store.keys.meta
    for _ in range(execution._OPERATIONS_AT_ONCE):
        lost = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
        db.delete(meta.bulk(lost.id))
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    await execution.run_due(store)
    await execution.run_due(store)
    assert (await operations.get(store, operation.id)).succeeded == 1


async def test_operations_that_run_count_among_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MAX_OPERATIONS", 3)
    for _ in range(2):
        await carry_out(store, await begin(store, BulkAction.CANCEL, *WAITING, queue="none"))
    for _ in range(2):
        await begin(store, BulkAction.CANCEL, *WAITING, queue="none")
    assert (await operations.list_operations(store, limit=10))[1] == 3
