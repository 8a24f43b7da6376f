"""A unique job that replaces another: one of the two is live at every moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel

from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses, queues
from ojs_cluster.store.features.retention.retention import retire_queues
from ojs_cluster.store.ground import job_fields as f
from tests.store.limit_jobs import keyed
from tests.store.shortcuts import (
    HOUR,
    ack,
    foreign_id,
    nack,
    new_job,
    queues_in_other_shards,
    sibling_queue,
    take,
)
from tests.store.unique_jobs import (
    age_lock,
    assert_nothing_left,
    keys_there,
    lock_of,
    once,
    recover,
)
from tests.support.failing_process import dies_at
from tests.support.invariants import InvariantReport
from tests.support.moments import Moment, at_moments
from tests.support.servers import hashes
from tests.support.timeshift import age_queue


@dataclass(frozen=True, slots=True)
class Lives:
    """What there is of one fingerprint at one moment: ids of live and prepared jobs."""

    live: frozenset[str]
    prepared: frozenset[str]

    @property
    def is_one(self) -> bool:
        """Whether one is live, or has ended while its successor is prepared."""
        return len(self.live) == 1 or (not self.live and len(self.prepared) == 1)


def lives(db: Any) -> Lives:
    """Read every job hash."""
    live: set[str] = set()
    prepared: set[str] = set()
    for key, job in hashes(db, "ojs:*:j:*").items():
        job_id = key.rpartition(b":")[2].decode()
        if f.STATE not in job or job[f.STATE].decode() in TERMINAL:
            continue
        (prepared if f.TRANSACTION in job else live).add(job_id)
    return Lives(frozenset(live), frozenset(prepared))


@dataclass(slots=True)
class Watch:
    """Reads the jobs after every command and keeps the results."""

    db: Any
    seen: list[Lives] = field(default_factory=list)
    others: frozenset[str] = frozenset()
    """Jobs that are not of the fingerprint."""

    def __call__(self) -> None:
        found = lives(self.db)
        self.seen.append(Lives(found.live - self.others, found.prepared))
        assert self.seen[-1].is_one, self.seen


Finish = Callable[[Store, Any, str], Awaitable[object]]


async def the_drainer(store: Store, db: Any, _prepared: str) -> None:
    await recover(store, db)


async def a_reader(store: Store, _db: Any, prepared: str) -> None:
    if prepared:
        assert (await read_jobs.get(store, prepared)).state == State.AVAILABLE


async def a_canceller(store: Store, _db: Any, prepared: str) -> None:
    """Cancelling the new job does not bring the old one back."""
    if prepared:
        assert (await cancel(store, prepared)).state == State.CANCELLED


async def another_producer(store: Store, db: Any, _prepared: str) -> None:
    age_lock(db, store, lock_of(store, db), 5_000)
    with trio.fail_after(60):
        assert (await once(store, on_conflict="ignore")).deduplicated


FINISHERS = (the_drainer, a_reader, a_canceller, another_producer)


def places(store: Store, where: str) -> tuple[str, str]:
    """Queues of the old job and of the new one."""
    one, other = queues_in_other_shards(store, 2)
    return one, {"queue": one, "shard": sibling_queue(store, one), "elsewhere": other}[where]


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("where", ["queue", "shard", "elsewhere"])
@pytest.mark.parametrize("finish", FINISHERS)
async def test_one_lives_whenever_the_producer_dies(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    where: str,
    applied: bool,
    finish: Finish,
) -> None:
    source, target = places(store, where)
    watch = Watch(db)
    at, died, hidden = 1, True, 0
    while died:
        old = await once(store, source)

        died = await dies_at(
            store, at, applied, partial(once, queue=target, on_conflict="replace"), watch
        )

        left = lives(db)
        assert left.is_one, at
        hidden += not left.live
        consistent()
        await finish(store, db, next(iter(left.prepared), ""))
        await recover(store, db)
        await recover(store, db, HOUR)
        after = lives(db)
        assert not after.prepared
        if finish is not a_canceller or not left.prepared:
            assert len(after.live) == 1
        if old.id not in after.live:
            assert (await read_jobs.get(store, old.id)).state == State.CANCELLED
        for job in await take(store, source, target, count=9):
            assert job.id in after.live
            await ack(store, job)
        await recover(store, db, HOUR)
        assert_nothing_left(store, db)
        consistent()
        at += 1
    prepared = [seen for seen in watch.seen if seen.prepared]
    assert prepared
    # In one shard there is no moment between the two.
    assert (hidden > 0) == (where == "elsewhere")
    assert any(not seen.live for seen in prepared) == (where == "elsewhere")


async def test_a_replacement_whose_idle_queue_is_retired_before_it_is_published_is_listed(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    idle, busy = queues_in_other_shards(store, 2)
    await once(store, busy)
    await pauses.pause_or_resume(store, idle, "pause")
    await pauses.pause_or_resume(store, idle, "resume")
    age_queue(db, store.keys.shard_of_queue(idle), idle, 2 * HOUR)
    retired = []

    async def retire(moment: Moment) -> None:
        if moment == Moment("before", "publish_job", 1):
            retired.append((await retire_queues(store))[0])

    await once(at_moments(store, retire), idle, on_conflict="replace")

    assert retired == [1]
    assert idle in [found.name for found in (await queues.list_queues(store, limit=9))[0]]
    consistent()


async def old_job(store: Store, state: str, queue: str) -> JobRecord:
    """Return a unique job in one of the states that conflict."""
    options: dict[str, Any] = {"scheduled": {"scheduled_at": "+PT1H"}, "pending": {"pending": True}}
    job = await once(store, queue, expires_at="+PT2H", timeout_ms=60_000, **options.get(state, {}))
    if state in ("active", "retryable"):
        [job] = await take(store, queue)
        if state == "retryable":
            job = await nack(store, job)
    assert job.state == state
    return job


@pytest.mark.parametrize("where", ["queue", "shard", "elsewhere"])
@pytest.mark.parametrize("old_state", ["available", "scheduled", "pending", "active", "retryable"])
@pytest.mark.parametrize("new_state", ["available", "scheduled", "pending"])
async def test_a_job_of_any_state_is_replaced_by_one_of_any_state(
    store: Store,
    db: Any,
    consistent: Callable[[], InvariantReport],
    where: str,
    old_state: str,
    new_state: str,
) -> None:
    source, target = places(store, where)
    options: dict[str, Any] = {"scheduled": {"scheduled_at": "+PT1H"}, "pending": {"pending": True}}
    old = await old_job(store, old_state, source)
    watch = Watch(db)
    answers: list[JobRecord] = []

    async def replace(mortal: Store) -> None:
        answers.append(
            await once(mortal, target, on_conflict="replace", **options.get(new_state, {}))
        )

    assert not await dies_at(store, 1000, False, replace, watch)

    assert answers[0].state == new_state
    assert answers[0].json() == (await read_jobs.get(store, answers[0].id)).json()
    assert (await read_jobs.get(store, old.id)).state == State.CANCELLED
    assert consistent().count() == {"cancelled": 1, new_state: 1}
    assert len(watch.seen) > 5


@pytest.mark.parametrize("where", ["queue", "shard", "elsewhere"])
async def test_a_job_held_back_by_its_rate_limit_is_replaced(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], where: str
) -> None:
    source, target = places(store, where)
    running = await keyed(store, "k", source, concurrency=1, type="first")
    await next_of(store, db, source)
    old = await keyed(store, "k", source, concurrency=1, unique={})
    assert await take(store, source) == []

    replacing = {"on_conflict": "replace"}
    watch = Watch(db, others=frozenset({running.id}))
    new = new_job(target, rate_limit={"key": "k", "concurrency": 1}, unique=replacing)
    assert not await dies_at(store, 1000, False, lambda s: enqueue(s, new), watch)

    assert (await read_jobs.get(store, old.id)).state == State.CANCELLED
    await ack(store, running)
    job = await next_of(store, db, target)
    assert job.id not in (old.id, running.id)
    await ack(store, job)
    consistent()


async def next_of(store: Store, db: Any, queue: str) -> JobRecord:
    """Fetch the next job of a queue; a fetch may first have to request a token."""
    with trio.fail_after(30):
        while not (taken := await take(store, queue)):
            await recover(store, db)
    return taken[0]


@pytest.mark.parametrize("applied", [False, True])
async def test_one_of_a_batch_that_replaces_lives_at_every_moment(
    store: Store, db: Any, consistent: Callable[[], InvariantReport], applied: bool
) -> None:
    """The batch replaces an existing job, and then its own."""
    one, other = queues_in_other_shards(store, 2)
    policy = {"on_conflict": "replace"}
    batch = [new_job(one, unique=policy), new_job(other, unique=policy)]
    watch = Watch(db)
    at, died = 1, True
    while died:
        await once(store, one)

        died = await dies_at(store, at, applied, lambda s: enqueue_many(s, batch), watch)

        assert lives(db).is_one, at
        await recover(store, db)
        await recover(store, db, HOUR)
        [left] = lives(db).live
        [taken] = await take(store, one, other, count=9)
        assert taken.id == left
        await ack(store, taken)
        await recover(store, db, HOUR)
        assert_nothing_left(store, db)
        consistent()
        at += 1
    assert at > 5


async def test_what_a_batch_replaces_itself_is_cancelled_from_the_beginning(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    own = foreign_id(store)
    policy = {"on_conflict": "replace"}

    first, second = await enqueue_many(
        store, [new_job(id=own, unique=policy), new_job(unique=policy)]
    )

    assert [first.state, second.state] == [State.CANCELLED, State.AVAILABLE]
    for job in (first, second):
        assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert consistent().count() == {"cancelled": 1, "available": 1}


async def test_a_prepared_job_without_a_transaction_is_removed(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """The record of the transaction is lost with its master: no job stays behind."""
    one, other = queues_in_other_shards(store, 2)
    at = 1
    while not lives(db).prepared:
        old = await once(store, one, on_conflict="ignore")
        await dies_at(store, at, True, partial(once, queue=other, on_conflict="replace"))
        at += 1
        if not lives(db).prepared:
            await recover(store, db, HOUR)
    [prepared] = lives(db).prepared
    there = keys_there(db)
    for shard in store.keys:
        for key in there:
            if key in (
                shard.outbox_due,
                shard.outbox,
                shard.applied_transactions,
            ) or key.startswith(shard.transaction("")):
                db.delete(key)

    await recover(store, db, HOUR)

    assert lives(db) == Lives(frozenset({old.id}), frozenset())
    assert not list(db.scan_iter(match=f"*{prepared}*", count=10_000))
    consistent()


async def test_events_say_that_the_old_one_ended_and_then_that_the_new_one_is_there(
    store: Store, db: Any
) -> None:
    old = await once(store)
    new = await once(store, on_conflict="replace")

    shard = store.keys.shard_of_id(old.id)
    events = [(event[b"t"], event[b"j"]) for _, event in db.xrange(shard.events)]

    assert events == [
        (b"job.enqueued", old.id.encode()),
        (b"job.cancelled", old.id.encode()),
        (b"job.enqueued", new.id.encode()),
    ]


async def test_a_reader_during_the_apply_step_does_not_change_the_outcome(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    """Readers apply the transaction beside the producer, after each of its commands."""
    one, other = queues_in_other_shards(store, 2)
    old = await once(store, one)
    outcomes: Counter[State] = Counter()

    async def step(mortal: Store) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_what_is_prepared)
            new = await once(mortal, other, on_conflict="replace")
            outcomes[(await read_jobs.get(store, new.id)).state] += 1
            nursery.cancel_scope.cancel()

    async def read_what_is_prepared() -> None:
        while True:
            for job_id in lives(db).prepared:
                await read_jobs.get(store, job_id)
            await trio.lowlevel.checkpoint()

    assert not await dies_at(store, 1000, False, step)

    assert outcomes == {State.AVAILABLE: 1}
    assert (await read_jobs.get(store, old.id)).state == State.CANCELLED
    assert consistent().count() == {"cancelled": 1, "available": 1}
