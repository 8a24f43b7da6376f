"""A workflow whose record, or whose job, a failover has lost comes to an end.

A test writes statuses back, or deletes a job, as a replica forgets them that is promoted before it
received the writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from ojs_cluster.core.errors import BackendUnavailable, NotFound
from ojs_cluster.redis import Client
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.workflows import read_workflows, workflow_progress, workflows
from ojs_cluster.store.features.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.ground.process_state import unreachable_shards
from ojs_scheduler.loops.janitor import workflows_step
from ojs_scheduler.pacing import Step
from tests.store.shortcuts import QUEUE, new_job, queues_in_other_shards, shard_of, take
from tests.store.workflow_jobs import (
    chain,
    group,
    home_of,
    job_ids,
    lose_job,
    lose_statuses,
    run_one,
    state_of,
    step,
    step_states,
)
from tests.support.fixed_ids import enqueue_with_id
from tests.support.invariants import InvariantReport
from tests.support.lossy import LossyClient, without

Check = Callable[[], InvariantReport]


async def look(store: Store, db: Any, workflow: WorkflowRecord, look_at: Step | None = None) -> int:
    """Check a workflow without progress as the scheduler does; return the ms to the next check."""
    home = home_of(store, workflow)
    if db.zscore(home.running_workflows, workflow.id) is not None:
        db.zadd(home.running_workflows, {workflow.id: 1})
    result = await (look_at or workflows_step(store, 100))(home.index)
    at = db.zscore(home.running_workflows, workflow.id)
    return -1 if at is None else int(at) - result.now_ms


@pytest.mark.parametrize("statuses", ["q.", "..", "cq", "qq", "c."])
async def test_what_was_recorded_and_lost_is_recorded_again(
    store: Store, db: Any, consistent: Check, statuses: str
) -> None:
    names = queues_in_other_shards(store, 2)
    workflow = await chain(store, *(step(f"s{n}", name) for n, name in enumerate(names)))
    for name in names:
        await run_one(store, name, {"by": name})
    assert await state_of(store, workflow) == "completed"
    lose_statuses(store, db, workflow, statuses)
    assert await look(store, db, workflow) == -1

    assert await state_of(store, workflow) == "completed"
    found = await read_workflows.get(store, workflow.id)
    assert [job.result for job in found.jobs] == [b'{"by": "%b"}' % n.encode() for n in names]
    assert await take(store, *names, count=9) == [], "nothing runs twice"
    consistent()


async def test_a_workflow_goes_on_where_its_record_was_lost(
    store: Store, db: Any, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 3)
    workflow = await chain(store, *(step(f"s{n}", name) for n, name in enumerate(names)))
    await run_one(store, names[0])
    lose_statuses(store, db, workflow, "q..")
    assert await look(store, db, workflow) > 0

    assert await step_states(store, workflow) == ["completed", "pending", "waiting"]
    await run_one(store, names[1])
    await run_one(store, names[2])
    assert await state_of(store, workflow) == "completed"
    consistent()


async def test_a_step_whose_job_is_lost_has_failed(
    store: Store, db: Any, consistent: Check
) -> None:
    names = queues_in_other_shards(store, 2)
    workflow = await group(store, *(step(f"s{n}", name) for n, name in enumerate(names)))
    lost = job_ids(workflow)[0]
    lose_job(store, db, lost, names[0])
    look_at = workflows_step(store, 100)
    assert 300_000 <= await look(store, db, workflow, look_at) < 400_000
    assert await state_of(store, workflow) == "running", "its effect may still be on its way"
    await look(store, db, workflow, look_at)
    assert await state_of(store, workflow) == "running", "its other job has not ended"
    await run_one(store, names[1])

    found = await read_workflows.get(store, workflow.id)
    assert found.state == "failed"
    assert [job.state for job in found.jobs] == ["failed", "completed"]
    assert b"job_lost" in (found.jobs[0].error or b"")
    with pytest.raises(NotFound):
        await read_jobs.get(store, lost)
    assert not await enqueue_with_id(store, lost, new_job(names[0])), "it never comes"
    consistent()


async def test_a_job_that_exists_again_is_not_lost(store: Store, db: Any) -> None:
    workflow = await group(store, step())
    [job_id] = job_ids(workflow)
    shard = shard_of(store)
    fields, place = db.hgetall(shard.job(job_id)), db.zscore(shard.queue_available(QUEUE), job_id)
    look_at = workflows_step(store, 100)
    lose_job(store, db, job_id)
    await look(store, db, workflow, look_at)
    db.hset(shard.job(job_id), mapping=fields)
    db.zadd(shard.queue_available(QUEUE), {job_id: place})
    await look(store, db, workflow, look_at)

    assert await run_one(store) == "step"
    assert await state_of(store, workflow) == "completed"


async def test_a_waiting_workflow_is_checked_at_growing_intervals(store: Store, db: Any) -> None:
    workflow = await group(store, step())
    home, pauses = home_of(store, workflow), []
    for minutes in (1, 20, 6000):
        db.hincrby(home.workflow(workflow.id), "created", -60_000 * minutes)
        pauses.append(await look(store, db, workflow))

    assert 300_000 <= pauses[0] < 400_000
    assert 21 * 60_000 <= pauses[1] < 30 * 60_000
    assert 3_600_000 <= pauses[2] < 3_700_000
    assert await step_states(store, workflow) == ["pending"]
    await run_one(store)
    assert not db.exists(home.running_workflows)


async def test_progress_postpones_the_check(store: Store, db: Any) -> None:
    workflow = await group(store, step(), step())
    home = home_of(store, workflow)
    db.zadd(home.running_workflows, {workflow.id: 1})
    await run_one(store)
    assert db.zscore(home.running_workflows, workflow.id) > 1_000_000


@pytest.mark.parametrize("statuses", ["qc", "q."])
async def test_a_job_that_ended_without_success_is_recorded_again(
    store: Store, db: Any, consistent: Check, statuses: str
) -> None:
    workflow = await group(store, step(), step())
    await cancel(store, job_ids(workflow)[0])
    await run_one(store)
    assert await state_of(store, workflow) == "failed"
    lose_statuses(store, db, workflow, statuses)
    await look(store, db, workflow)

    assert await step_states(store, workflow) == ["cancelled", "completed"]
    assert await state_of(store, workflow) == "failed"
    consistent()


async def test_an_unreachable_shard_delays_no_other_workflow(
    store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreachable_shards, "PAUSE_S", 60.0)
    names = queues_in_other_shards(store, 2)
    away_shard = shard_of(store, names[0])
    made: list[WorkflowRecord] = []
    while len(made) < 2:  # two in one shard, which is not away
        workflow = await group(store, step(queue=names[len(made)]))
        home = home_of(store, workflow)
        if home is (home_of(store, made[0]) if made else home) and home is not away_shard:
            await run_one(store, names[len(made)])
            made.append(workflow)
        else:
            await workflows.cancel(store, workflow.id)
    stuck, free = made
    for workflow in made:
        lose_statuses(store, db, workflow, "q")
    half = without(store, away_shard)
    await look(half, db, free)

    assert await state_of(store, free) == "completed"
    assert await state_of(store, stuck) == "running"
    store.unreachable_shards.discard(away_shard.slot)
    await look(store, db, stuck)
    assert await state_of(store, stuck) == "completed"


@pytest.mark.parametrize("damage", [{"plan": "x"}, {"node_statuses": ""}, {"created": "x"}])
async def test_a_malformed_workflow_delays_no_other(
    store: Store, db: Any, damage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        workflow_progress, "_immutable_parts", workflow_progress.ImmutableParts()
    )  # as in a process that has just started
    free = await group(store, step())
    await run_one(store)
    stuck = await group(store, step())
    while home_of(store, stuck) is not home_of(store, free):
        stuck = await group(store, step())
    lose_statuses(store, db, free, "q")
    home = home_of(store, stuck)
    workflow_progress._immutable_parts.clear()
    db.hset(home.workflow(stuck.id), mapping=damage)
    db.zadd(home.running_workflows, {stuck.id: 0})
    assert await look(store, db, free) == -1

    assert await state_of(store, free) == "completed"
    assert int(db.zscore(home.running_workflows, stuck.id)) > 0


async def test_a_job_is_missed_once_by_a_check_that_is_repeated(store: Store, db: Any) -> None:
    """The next check is five minutes later only when the one before has scheduled it."""
    workflow = await group(store, step())
    lose_job(store, db, job_ids(workflow)[0])
    home, check = home_of(store, workflow), WorkflowCheck()

    def fail(name: str, _before: int) -> bool:
        if name == "workflow_schedule_check":
            raise BackendUnavailable("no answer", outcome="not_applied")
        return False

    db.zadd(home.running_workflows, {workflow.id: 1})
    unlucky = replace(store, redis=cast(Client, LossyClient(store.redis, fail)))
    with pytest.raises(BackendUnavailable):
        await check.check(unlucky, home, 9)
    states = []
    for _ in range(2):
        db.zadd(home.running_workflows, {workflow.id: 1})
        await check.check(store, home, 9)
        states.append(await state_of(store, workflow))
    assert states == ["running", "failed"]
