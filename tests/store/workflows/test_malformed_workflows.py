"""Malformed workflows: the scheduler quarantines them, and goes on with the others."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ojs_cluster.core.errors import MalformedRecord
from ojs_cluster.store.context import Store
from ojs_cluster.store.workflows import read_workflows, workflow_progress
from ojs_cluster.store.workflows.progress_check import WorkflowCheck
from tests.store.shortcuts import HOUR
from tests.store.workflow_jobs import chain, run_one, state_of, step

DAMAGES: tuple[dict[str, str], ...] = (
    {"plan": "x"},
    {"plan": '[["group",-1]]'},
    {"plan": '[["group",-1],["job",0,[9],"success","","","t","q",0,"x"]]'},
    {"node_statuses": ""},
    {"node_statuses": "zz"},
    {"created": "x"},
)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has just started."""
    monkeypatch.setattr(workflow_progress, "_immutable_parts", {})


async def make(store: Store) -> Any:
    return await chain(store, step("a"), step("b"))


@pytest.mark.parametrize("damage", DAMAGES)
async def test_it_is_quarantined_for_an_hour_counted_and_reported(
    store: Store, db: Any, damage: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    workflow = await make(store)
    home = store.keys.shard_of_id(workflow.id)
    workflow_progress._immutable_parts.clear()
    whole = db.hgetall(home.workflow(workflow.id))
    db.hset(home.workflow(workflow.id), mapping=damage)
    db.zadd(home.running_workflows, {workflow.id: 1})
    with caplog.at_level(logging.ERROR, "ojs.store"):
        result = await WorkflowCheck().check(store, home, 9)
    assert (result.done, result.quarantined) == (1, 1)
    assert [workflow.id in record.getMessage() for record in caplog.records] == [True]
    pause = db.zscore(home.running_workflows, workflow.id) - result.now_ms
    assert HOUR - 60_000 < pause < HOUR + 60_000
    with pytest.raises(MalformedRecord):
        await read_workflows.get(store, workflow.id)

    db.hset(home.workflow(workflow.id), mapping=whole)  # an operator repairs it
    db.zadd(home.running_workflows, {workflow.id: 1})
    assert (await WorkflowCheck().check(store, home, 9)).quarantined == 0
    await run_one(store)
    await run_one(store)
    assert await state_of(store, workflow) == "completed"


@pytest.mark.parametrize("damage", [*DAMAGES, {"type": None}, None])
async def test_the_end_of_its_job_is_recorded_when_it_is_repaired(
    store: Store, db: Any, damage: dict[str, str | None] | None
) -> None:
    """``None`` for a key of another type."""
    workflow = await make(store)
    home = store.keys.shard_of_id(workflow.id)
    key = home.workflow(workflow.id)
    workflow_progress._immutable_parts.clear()
    whole = db.dump(key)
    if damage is None:
        db.delete(key)
        db.set(key, "x")
    else:
        for field, value in damage.items():
            if value is None:
                db.hdel(key, field)
            else:
                db.hset(key, field, value)
    await run_one(store)
    for shard in store.keys:
        assert db.hlen(shard.outbox) <= 1, "an effect fails again and again"  # its `seq`
    db.zadd(home.running_workflows, {workflow.id: 1})
    assert (await WorkflowCheck().check(store, home, 9)).quarantined == 1

    db.delete(key)
    db.restore(key, 0, whole)
    db.zadd(home.running_workflows, {workflow.id: 1})
    await WorkflowCheck().check(store, home, 9)
    await run_one(store)
    assert await state_of(store, workflow) == "completed"


async def test_an_entry_that_is_no_id_leaves_the_index(store: Store, db: Any) -> None:
    workflow = await make(store)
    home = store.keys.shard_of_id(workflow.id)
    db.zadd(home.running_workflows, {b"\xff": 1, "x": 1, workflow.id: 1})
    result = await WorkflowCheck().check(store, home, 9)
    assert (result.done, result.quarantined) == (3, 0)
    assert db.zrange(home.running_workflows, 0, -1) == [workflow.id.encode()]
