"""Workflows on real servers: what starts when, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.changes import purges
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.retention import retention
from ojs_cluster.store.features.workflows import read_workflows, workflows
from tests.store.shortcuts import (
    DAY,
    HOUR,
    QUEUE,
    ack,
    nack,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.store.workflow_jobs import (
    assert_no_effects,
    batch,
    chain,
    group,
    job_ids,
    make,
    parents,
    run_one,
    state_of,
    step,
    step_states,
)
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.timeshift import age_job


async def test_a_chain_runs_one_step_after_the_other_over_shards(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    names = queues_in_other_shards(store, 3)
    workflow = await chain(store, *(step(f"s{i}", name) for i, name in enumerate(names)))
    assert await step_states(store, workflow) == ["pending", "waiting", "waiting"]
    for i, name in enumerate(names):
        assert [await take(store, later) for later in names[i + 1 :]] == [[]] * (2 - i)
        assert await run_one(store, name, {"n": i}) == f"s{i}"
    found = await read_workflows.get(store, workflow.id)
    assert found.state == "completed"
    assert [json.loads(job.result or b"") for job in found.jobs] == [{"n": i} for i in range(3)]
    assert_no_effects(store, db)
    consistent()


async def test_a_step_is_given_the_results_of_all_steps_before_it(store: Store) -> None:
    await chain(store, step("a"), step("b"), step("c"))
    await run_one(store, result={"x": 1.50})
    [second] = await take(store)
    assert parents(second) == [{"x": 1.5}]
    await ack(store, second)
    [third] = await take(store)
    assert parents(third) == [{"x": 1.5}, None]
    assert json.loads(third.json())["workflow_step"] == 2


async def test_results_of_a_mebibyte_are_passed_on(store: Store) -> None:
    await chain(store, step("a"), step("b"))
    await run_one(store, result="x" * (1024 * 1024 - 2))
    [second] = await take(store)
    assert len(parents(second)[0]) == 1024 * 1024 - 2


async def test_a_failed_step_ends_the_chain(store: Store, db: Any) -> None:
    options = {"queue": QUEUE, "max_attempts": 1}
    workflow = await chain(store, step(), step(options=options), step())
    await run_one(store)
    await nack(store, (await take(store))[0])
    assert await take(store) == []
    assert await step_states(store, workflow) == ["completed", "failed", "cancelled"]
    assert await state_of(store, workflow) == "failed"
    assert_no_effects(store, db)


async def test_a_retried_step_is_no_failure(store: Store) -> None:
    workflow = await chain(store, step(), step())
    await nack(store, (await take(store))[0])
    assert await state_of(store, workflow) == "running"
    assert await step_states(store, workflow) == ["pending", "waiting"]


async def test_a_group_ends_when_all_its_jobs_have_ended(store: Store, db: Any) -> None:
    options = {"queue": QUEUE, "max_attempts": 1}
    workflow = await group(store, *(step(options=options) for _ in range(3)))
    first, second, third = await take(store, count=3)
    await nack(store, first)
    await ack(store, second)
    assert await state_of(store, workflow) == "running"
    await ack(store, third)
    found = await read_workflows.get(store, workflow.id)
    assert found.state == "failed"
    assert found.evaluation.count(found.plan, "completed") == 2
    assert_no_effects(store, db)


@pytest.mark.parametrize(("good", "called"), [(True, "on_success"), (False, "on_failure")])
async def test_a_batch_calls_back_once_all_jobs_have_ended(
    store: Store, db: Any, good: bool, called: str
) -> None:
    names = ("on_complete", "on_success", "on_failure")
    one = step(options={"queue": QUEUE, "max_attempts": 1})
    workflow = await batch(store, [one, one], **{name: step(name, "back") for name in names})
    first, second = await take(store, count=2)
    await ack(store, first, result=b"1")
    assert await take(store, "back") == []
    await (ack(store, second, result=b"2") if good else nack(store, second))
    back = await take(store, "back", count=9)
    assert sorted(job.type for job in back) == sorted(["on_complete", called])
    assert all(parents(job) == [1, 2 if good else None] for job in back)
    assert await state_of(store, workflow) == "running"
    for job in back:
        await ack(store, job)
    assert await state_of(store, workflow) == ("completed" if good else "failed")
    assert await take(store, "back") == []
    assert_no_effects(store, db)


async def test_a_graph_starts_each_step_when_those_it_names_are_done(store: Store) -> None:
    workflow = await make(
        store,
        name="diamond",
        steps=[
            step("join", id="join", depends_on=["left", "right"]),
            step("top", id="top"),
            step("left", id="left", depends_on=["top"]),
            step("right", id="right", depends_on=["top"]),
        ],
    )
    assert workflow.type == "dag"
    assert await run_one(store) == "top"
    left, right = await take(store, count=9)
    await ack(store, right, result=b'"R"')
    assert await take(store) == []
    await ack(store, left, result=b'"L"')
    [join] = await take(store)
    assert json.loads(join.json())["parent_results_by_id"] == {"left": "L", "right": "R"}
    assert parents(join) == ["L", "R"]
    await ack(store, join)
    assert await state_of(store, workflow) == "completed"


async def test_workflows_nest_three_levels(store: Store) -> None:
    inner = {"type": "chain", "steps": [step("c1"), step("c2")]}
    fan = {"type": "group", "jobs": [inner, step("g")]}
    workflow = await make(store, type="chain", steps=[step("a"), fan, step("z")])
    await run_one(store, result="A")
    c1, g = await take(store, count=9)
    assert (c1.type, parents(c1), parents(g)) == ("c1", ["A"], ["A"])
    await ack(store, g, result=b'"G"')
    await ack(store, c1, result=b'"C1"')
    [c2] = await take(store, count=9)
    assert parents(c2) == ["C1"]
    await ack(store, c2, result=b'"C2"')
    [z] = await take(store)
    assert parents(z) == ["A", ["C2", "G"]]
    await ack(store, z)
    assert await state_of(store, workflow) == "completed"


async def test_every_other_way_to_an_end_advances_a_workflow(store: Store, db: Any) -> None:
    shard = shard_of(store)
    ways: list[str] = []

    async def fresh(**options: Any) -> tuple[read_workflows.WorkflowRecord, str]:
        one = step(options={"queue": QUEUE, "max_attempts": 1, **options})
        workflow = await batch(store, [one], on_failure=step("back", f"back{len(ways)}"))
        ways.append(workflow.id)
        return workflow, job_ids(workflow)[0]

    _, cancelled_id = await fresh()
    await cancel(store, cancelled_id)
    _, lost_id = await fresh()
    await take(store)
    age_job(db, shard, lost_id, HOUR)
    await reap_all(store)
    _, slow_id = await fresh(timeout_ms=1000)
    await take(store)
    age_job(db, shard, slow_id, HOUR)
    await reap_all(store)
    _, expired_id = await fresh(expires_at="+PT1S")
    age_job(db, shard, expired_id, HOUR)
    await reap_all(store)
    _, late_id = await fresh(expires_at="+PT1S")
    age_job(db, shard, late_id, HOUR)
    assert await take(store) == []
    await fresh()
    assert (await purges.purge(store, QUEUE))[0] == 1
    await fresh(retry={"max_attempts": 1, "on_exhaustion": "dead_letter"})
    [dead] = await take(store)
    await nack(store, dead)
    await dead_letters.delete(store, dead.id)
    for number, workflow_id in enumerate(ways):
        assert await run_one(store, f"back{number}") == "back", number
        assert await state_of(store, workflow_id) == "failed"
    assert_no_effects(store, db)


async def test_a_dead_letter_run_again_does_not_change_how_its_workflow_ended(
    store: Store,
) -> None:
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    workflow = await chain(store, step(options={"queue": QUEUE, "retry": retry}), step())
    [job] = await take(store)
    await nack(store, job)
    await dead_letters.retry(store, job.id)
    await run_one(store)
    assert await take(store) == []
    assert await state_of(store, workflow) == "failed"


async def test_the_first_end_of_a_step_counts_while_its_workflow_goes_on(store: Store) -> None:
    retry = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    workflow = await group(store, step(options={"queue": QUEUE, "retry": retry}), step())
    first, second = await take(store, count=2)
    await nack(store, first)
    await dead_letters.retry(store, first.id)
    await run_one(store)
    await ack(store, second)

    assert await state_of(store, workflow) == "failed"
    assert await step_states(store, workflow) == ["failed", "completed"]


async def test_cancel_ends_waiting_jobs_and_lets_an_active_job_finish(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    workflow = await group(store, step(), step(), step())
    [running] = await take(store)
    cancelled = await workflows.cancel(store, workflow.id)
    assert cancelled.state == "cancelled"
    assert await take(store) == []
    await ack(store, running, worker_id="w1")
    assert await step_states(store, workflow) == ["completed", "cancelled", "cancelled"]
    assert await state_of(store, workflow) == "cancelled"
    with pytest.raises(Conflict):
        await workflows.cancel(store, workflow.id)
    assert_no_effects(store, db)
    consistent()


async def test_a_cancelled_chain_starts_nothing_when_its_active_step_ends(store: Store) -> None:
    workflow = await chain(store, step(), step())
    [running] = await take(store)
    await workflows.cancel(store, workflow.id)
    await ack(store, running)
    assert await take(store) == []
    with pytest.raises(NotFound):
        await read_jobs.get(store, job_ids(workflow)[1])


async def test_events_follow_the_workflow(store: Store) -> None:
    workflow = await make(store, type="chain", name='a "name"', steps=[step("a"), step("b")])
    await run_one(store)
    await run_one(store)
    page = await read_events(store, EventFilter(types=("workflow.*",)))
    seen = [json.loads(event) for event in page.events]
    assert [event["type"] for event in seen] == [
        "workflow.started",
        "workflow.step_completed",
        "workflow.step_completed",
        "workflow.completed",
    ]
    assert all(event["data"]["workflow_name"] == 'a "name"' for event in seen)
    assert [seen[1]["data"][name] for name in ("step_type", "steps_remaining")] == ["a", 1]
    assert seen[3]["subject"] == workflow.id
    assert seen[3]["data"]["duration_ms"] >= 0


async def test_a_workflow_is_removed_after_its_retention(store: Store, db: Any) -> None:
    workflow = await chain(store, step())
    await run_one(store, result=1)
    home = store.keys.shard_of_id(workflow.id)
    result = await workflows.purge_ended(store, home, 10)
    assert result.done == 0
    assert result.next_ms is not None
    db.zincrby(home.ended_workflows, -8 * DAY, workflow.id)
    assert (await workflows.purge_ended(store, home, 10)).done == 1
    for key in (home.workflow, home.workflow_definitions, home.workflow_results):
        assert not db.exists(key(workflow.id))
    assert await read_workflows.list_workflows(store, limit=10) == ([], 0, None)
    with pytest.raises(NotFound):
        await read_workflows.get(store, workflow.id)


async def test_jobs_of_a_workflow_are_removed_after_their_own_retention(
    store: Store, db: Any
) -> None:
    workflow = await chain(store, step())
    await run_one(store)
    age_job(db, shard_of(store), job_ids(workflow)[0], 8 * DAY)
    assert (await retention.purge_due(store, shard_of(store), 10)).done == 1
    assert (await step_states(store, workflow)) == ["completed"]


async def test_the_list_is_newest_first_and_in_pages(store: Store) -> None:
    made = [(await chain(store, step())).id for _ in range(5)]
    first, total, _ = await read_workflows.list_workflows(store, limit=2)
    rest, *_ = await read_workflows.list_workflows(store, limit=10, offset=2)
    assert total == 5
    assert {workflow.id for workflow in [*first, *rest]} == set(made)
    times = [workflow.created_ms for workflow in [*first, *rest]]
    assert times == sorted(times, reverse=True)


async def test_a_step_that_ended_is_recorded_at_once_though_the_reply_is_lost(
    store: Store, db: Any
) -> None:
    await chain(store, step("a"), step("b"))
    flaky, client = lossy(store, "workflow_record_outcome", times=1)

    assert await run_one(flaky) == "a"

    assert client.lost == ["workflow_record_outcome"]
    assert [job.type for job in await take(store)] == ["b"]
    assert_no_effects(store, db)
