"""A request whose operation is damaged while it runs gets the failed operation."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.bulk import execution
from ojs_cluster.store.bulk.operation import BulkState, DamagedOperation
from ojs_cluster.store.context import Store
from tests.store.bulk.test_bulk import WAITING, begin
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
