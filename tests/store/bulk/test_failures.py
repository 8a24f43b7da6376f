"""Failures of a bulk operation count until it gets on, and end it when it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import BackendUnavailable, Conflict
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import queues
from ojs_cluster.store.features.bulk import candidates, choosing, execution, failures
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, BulkState
from ojs_cluster.store.features.bulk_records.updates import PAUSE_MS
from tests.store.bulk.test_bulk import WAITING, begin
from tests.store.queue_deletion.test_deletion import begin as begin_deletion
from tests.store.shortcuts import QUEUE, put


async def step(store: Store, db: Any, operation: BulkOperation, times: int = 1) -> BulkOperation:
    """Let the scheduler continue the operation so many times, without its pauses."""
    for _ in range(times):
        db.zadd(store.keys.meta.bulk_running, {operation.id: 1}, xx=True)
        await execution.run_due(store)
    return await operations.get(store, operation.id)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, name: str = "choose") -> None:
    async def fail(*_args: Any) -> None:
        raise error

    monkeypatch.setattr(execution, name, fail)


async def test_faults_before_progress_do_not_count_later(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (candidates, choosing):
        monkeypatch.setattr(module, "PAGE", 1)
    for _ in range(3):
        await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    limit = failures.FAULT.limit
    for wanted in (0, 1):
        with monkeypatch.context() as patch:
            failing(patch, TypeError("no number"))
            found = await step(store, db, operation, limit - 1)
        assert (found.state, found.succeeded) == (BulkState.RUNNING, wanted)
        assert (await step(store, db, operation)).succeeded == wanted + 1

    failing(monkeypatch, TypeError("no number"))
    found = await step(store, db, operation, limit)
    assert (found.state, found.succeeded) == (BulkState.FAILED, 2)
    assert "no number" in found.reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Conflict("not so"), failures.REFUSAL),
        (RedisReplyError("NOPERM not so"), failures.REFUSAL),
        (BackendUnavailable("not so", outcome="unknown"), failures.SILENCE),
    ],
    ids=["refused", "no permission", "no answer"],
)
async def test_a_deletion_whose_steps_are_refused_ends_with_its_drain(
    store: Store,
    db: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: failures.FailureKind,
) -> None:
    await put(store)
    operation = await begin_deletion(store)
    failing(monkeypatch, error)
    assert (await step(store, db, operation)).state is BulkState.RUNNING
    key = store.keys.meta.bulk(operation.id)
    assert db.hget(key, kind.field) == b"1"
    db.hset(key, kind.field, kind.limit - 1)  # so many more

    found = await step(store, db, operation)

    assert found.state is BulkState.FAILED
    assert found.reason.startswith(kind.reason)
    assert "not so" in found.reason
    assert (await queues.get_stats(store, QUEUE)).status == "active"


async def test_a_fault_before_the_claim_is_no_claim(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    operation = await begin_deletion(store)
    with monkeypatch.context() as patch:
        failing(patch, TypeError("no number"), "has_drain")
        assert not (await step(store, db, operation)).is_claimed
    assert (await step(store, db, operation)).is_claimed


@pytest.mark.parametrize("limit", [failures.FAULT.limit, 1])
async def test_a_slow_process_does_not_count_a_failure_after_the_progress_of_another(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    for module in (candidates, choosing):
        monkeypatch.setattr(module, "PAGE", 1)
    for _ in range(2):
        await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    monkeypatch.setattr(failures, "FAULT", replace(failures.FAULT, limit=limit))

    async def fail_late(*_args: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(execution, "choose", choosing.choose)
            assert (await step(store, db, operation)).succeeded == 1
        raise TypeError("no number")

    with monkeypatch.context() as patch:
        patch.setattr(execution, "choose", fail_late)
        found = await step(store, db, operation)

    assert found.state is BulkState.RUNNING
    key = store.keys.meta.bulk(operation.id)
    assert db.hget(key, "faults") == b"0"
    due = db.zscore(store.keys.meta.bulk_running, operation.id)
    postponed = (await queues.get_stats(store, QUEUE)).now_ms + PAUSE_MS / 2
    assert due < postponed
    assert (await step(store, db, operation)).succeeded == 2


async def test_failures_of_jobs_that_the_process_has_chosen_are_counted(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(store)
    operation = await begin(store, BulkAction.CANCEL, *WAITING, queue=QUEUE)
    failing(monkeypatch, TypeError("no number"), "apply")
    await step(store, db, operation, 2)
    assert db.hget(store.keys.meta.bulk(operation.id), "faults") == b"2"
