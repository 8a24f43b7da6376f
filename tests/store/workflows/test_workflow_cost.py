"""A step costs as many commands in a large workflow as in a small one, whatever runs beside it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import Any, cast

import pytest
import trio

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.features.workflows import advance
from tests.store.shortcuts import QUEUE, ack, new_job, take
from tests.store.workflow_jobs import (
    assert_no_effects,
    batch,
    chain,
    drain_all,
    group,
    home_of,
    run_one,
    state_of,
    step,
)
from tests.support.failing_process import dies_at
from tests.support.moments import Moment, at_moments

CHUNK = 5


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "_CHUNK", CHUNK)


def counting(store: Store, calls: Counter[str]) -> Store:
    """Return the store of a process that counts its calls of scripts."""

    async def count(moment: Moment) -> None:
        if moment.when == "before":
            calls[moment.script] += 1

    return at_moments(store, count)


async def scripts_of_an_ack(store: Store) -> Counter[str]:
    """Return which scripts the end of the next job of the queue calls."""
    [job] = await take(store)
    calls: Counter[str] = Counter()
    await ack(counting(store, calls), job, result=b"1")
    return calls


async def test_jobs_that_end_while_their_group_starts_start_nothing(
    store: Store, other_store: Store, db: Any
) -> None:
    acked: list[Counter[str]] = []

    async def end_some(moment: Moment) -> None:
        if moment.when == "after" and moment.script == "enqueue":  # not all are enqueued yet
            acked.extend([await scripts_of_an_ack(other_store) for _ in range(3)])

    starts: Counter[str] = Counter()
    starter = at_moments(counting(store, starts), end_some)
    workflow = await group(starter, *[step() for _ in range(4 * CHUNK)])

    assert len(acked) == 12
    assert all("enqueue" not in calls for calls in acked)
    assert starts["enqueue"] == 4
    assert starts["workflow_inputs"] == 4
    assert starts["workflow_record_enqueued"] == 5
    while taken := await take(store, count=100):
        async with trio.open_nursery() as nursery:
            for job in taken:
                nursery.start_soon(ack, store, job)
    assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)


async def test_a_starter_goes_on_where_a_dead_one_ended(store: Store, db: Any) -> None:
    jobs = [step() for _ in range(3 * CHUNK)]
    marks: set[int] = set()
    for at in itertools.count(2):
        died = await dies_at(store, at, True, lambda dying: group(dying, *jobs))
        calls: Counter[str] = Counter()
        await drain_all(counting(store, calls), db)

        taken = await take(store, count=100)
        assert len(taken) in (0, len(jobs))
        if taken:
            marks.add(calls["workflow_record_enqueued"] - calls["outbox_record_delivered"])
        for job in taken:
            await ack(store, job)
        if not died:
            break
    assert marks == {0, 1, 2, 3}, "the drainer starts the portions that are missing"
    assert_no_effects(store, db)


@pytest.mark.parametrize("kind", ["chain", "group", "batch"])
async def test_an_ack_calls_the_same_scripts_in_a_large_workflow(store: Store, kind: str) -> None:
    found: list[Counter[str]] = []
    for size in (6, 60, 300):
        steps = [step() for _ in range(size)]
        if kind == "batch":
            await batch(store, steps, on_success=step("good"), on_complete=step("end"))
        else:
            await {"chain": chain, "group": group}[kind](store, *steps)
        for _ in range(4):
            await run_one(store)
        found.append(await scripts_of_an_ack(store))
        while taken := await take(store, QUEUE, count=100):
            for job in taken:
                await ack(store, job)
    assert found[0] == found[1] == found[2]
    assert found[0].total() <= 6


async def commands_of_a_step(store: Store, queue: str) -> int:
    """Return how many commands one step costs, from its fetch on, those of scripts included."""

    async def commands() -> int:
        replies = await store.redis.call_masters("INFO", "commandstats")
        lines = b"".join(cast(bytes, reply) for reply in replies.values()).splitlines()
        stats = [line.partition(b":calls=")[2] for line in lines if line.startswith(b"cmdstat_")]
        return sum(int(each.partition(b",")[0]) for each in stats)

    before = await commands()
    await run_one(store, queue, 1)
    return await commands() - before


@pytest.mark.parametrize("kind", ["chain", "group"])
async def test_a_step_takes_as_many_commands_in_a_large_workflow(store: Store, kind: str) -> None:
    found: list[int] = []
    for size in (8, 300):
        queue = f"{kind}-{size}"
        await {"chain": chain, "group": group}[kind](store, *[step(queue=queue)] * size)
        for _ in range(size // 2):
            await run_one(store, queue, 1)
        found.append(min([await commands_of_a_step(store, queue) for _ in range(3)]))
    # A few more for what happens once in a minute; there are hundreds of jobs and results.
    assert abs(found[0] - found[1]) <= 10


async def test_remaining_steps_are_counted_once(store: Store, db: Any) -> None:
    """A version that does not know the count records some outcomes without it."""
    workflow = await group(store, *[step() for _ in range(5)])
    key = home_of(store, workflow).workflow(workflow.id)
    remaining: list[int] = []
    for number in range(5):
        job = (await take(store))[0]
        if number == 2:  # as that version would do
            db.hset(key, mapping={"node_statuses": "ccdqq", "t2": "1 2 1"})
            continue
        if number == 4:
            assert db.hget(key, "left") == b"1 %d" % db.hlen(key)
            db.hset(key, "left", b"71 %d" % db.hlen(key))  # it is not counted again
        await ack(store, job)
        last = db.xrevrange(home_of(store, workflow).events, count=2)
        data = next(event[b"D"] for _, event in last if event[b"t"].endswith(b"step_completed"))
        remaining.append(json.loads(b"{%b}" % data)["steps_remaining"])
    assert remaining == [4, 3, 1, 70]


async def test_a_starter_goes_on_after_a_step_that_a_dead_one_has_refused(
    store: Store, other_store: Store, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes start the workflow, and one dies when it has recorded the refused step."""
    monkeypatch.setattr(advance, "_CHUNK", 1)
    unique = {"keys": ["type"], "on_conflict": "ignore"}
    await enqueue(store, new_job("other", type="unique", unique=unique))
    dead = trio.CancelScope()

    async def die(moment: Moment) -> None:
        if moment == Moment("after", "workflow_record_outcome", 1):
            dead.cancel()

    async def begin_twice(moment: Moment) -> None:
        if moment == Moment("before", "enqueue", 1):
            [raw] = [raw for home in store.keys for raw in db.zrange(home.running_workflows, 0, -1)]
            with dead:
                await advance.on_created(at_moments(other_store, die), store.keys.shard(0), raw)

    steps = [step("unique", options={"unique": unique}), step("next")]
    starter = at_moments(store, begin_twice)
    workflow = await group(starter, step(), {"type": "chain", "steps": steps})
    assert dead.cancelled_caught
    assert sorted([await run_one(store), await run_one(store)]) == ["next", "step"]
    assert await state_of(store, workflow) == "completed"
    assert_no_effects(store, db)
