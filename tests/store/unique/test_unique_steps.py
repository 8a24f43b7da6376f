"""Workflow steps that are unique jobs: what their policies mean there, also after crashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows import read_workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from ojs_cluster.store.features.workflows.unique_steps import enqueue_step
from tests.store.shortcuts import HOUR, ack, new_job, queues_in_other_shards, take
from tests.store.unique_jobs import assert_nothing_left, once, recover
from tests.store.workflow_jobs import (
    assert_no_effects,
    chain,
    drain_all,
    job_ids,
    parents,
    state_of,
    step,
    step_states,
)
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport


def unique_step(queue: str, **policy: Any) -> dict[str, Any]:
    return step("only", options={"queue": queue, "unique": policy})


async def finish(store: Store, *queues: str) -> list[JobRecord]:
    """Complete all jobs, and the jobs that follow."""
    done: list[JobRecord] = []
    while taken := await take(store, *queues, count=9):
        for job in taken:
            await ack(store, job, result=b'"done"')
        done += taken
    return done


@pytest.fixture
def places(store: Store) -> list[str]:
    return queues_in_other_shards(store, 3)


async def test_a_step_without_a_conflict_is_an_ordinary_job(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], places: list[str]
) -> None:
    workflow = await chain(
        store, step("first", places[0]), unique_step(places[1]), step("last", places[2])
    )

    done = await finish(store, *places)

    assert [job.type for job in done] == ["first", "only", "last"]
    assert [job.id for job in done] == job_ids(workflow)
    assert parents(done[2]) == ["done", "done"]
    assert await state_of(store, workflow) == "completed"
    assert_nothing_left(store, db)
    assert_no_effects(store, db)
    consistent()


async def test_a_rejected_step_has_failed_and_says_why(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], places: list[str]
) -> None:
    there = await once(store, places[0], type="only")

    workflow = await chain(store, unique_step(places[1]), step("last", places[2]))

    assert await state_of(store, workflow) == "failed"
    first, last = (await read_workflows.get(store, workflow.id)).jobs
    assert (first.state, last.state) == ("failed", "cancelled")
    error = json.loads(first.error or b"")
    assert (error["code"], error["details"]["existing_job_id"]) == ("duplicate", there.id)
    assert there.id in error["message"]
    with pytest.raises(NotFound):
        await read_jobs.get(store, job_ids(workflow)[0])
    assert [job.id for job in await finish(store, *places)] == [there.id]
    await recover(store, db, HOUR)
    assert_nothing_left(store, db)
    assert_no_effects(store, db)
    consistent()


async def test_an_ignored_step_is_completed_without_a_result(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], places: list[str]
) -> None:
    there = await once(store, places[0], type="only")
    policy = {"on_conflict": "ignore"}

    workflow = await chain(store, unique_step(places[1], **policy), step("last", places[2]))

    assert await step_states(store, workflow) == ["completed", "pending"]
    [last] = await take(store, places[2])
    assert parents(last) == [None]
    await ack(store, last)
    assert await state_of(store, workflow) == "completed"
    assert [job.id for job in await finish(store, *places)] == [there.id]
    await recover(store, db, HOUR)
    assert_nothing_left(store, db)
    consistent()


@pytest.mark.parametrize("how", ["replace", "replace_except_schedule"])
async def test_a_step_may_replace_a_job_and_be_replaced(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], places: list[str], how: str
) -> None:
    there = await once(store, places[0], type="only")

    workflow = await chain(store, unique_step(places[1], on_conflict=how), step("last", places[2]))

    assert (await read_jobs.get(store, there.id)).state is State.CANCELLED
    await once(store, places[0], type="only", on_conflict="replace")
    assert await state_of(store, workflow) == "failed"
    [left] = await finish(store, *places)
    assert left.type == "only"
    assert_nothing_left(store, db)
    assert_no_effects(store, db)
    consistent()


@pytest.mark.parametrize("policy", ["reject", "ignore"])
async def test_a_refusal_is_final_after_the_conflict_is_over(
    store: Store, db: Any, places: list[str], policy: str
) -> None:
    there = await once(store, places[0], type="only")
    workflow = await chain(store, unique_step(places[1], on_conflict=policy))
    await cancel_and_free(store, there)

    job = new_job(places[1], type="only", unique={"on_conflict": policy})
    again = await enqueue_step(store, job_ids(workflow)[0], job, (), store_before_ms=0)

    assert again is not None
    assert again.ignored == (policy == "ignore")
    assert await take(store, *places, count=9) == []


async def cancel_and_free(store: Store, job: JobRecord) -> None:
    [taken] = await take(store, job.queue)
    await ack(store, taken)


async def test_a_replacing_step_that_comes_too_late_is_refused(store: Store) -> None:
    existing = await once(store)
    job_id = store.ids.new(0, store.clock.now_ms())
    job = new_job(unique={"on_conflict": "replace"})

    with pytest.raises(Conflict, match="too late"):
        await enqueue_step(store, job_id, job, (), store_before_ms=1)

    assert (await read_jobs.get(store, existing.id)).state is State.AVAILABLE


@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
async def test_a_step_that_comes_too_late_is_refused_and_holds_no_lock(
    store: Store, db: Any, policy: str
) -> None:
    job_id, job = store.ids.new(0, store.clock.now_ms()), new_job(unique={"on_conflict": policy})

    with pytest.raises(Conflict, match="too late"):
        await enqueue_step(store, job_id, job, (), store_before_ms=1)

    assert_nothing_left(store, db)
    assert (await once(store)).deduplicated is False


async def test_a_repetition_after_the_job_is_stored_refuses_nothing(
    store: Store, places: list[str]
) -> None:
    for policy in ("reject", "ignore", "replace", "replace_except_schedule"):
        workflow = await chain(store, unique_step(places[1], on_conflict=policy))
        job = new_job(places[1], type="only", unique={"on_conflict": policy})
        job_id = job_ids(workflow)[0]
        assert await enqueue_step(store, job_id, job, (), store_before_ms=0) is None
        [taken] = await take(store, places[1], count=9)
        assert taken.id == job_id
        assert await enqueue_step(store, job_id, job, (), store_before_ms=0) is None
        await ack(store, taken)
        assert await enqueue_step(store, job_id, job, (), store_before_ms=0) is None
        assert await take(store, places[1]) == []
        assert await state_of(store, workflow) == "completed"


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("policy", ["reject", "ignore", "replace"])
@pytest.mark.parametrize("contested", [False, True])
async def test_a_process_may_die_at_any_command_before_a_unique_step(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    places: list[str],
    policy: str,
    applied: bool,
    contested: bool,
) -> None:
    at, died = 1, True
    while died:
        there = await once(store, places[0], type="only") if contested else None
        workflow = await chain(
            store, step("first", places[2]), unique_step(places[1], on_conflict=policy)
        )
        [first] = await take(store, places[2])

        async def acking(mortal: Store, job: JobRecord = first) -> None:
            await ack(mortal, job, worker_id="w1")

        died = await dies_at(store, at, applied, acking)

        await drain_all(store, db)
        if died and await state_of(store, workflow) == "running":
            for job in await take(store, places[2]):
                await ack(store, job)
            # The ack was not applied: the worker repeats it.
            await repeat(store, first)
            await drain_all(store, db)
        assert await outcome(store, workflow, places) == expected(policy, contested), at
        if there is not None and policy == "replace":
            assert (await read_jobs.get(store, there.id)).state is State.CANCELLED
        await recover(store, db, HOUR)
        assert_nothing_left(store, db)
        assert_no_effects(store, db)
        consistent()
        at += 1
    assert at > 4


async def repeat(store: Store, job: JobRecord) -> None:
    if (await read_jobs.get(store, job.id)).state is State.ACTIVE:
        await ack(store, job)


async def outcome(store: Store, workflow: WorkflowRecord, places: list[str]) -> tuple[str, int]:
    """How the workflow ends, and how many jobs of the uniqueness ran."""
    ran = await finish(store, *places)
    return await state_of(store, workflow), len(ran)


def expected(policy: str, contested: bool) -> tuple[str, int]:
    return ("failed" if contested and policy == "reject" else "completed"), 1
