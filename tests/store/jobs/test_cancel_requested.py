"""A worker may finish its job after the workflow was cancelled; the job never runs again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.features.workflows import workflows
from tests.store.shortcuts import HOUR, QUEUE, nack, promote_all, reap_all, shard_of, take
from tests.store.workflow_jobs import assert_no_effects, chain, state_of, step, step_states
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job, age_worker

Attempt = Callable[[Store, Any, JobRecord], Awaitable[object]]


async def fails(store: Store, _db: Any, job: JobRecord) -> None:
    assert (await nack(store, job)).state is State.CANCELLED


async def is_given_back(store: Store, _db: Any, job: JobRecord) -> None:
    assert (await nack(store, job, requeue=True)).state is State.CANCELLED


async def was_never_delivered(store: Store, _db: Any, job: JobRecord) -> None:
    await release(store, [job])


async def loses_its_lease(store: Store, db: Any, job: JobRecord) -> None:
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)


async def takes_too_long(store: Store, db: Any, job: JobRecord) -> None:
    db.zadd(shard_of(store).execution_deadlines, {job.id: 1})
    await reap_all(store)


async def loses_its_worker(store: Store, db: Any, _job: JobRecord) -> None:
    home = store.keys.shard_of_worker("w1")
    for _ in range(3):
        await heartbeat(store, Heartbeat("w1"))
    age_worker(db, home, "w1", HOUR)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    await workers.recover(store, shard_of(store), [dead])


ENDS = (fails, is_given_back, was_never_delivered, loses_its_lease, takes_too_long)


@pytest.mark.parametrize("end", [*ENDS, loses_its_worker])
async def test_a_job_of_a_cancelled_workflow_does_not_run_again(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], end: Attempt
) -> None:
    one = step(options={"queue": QUEUE, "timeout_ms": 2 * HOUR, "max_attempts": 5})
    workflow = await chain(store, one, step())
    [running] = await take(store)
    await workflows.cancel(store, workflow.id)

    await end(store, db, running)

    job = await read_jobs.get(store, running.id)
    assert job.state is State.CANCELLED
    assert job.max_attempts == 5
    await promote_all(store)
    assert await take(store, count=9) == []
    assert await step_states(store, workflow) == ["cancelled", "cancelled"]
    assert await state_of(store, workflow) == "cancelled"
    assert_no_effects(store, db)
    consistent()


async def test_a_repeated_nack_gets_the_same_answer(store: Store) -> None:
    workflow = await chain(store, step())
    [running] = await take(store)
    await workflows.cancel(store, workflow.id)
    for _ in range(2):
        again = await nack(store, running, lease_id=running.lease_id)
        assert again.state is State.CANCELLED
    with pytest.raises(Conflict):
        await nack(store, running)


async def test_its_last_failure_is_one_and_a_dead_letter_runs_when_asked_to(store: Store) -> None:
    policy = {"max_attempts": 1, "on_exhaustion": "dead_letter"}
    workflow = await chain(store, step(options={"queue": QUEUE, "retry": policy}))
    [running] = await take(store)
    await workflows.cancel(store, workflow.id)
    assert (await nack(store, running)).state is State.DISCARDED

    await dead_letters.retry(store, running.id)
    [again] = await take(store)
    assert (await nack(store, again, requeue=True)).state is State.AVAILABLE
