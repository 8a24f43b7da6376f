"""Damaged operations end as failed, and damaged entries of an index are left out."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.bulk import candidates, execution
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import (
    BulkOperation,
    BulkState,
    DamagedOperation,
)
from tests.store.bulk.test_bulk import WAITING, begin, carry_out
from tests.store.shortcuts import put


@pytest.mark.parametrize("field", ["version", "created", "filter"])
async def test_a_request_ends_an_operation_whose_record_is_damaged(
    store: Store, db: Any, field: str
) -> None:
    await put(store)
    meta = store.keys.meta
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    db.hset(meta.bulk(operation.id), mapping={"version": "9", field: b"\xff"})

    done = await execution.run_for(store, operation, 60)

    assert (done.state, done.ended) == (BulkState.FAILED, True)
    assert "damaged" in done.reason
    assert db.hget(meta.bulk(operation.id), "state") == b"failed"
    assert db.zscore(meta.bulk_running, operation.id) is None


async def test_a_request_ends_an_operation_that_cannot_go_on(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")

    async def damaged(*_args: Any) -> None:
        raise DamagedOperation("its position is damaged")

    monkeypatch.setattr(execution, "advance", damaged)
    done = await execution.run_for(store, operation, 60)

    assert (done.state, done.reason) == (BulkState.FAILED, "its position is damaged")
    assert db.hget(store.keys.meta.bulk(operation.id), "state") == b"failed"


async def test_an_operation_that_is_gone_is_not_found(store: Store, db: Any) -> None:
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    db.delete(store.keys.meta.bulk(operation.id))
    with pytest.raises(NotFound):
        await execution.run_for(store, operation, 60)


@pytest.mark.parametrize("page", [1, 200])
async def test_entries_that_are_not_utf_8_are_left_out(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(candidates, "PAGE", page)
    jobs = [await put(store, "mail", scheduled_at="+PT1H"), await put(store, "a"), await put(store)]
    db.zadd(store.keys.shard_of_queue("mail").due, {b"\xff\xfe": 1, "\u00e9": 1})
    db.zadd(store.keys.meta.queues, {b"\xff\xfe": 0, b"b\xff": 0})

    done = await execution.run_for(store, await begin(store, BulkAction.CANCEL, *WAITING), 60)

    assert (done.state, done.succeeded) == (BulkState.COMPLETED, len(jobs))


async def test_an_entry_that_is_not_utf_8_does_not_stop_the_scheduler(
    store: Store, db: Any
) -> None:
    job = await put(store, scheduled_at="+PT1H")
    db.zadd(store.keys.shard_of_queue("mail").due, {b"\xff": 1})
    for queue in ("mail", "other"):
        operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=queue)

    assert (await carry_out(store, operation)).state is BulkState.COMPLETED
    assert (await read_jobs.get(store, job.id)).state is State.CANCELLED


async def test_a_damaged_id_stops_neither_the_scheduler_nor_the_list(store: Store, db: Any) -> None:
    meta = store.keys.meta
    await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    for name in (b"\xff", b"no-id"):
        db.hset(meta.bulk("") + name, mapping={"state": "running", "version": 0})
        db.zadd(meta.bulk_running, {name: 0})
    db.zadd(meta.bulk_ended, {b"\xfe": 2**50})

    listed, total = await operations.list_operations(store, limit=10)
    done = await carry_out(store, operation)

    assert ([found.id for found in listed], total) == ([operation.id], 1)
    assert (done.state, done.succeeded) == (BulkState.COMPLETED, 1)
    await execution.run_due(store)
    assert db.zcard(meta.bulk_running) == 0
    assert db.zscore(meta.bulk_ended, b"\xff") > 0


async def test_a_fault_of_one_operation_delays_no_other_and_ends_it(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = await begin(store, BulkAction.CANCEL, *WAITING, queue="mail")
    other = await begin(store, BulkAction.CANCEL, *WAITING, queue="other")
    advance = execution.advance

    async def fail(store: Store, operation: BulkOperation, delay_ms: int) -> BulkOperation:
        if operation.id == faulty.id:
            raise TypeError("Integer exceeds 64-bit range")
        return await advance(store, operation, delay_ms)

    monkeypatch.setattr(execution, "advance", fail)
    for _ in range(5):
        db.zadd(store.keys.meta.bulk_running, {faulty.id: 1}, xx=True)
        await execution.run_due(store)

    assert (await operations.get(store, other.id)).state is BulkState.COMPLETED
    ended = await operations.get(store, faulty.id)
    assert (ended.state, ended.ended) == (BulkState.FAILED, True)
    assert "64-bit" in ended.reason
