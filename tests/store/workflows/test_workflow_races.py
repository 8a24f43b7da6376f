"""Workflows under concurrency, repetition and death between any two commands."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.errors import NotFound
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.workflows import advance, workflows
from ojs_cluster.store.features.workflows.read_workflows import WorkflowRecord
from tests.store.shortcuts import QUEUE, ack, nack, queues_in_other_shards, take
from tests.store.workflow_jobs import (
    assert_no_effects,
    batch,
    chain,
    drain_all,
    group,
    job_ids,
    run_one,
    state_of,
    step,
    step_states,
)
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport
from tests.support.lossy import lossy
from tests.support.moments import Moment, at_moments


@pytest.mark.parametrize("applied", [False, True])
async def test_an_ack_that_dies_while_its_workflow_is_cancelled_leaves_nothing_behind(
    store: Store, other_store: Store, db: Any, applied: bool
) -> None:
    """The acting process dies at each command; in between another cancels the workflow."""
    at, died = 2, True
    while died:
        workflow = await chain(store, step(), step("b", "next"))
        [job] = await take(store)
        died = await dies_at(store, at, applied, acking(job))
        if died:
            await workflows.cancel(other_store, workflow.id)
            await drain_all(store, db)
            assert await take(store, "next") == []
            assert await state_of(store, workflow) == "cancelled"
        assert_no_effects(store, db)
        at += 1


async def test_an_enqueue_that_overtakes_a_cancellation_is_cancelled(
    store: Store, other_store: Store, db: Any
) -> None:
    """The workflow is cancelled between the decision to enqueue and the enqueue itself."""
    workflow = await chain(store, step(), step("b", "next"))
    [job] = await take(store)

    async def overtake(moment: Moment) -> None:
        if moment == Moment("before", "enqueue", 1):
            await workflows.cancel(other_store, workflow.id)

    await ack(at_moments(store, overtake), job)
    assert (await read_jobs.get(store, job_ids(workflow)[1])).state == "cancelled"
    assert await take(store, "next") == []
    assert await state_of(store, workflow) == "cancelled"
    assert_no_effects(store, db)


async def test_a_death_after_an_enqueue_that_overtook_a_cancellation_leaves_no_job(
    store: Store, other_store: Store, db: Any
) -> None:
    """The cancellation does not see the job, and its producer does not live to take it back."""
    at, died, left = 2, True, 0
    while died:
        workflow = await chain(store, step(), step("b", "next"))
        [job] = await take(store)
        following = job_ids(workflow)[1]

        async def overtake(moment: Moment) -> None:
            if moment == Moment("before", "enqueue", 1):
                await workflows.cancel(other_store, workflow.id)  # noqa: B023 - awaited here

        died = await dies_at(at_moments(store, overtake), at, True, acking(job))
        if await state_of(store, workflow) != "cancelled":
            await workflows.cancel(other_store, workflow.id)
        elif died:
            left += db.zcard(store.keys.shard_of_id(following).queue_available("next"))
        await drain_all(store, db)
        assert await take(store, "next") == []
        assert_no_effects(store, db)
        at += 1
    assert left > 0


async def test_last_acks_at_once_call_back_once(store: Store, other_store: Store, db: Any) -> None:
    names = queues_in_other_shards(store, 4)
    for _ in range(10):
        workflow = await batch(
            store,
            [step(queue=name) for name in names],
            on_success=step("good", "back"),
            on_complete=step("end", "back"),
        )
        taken = [(await take(store, name))[0] for name in names]
        async with trio.open_nursery() as nursery:
            for i, job in enumerate(taken):
                nursery.start_soon(_ack, (store, other_store)[i % 2], job)
        back = await take(store, "back", count=9)
        assert Counter(job.type for job in back) == {"good": 1, "end": 1}
        async with trio.open_nursery() as nursery:
            for i, job in enumerate(back):
                nursery.start_soon(_ack, (store, other_store)[i % 2], job)
        assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)


async def test_effects_delivered_again_in_any_order_change_nothing(store: Store, db: Any) -> None:
    workflow = await batch(store, [step(), step()], on_complete=step("end", "back"))
    first, second = await take(store, count=2)
    await ack(store, first)
    await ack(store, second)
    payloads = [
        (job, f"{workflow.id} {n} {job.id} completed") for n, job in enumerate((first, second))
    ]
    for seed in range(5):
        random.Random(seed).shuffle(payloads)
        for job, payload in payloads:
            shard = store.keys.shard_of_id(job.id)
            await advance.on_job_ended(store, shard, payload.encode())
        await advance.on_created(store, shard, workflow.id.encode())
    [end] = await take(store, "back", count=9)
    await ack(store, end)
    for job, payload in payloads:
        await advance.on_job_ended(store, store.keys.shard_of_id(job.id), payload.encode())
    assert await take(store, "back") == []
    assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)


async def test_a_cancellation_at_any_moment_of_an_ack_has_one_outcome(
    store: Store, other_store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    endings: Counter[str] = Counter()
    struck = True
    for at in itertools.count(1):
        workflow = await chain(store, step("a"), step("b"))
        [job] = await take(store)
        struck, moments = False, itertools.count(1)

        async def strike(_: Moment) -> None:
            nonlocal struck
            if next(moments) == at:  # noqa: B023
                struck = True
                await workflows.cancel(other_store, workflow.id)  # noqa: B023

        await ack(at_moments(store, strike), job)
        if not struck:
            break
        assert await take(store) == []
        assert await state_of(store, workflow) == "cancelled"
        try:
            endings[(await read_jobs.get(store, job_ids(workflow)[1])).state] += 1
        except NotFound:
            endings["never"] += 1
    # The next step was not enqueued any more, or taken back; each at some moment.
    assert set(endings) == {"cancelled", "never"}
    assert_no_effects(store, db)
    consistent()


async def test_replies_lost_after_they_applied_change_nothing(store: Store, db: Any) -> None:
    names = [name for name in store.scripts if name.startswith("workflow_")]
    losing, client = lossy(store, *names, "enqueue", "outbox_record_delivered", times=1)
    workflow = await chain(losing, step(), step(options={"queue": QUEUE, "max_attempts": 1}))
    await run_one(losing)
    await drain_all(losing, db)
    await nack(losing, (await take(losing))[0])
    await drain_all(losing, db)
    assert {
        "workflow_create",
        "workflow_record_outcome",
        "workflow_record_enqueued",
        "workflow_end",
    } <= set(client.lost)
    assert await state_of(store, workflow) == "failed"
    assert_no_effects(store, db)


async def test_a_workflow_of_a_thousand_jobs_runs(store: Store, db: Any) -> None:
    workflow = await batch(store, [step()] * 999, on_success=step("end", "back"))
    seen = 0
    while taken := await take(store, count=100):
        seen += len(taken)
        async with trio.open_nursery() as nursery:
            for job in taken:
                nursery.start_soon(_ack, store, job)
    assert seen == 999
    await run_one(store, "back")
    assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)


def acking(job: JobRecord, result: bytes | None = None) -> Callable[[Store], Awaitable[object]]:
    return lambda dying: ack(dying, job, result=result)


def cancelling(workflow: WorkflowRecord) -> Callable[[Store], Awaitable[object]]:
    return lambda dying: workflows.cancel(dying, workflow.id)


def _in(queue: str) -> dict[str, Any]:
    return step(queue=queue)


async def _ack(store: Store, job: JobRecord) -> None:
    await ack(store, job, result=b"1")


async def test_a_step_that_ends_before_it_is_known_to_be_enqueued_has_ended(store: Store) -> None:
    async def end(moment: Moment) -> None:
        if moment == Moment("before", "workflow_record_enqueued", 2):
            await run_one(store)

    workflow = await group(at_moments(store, end), step(), step())
    await run_one(store)

    assert await step_states(store, workflow) == ["completed", "completed"]
    assert await state_of(store, workflow) == "completed"
