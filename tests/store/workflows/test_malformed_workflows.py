"""Malformed workflows: the scheduler quarantines them, and goes on with the others."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from ojs_cluster.core.errors import MalformedRecord
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes.delete_finished import delete_finished
from ojs_cluster.store.engine.jobs import nack as nacks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.features.workflows import (
    advance,
    read_workflows,
    workflow_progress,
    workflows,
)
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from tests.store.shortcuts import HOUR, QUEUE, ack, new_job, take
from tests.store.workflow_jobs import (
    assert_no_effects,
    chain,
    drain_all,
    home_of,
    job_ids,
    run_one,
    state_of,
    step,
)
from tests.support.fixed_ids import enqueue_with_id
from tests.support.moments import Moment, at_moments

DAMAGES: tuple[dict[str, str | None], ...] = (
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
    monkeypatch.setattr(workflow_progress, "_immutable_parts", workflow_progress.ImmutableParts())


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
    db.zadd(home.running_workflows, {workflow.id: 1})
    assert (await WorkflowCheck().check(store, home, 9)).quarantined == 1

    db.delete(key)
    db.restore(key, 0, whole)
    db.zadd(home.running_workflows, {workflow.id: 1})
    await WorkflowCheck().check(store, home, 9)
    await run_one(store)
    assert await state_of(store, workflow) == "completed"
    await drain_all(store, db)
    assert_no_effects(store, db)


async def test_the_effect_of_a_damaged_next_step_names_the_workflow(store: Store, db: Any) -> None:
    workflow = await make(store)
    home = home_of(store, workflow)
    db.hset(home.workflow(workflow.id), "node_statuses", "qz")
    [job] = await take(store)
    payload = f"{workflow.id} 0 {job.id} completed".encode()
    with pytest.raises(MalformedRecord, match=workflow.id):
        await advance.on_job_ended(store, store.keys.shard_of_id(job.id), payload)


async def test_the_end_of_a_job_that_was_removed_since_is_not_lost(store: Store, db: Any) -> None:
    workflow = await make(store)
    key = home_of(store, workflow).workflow(workflow.id)
    created = db.hget(key, "created")
    db.hdel(key, "created")
    await run_one(store)
    await drain_all(store, db, everything=False)
    await delete_finished(store, job_ids(workflow)[0])

    db.hset(key, "created", created)
    await drain_all(store, db)
    await run_one(store)
    assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)


async def test_a_job_of_a_cancelled_workflow_is_cancelled_when_the_workflow_is_repaired(
    store: Store, db: Any
) -> None:
    """A process enqueued it without knowledge of the cancellation, and died."""
    workflow = await make(store)
    [job] = await take(store)
    key = home_of(store, workflow).workflow(workflow.id)
    await workflows.cancel(store, workflow.id)
    await drain_all(store, db)
    late = job_ids(workflow)[1]
    await enqueue_with_id(store, late, new_job())
    db.hset(key, "node_statuses", "cq")
    db.hdel(key, "type")
    await ack(store, job)
    await drain_all(store, db, everything=False)

    db.hset(key, "type", "chain")
    await drain_all(store, db)
    assert (await read_jobs.get(store, late)).state is State.CANCELLED
    assert_no_effects(store, db)


REMOVED_FROM: tuple[dict[str, str | None] | None, ...] = (
    *DAMAGES,
    {"type": None},
    {"name": None},
    {"e0": "x"},
    None,
)


@pytest.mark.parametrize("damage", REMOVED_FROM)
@pytest.mark.parametrize("repaired", [False, True])
async def test_a_cancellation_removes_it_unless_it_is_repaired_meanwhile(
    store: Store, db: Any, damage: dict[str, str | None] | None, repaired: bool
) -> None:
    """``None`` for a key of another type."""
    workflow = await make(store)
    home = home_of(store, workflow)
    key = home.workflow(workflow.id)
    whole = db.dump(key)
    if damage is None:
        db.delete(key)
        db.set(key, "x")
    for field, value in (damage or {}).items():
        if value is None:
            db.hdel(key, field)
        else:
            db.hset(key, field, value)
    ends = 0

    async def repair(moment: Moment) -> None:
        nonlocal ends
        if (moment.when, moment.script) == ("before", "workflow_end"):
            ends += 1
            if repaired and ends == 2:
                db.restore(key, 0, whole, replace=True)

    cancelled = await workflows.cancel(at_moments(store, repair), workflow.id)
    assert cancelled.state == "cancelled"
    assert ends == 2 + repaired
    if repaired:
        assert await state_of(store, workflow) == "cancelled"
        assert db.zrange(home.workflows, 0, -1) == [workflow.id.encode()]
    else:
        assert not db.exists(key, home.workflows, home.running_workflows)


async def test_an_entry_that_is_no_id_leaves_the_index(store: Store, db: Any) -> None:
    workflow = await make(store)
    home = store.keys.shard_of_id(workflow.id)
    db.zadd(home.running_workflows, {b"\xff": 1, "x": 1, workflow.id: 1})
    result = await WorkflowCheck().check(store, home, 9)
    assert (result.done, result.quarantined) == (3, 0)
    assert db.zrange(home.running_workflows, 0, -1) == [workflow.id.encode()]


@pytest.mark.parametrize("padding", [0, 4000])
async def test_an_error_with_a_number_beyond_float64_is_no_damage(
    store: Store, db: Any, padding: int
) -> None:
    """Not even if the error is too large for the record of the workflow."""
    workflow = await chain(store, step(options={"queue": QUEUE, "max_attempts": 1}))
    [job] = await take(store)
    error = b'{"code":"c","attempt":1e400,"message":"%b","details":{"ratio":1e400}}'
    failed = parse_failure(error % (b"x" * padding), max_bytes=1 << 20)
    who: dict[str, Any] = {"worker_id": None, "lease_id": None, "requeue": False}
    await nacks.nack(store, job.id, failure=failed, **who)
    await drain_all(store, db)
    found = await read_workflows.get(store, workflow.id)
    assert found.state == "failed"
    kept = found.jobs[0].error
    assert kept is not None
    assert b'"code":"c"' in kept
    assert len(kept) < 2048
    assert (b"1e400" in kept) == (not padding)
