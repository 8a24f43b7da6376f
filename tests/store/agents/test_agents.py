"""Agents in Redis: a paused agent's job is not fetched, wherever the pause finds it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.agents.record import HumanDecision
from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import release
from ojs_cluster.store.features.agents import agents
from ojs_cluster.store.features.progress import checkpoints
from tests.store.shortcuts import HOUR, QUEUE, ack, nack, promote_all, put, reap_all, shard_of, take
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

YES = HumanDecision(True, "go on")


async def state_of(store: Store, job_id: str) -> State:
    return (await read_jobs.get(store, job_id)).state


@pytest.mark.parametrize("kind", ["plain", "limited", "tenant"])
async def test_an_available_job_is_held_until_its_agent_is_resumed(
    store: Store, consistent: Callable[[], InvariantReport], kind: str
) -> None:
    limit: dict[str, Any] = {"rate_limit": {"key": "k", "concurrency": 5}}
    options = limit if kind == "limited" else {}
    tenant = {"meta": {"tenant_id": "acme"}} if kind == "tenant" else {}
    made = {"type": "a", "args": [], "options": {"queue": QUEUE, "expires_at": "+PT1H", **options}}
    job = await enqueue(store, parse_job(json.dumps({**made, **tenant}).encode()))
    await agents.pause(store, job.id, "wait")
    assert await state_of(store, job.id) is State.PENDING
    assert await take(store) == []
    with pytest.raises(Conflict, match="paused already"):
        await agents.pause(store, job.id, "again")
    with pytest.raises(Conflict, match="resume it"):
        await activate(store, job.id)
    consistent()
    await agents.resume(store, job.id, YES)
    assert await state_of(store, job.id) is State.AVAILABLE
    consistent()
    [taken] = await take(store)
    assert taken.id == job.id
    with pytest.raises(Conflict, match="not paused"):
        await agents.resume(store, job.id, YES)
    await ack(store, taken)
    consistent()


Ending = Callable[[Store, Any, Any], Any]


async def requeue(store: Store, _db: Any, job: Any) -> None:
    await nack(store, job, requeue=True)


async def give_back(store: Store, _db: Any, job: Any) -> None:
    await release(store, job)


async def fail(store: Store, db: Any, job: Any) -> None:
    await nack(store, job)
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)


async def fail_and_fall_due(store: Store, db: Any, job: Any) -> None:
    """The fetch itself promotes the job."""
    await nack(store, job)
    age_job(db, shard_of(store), job.id, HOUR)


async def lose_lease(store: Store, db: Any, job: Any) -> None:
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)


@pytest.mark.parametrize("ending", [requeue, give_back, fail, fail_and_fall_due, lose_lease])
async def test_an_attempt_may_end_and_the_next_fetch_holds_the_job(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], ending: Ending
) -> None:
    job = await put(store)
    [taken] = await take(store)
    await agents.pause(store, job.id, "approve the tool call")
    assert await state_of(store, job.id) is State.ACTIVE
    await ending(store, db, taken)
    other = await put(store)
    assert [each.id for each in await take(store, count=5)] == [other.id]
    assert await state_of(store, job.id) is State.PENDING
    consistent()
    await agents.resume(store, job.id, YES)
    assert [each.id for each in await take(store)] == [job.id]
    consistent()


async def test_a_running_attempt_of_a_paused_agent_may_complete(store: Store) -> None:
    job = await put(store)
    [taken] = await take(store)
    await agents.pause(store, job.id, "")
    await agents.resume(store, job.id, YES)
    await nack(store, taken, requeue=True)
    [taken] = await take(store)
    await agents.pause(store, job.id, "")
    await ack(store, taken)
    assert await state_of(store, job.id) is State.COMPLETED
    for change in (agents.pause(store, job.id, ""), agents.resume(store, job.id, YES)):
        with pytest.raises(Conflict, match="completed"):
            await change


async def test_a_resumed_job_keeps_its_own_schedule_and_activation(store: Store) -> None:
    scheduled = await put(store, scheduled_at="+PT1H")
    waiting = await put(store, pending=True)
    for job in (scheduled, waiting):
        await agents.pause(store, job.id, "")
        await agents.resume(store, job.id, YES)
    assert await state_of(store, scheduled.id) is State.SCHEDULED
    assert await state_of(store, waiting.id) is State.PENDING
    await agents.pause(store, waiting.id, "")
    await activate(store, waiting.id)
    assert await take(store) == []
    await agents.resume(store, waiting.id, YES)
    assert [each.id for each in await take(store)] == [waiting.id]


async def test_a_held_job_can_be_cancelled(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    job = await put(store)
    await agents.pause(store, job.id, "")
    await cancel(store, job.id)
    assert await state_of(store, job.id) is State.CANCELLED
    consistent()


async def test_many_held_jobs_do_not_stop_the_queue(store: Store) -> None:
    for _ in range(60):
        await put(store)
    for taken in await take(store, count=60):
        await agents.pause(store, taken.id, "")
        await nack(store, taken, requeue=True)
    other = await put(store)
    assert [each.id for each in await take(store)] == [other.id]


async def test_a_fork_hashes_the_turns_of_the_checkpoint(store: Store) -> None:
    job = await put(store)
    assert (await agents.fork(store, job.id, 0, "root")).digests == []
    with pytest.raises(Conflict, match="has 0 turns"):
        await agents.fork(store, job.id, 1, "")

    async def save(*turns: Any) -> None:
        state = json.dumps({"turns": turns}).encode()
        await checkpoints.save(store, job.id, state, worker_id=None, lease_id=None)

    await save("hello", "world")
    first = await agents.fork(store, job.id, 2, "first")
    await save("hello", "moon", "!")
    second = await agents.fork(store, job.id, 3, "second")
    assert first.content_id != second.content_id
    branch, conflicts = await agents.merge(store, job.id, "first", second.id, "theirs")
    assert conflicts == ["turn 2"]
    assert branch.digests == second.digests
    _, record = await agents.read(store, job.id)
    assert [each.name for each in record.branches] == ["root", "first", "second", ""]


async def test_concurrent_changes_are_all_kept(store: Store) -> None:
    job = await put(store)
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(agents.fork, store, job.id, 0, f"b{number}")
    _, record = await agents.read(store, job.id)
    assert {each.name for each in record.branches} == {f"b{number}" for number in range(8)}


async def test_an_unknown_job_has_no_agent(store: Store) -> None:
    missing = (await put(store)).id[:-4] + "0000"
    for change in (
        agents.pause(store, missing, ""),
        agents.resume(store, missing, YES),
        agents.fork(store, missing, 0, ""),
        agents.merge(store, missing, "a", "b", "ours"),
        agents.retry_tool(store, missing, "c", False),
        agents.read(store, missing),
    ):
        with pytest.raises(NotFound):
            await change


async def test_a_repeated_write_changes_nothing(store: Store) -> None:
    job = await put(store)
    await agents.pause(store, job.id, "")
    before = await read_jobs.get(store, job.id)
    record = before.fields[b"ag"]
    shard = shard_of(store)
    keys = [shard.job(job.id), shard.expiring, shard.pending, shard.events]
    reply = await store.run(shard, "agent_write", keys, [1000, b"", record, "pause"])
    assert reply[0] == b"ok"
    assert (await read_jobs.get(store, job.id)).fields == before.fields
    reply = await store.run(shard, "agent_write", keys, [1000, b"", b"{}", "pause"])
    assert reply[0] == b"changed"
