"""Bulk retry of discarded jobs: those that the filter admits, each once, page by page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, InvalidRequest
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import bulk_retry, dead_letters
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    foreign_id,
    nack,
    new_job,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
DEADLY: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
ALL = JobFilter()
DEAD = JobFilter(dead=True)


async def discard(store: Store, queue: str = QUEUE, *, dead: bool = False, **m: Any) -> JobRecord:
    options = DEADLY if dead else {"max_attempts": 1}
    return await nack(store, await active(store, queue, **{**options, **m}))


async def discard_at_once(store: Store, *, dead: int = 0, others: int = 0) -> None:
    """Make jobs that end in one script, so that jobs of one kind have the same scores."""
    wanted = [new_job(max_attempts=1)] * others + [new_job(**DEADLY)] * dead
    made = await enqueue_many(store, wanted)
    await take(store, count=len(made))
    failure = parse_failure(None)
    await nack_many(store, [Nack(job.id, None, failure, False) for job in made], worker_id="w1")


async def retry_all(store: Store, wanted: JobFilter) -> tuple[int, int]:
    """Call until no job is left; return the retried jobs and the number of calls."""
    retried, calls, cursor = 0, 0, None
    while True:
        done = await bulk_retry.retry_matching(store, wanted, cursor)
        retried, calls = retried + done.retried, calls + 1
        cursor = done.next_cursor
        if cursor is None:
            return retried, calls


async def states(store: Store, found: list[JobRecord]) -> list[State]:
    return [(await read_jobs.get(store, job.id)).state for job in found]


async def test_every_discarded_job_is_retried_once_and_nothing_else(
    store: Store, consistent: Check
) -> None:
    names = [*queues_in_other_shards(store, 3), QUEUE]
    meant = [await discard(store, name, dead=dead) for name in names for dead in (True, False)]
    meant.append(await discard(store, id=foreign_id(store)))
    others = [await ack(store, await active(store)), await cancel(store, (await active(store)).id)]
    others.append(await nack(store, await active(store)))
    before = await states(store, others)

    done = await bulk_retry.retry_matching(store, ALL)

    assert (done.matched, done.retried, done.failures, done.next_cursor) == (9, 9, [], None)
    assert set(await states(store, meant)) == {State.AVAILABLE}
    assert await states(store, others) == before
    assert (await bulk_retry.retry_matching(store, ALL)).matched == 0
    consistent()


async def test_the_filter_of_dead_letters_leaves_other_discarded_jobs_alone(
    store: Store, consistent: Check
) -> None:
    dead, gone = await discard(store, dead=True), await discard(store)
    for wanted in (DEAD, JobFilter(dead=True, queue=QUEUE)):
        assert (await bulk_retry.retry_matching(store, wanted)).matched == int(wanted == DEAD)
    assert await states(store, [dead, gone]) == [State.AVAILABLE, State.DISCARDED]
    consistent()


@pytest.mark.parametrize("dead", [True, False])
@pytest.mark.parametrize(
    "members", [{"queue": "one"}, {"type": "a.b"}, {"type": "a.*", "queue": "one"}]
)
async def test_jobs_that_the_filter_does_not_admit_stay(
    store: Store, dead: bool, members: dict[str, Any], consistent: Check
) -> None:
    made = [
        await discard(store, queue, type=kind, dead=dead)
        for queue in ("one", "two")
        for kind in ("a.b", "a.c", "c.d")
    ]
    wanted = JobFilter(dead=dead, **members)
    done = await bulk_retry.retry_matching(store, wanted)

    admitted = [job.id for job in made if wanted.admits(job)]
    assert 0 < done.retried == len(admitted) < len(made)
    for job in made:
        state = (await read_jobs.get(store, job.id)).state
        assert state is (State.AVAILABLE if job.id in admitted else State.DISCARDED)
    consistent()


async def test_times_filter_dead_letters_by_discard_and_others_by_creation(
    store: Store, db: Any
) -> None:
    old, young = await discard(store, dead=True), await discard(store, dead=True)
    age_job(db, shard_of(store), old.id, 2 * HOUR)
    db.hincrby(shard_of(store).job(young.id), "c", -5 * HOUR)
    died = (await read_jobs.get(store, young.id)).finished_ms or 0

    assert (await bulk_retry.retry_matching(store, JobFilter(since_ms=died - HOUR))).matched == 0
    done = await bulk_retry.retry_matching(store, JobFilter(dead=True, since_ms=died - HOUR))
    assert (done.retried, (await read_jobs.get(store, young.id)).state) == (1, State.AVAILABLE)
    done = await bulk_retry.retry_matching(store, JobFilter(dead=True, until_ms=died - HOUR))
    assert (done.retried, (await read_jobs.get(store, old.id)).state) == (1, State.AVAILABLE)


@pytest.mark.parametrize("dead", [True, False])
async def test_a_call_is_bounded_and_the_next_continues_where_it_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch, dead: bool, consistent: Check
) -> None:
    monkeypatch.setattr(bulk_retry, "MAX_RETRIED", 7)
    monkeypatch.setattr(bulk_retry, "MAX_EXAMINED", 150)
    # All of one score: a cursor that counted those that have left would pass over others.
    await discard_at_once(store, dead=60 * dead, others=60 * (not dead))
    kept = [await discard(store, "other", type="not.this", dead=dead) for _ in range(3)]

    first = await bulk_retry.retry_matching(store, JobFilter(dead=dead, type="mail.*"))
    assert (first.retried, first.next_cursor is not None) == (7, True)
    retried, calls = await retry_all(store, JobFilter(dead=dead, type="mail.*"))

    assert retried == 53
    assert calls >= 8
    assert set(await states(store, kept)) == {State.DISCARDED}
    assert consistent().count() == {"available": 60, "discarded": 3}


async def test_dead_letters_among_others_of_the_same_time_are_retried_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    monkeypatch.setattr(bulk_retry, "MAX_RETRIED", 25)
    settings = replace(store.settings, retention_dead_ms=store.settings.retention_discarded_ms)
    await discard_at_once(replace(store, settings=settings), dead=20, others=20)

    assert (await retry_all(store, ALL))[0] == 40
    assert consistent().count() == {"available": 40}


async def test_a_call_ends_when_its_time_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_retry, "MAX_DURATION_S", 0.0)
    await discard_at_once(store, dead=3)
    done = await bulk_retry.retry_matching(store, DEAD)

    assert (done.retried <= 1, done.next_cursor is not None) == (True, True)
    assert (await retry_all(store, DEAD))[0] + done.retried == 3


async def test_a_job_retried_by_another_call_is_counted_as_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await discard(store, dead=True), await discard(store, dead=True)
    original = dead_letters.retry

    async def late(found: Store, job_id: str, cause: Cause) -> JobRecord:
        if job_id == one.id:
            await original(found, job_id)
        return await original(found, job_id, cause)

    monkeypatch.setattr(dead_letters, "retry", late)
    done = await bulk_retry.retry_matching(store, DEAD)

    assert (done.matched, done.retried) == (2, 1)
    [(failed, reason)] = done.failures
    assert failed == one.id
    assert "dead letter" in reason
    assert (await read_jobs.get(store, two.id)).state is State.AVAILABLE


async def test_a_unique_job_that_was_retried_since_it_was_read_is_not_retried_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, consistent: Check
) -> None:
    job = await discard(store, dead=True, unique={"keys": ["type"], "period": "PT1H"})
    original = read_jobs.get

    async def late(found: Store, job_id: str) -> JobRecord:
        job = await original(found, job_id)
        monkeypatch.setattr(read_jobs, "get", original)
        await dead_letters.retry(store, job_id)
        await nack(store, (await take(store))[0])
        return job

    monkeypatch.setattr(read_jobs, "get", late)
    with pytest.raises(Conflict, match="retried since"):
        await dead_letters.retry_discarded(store, job.id, expected_replays=0)

    found = await read_jobs.get(store, job.id)
    assert (found.state, found.replays) == (State.DISCARDED, 1)
    consistent()


async def test_a_cursor_of_another_server_is_refused(store: Store) -> None:
    for cursor in ("x", "WzksMCwiIiwiMSIsMF0"):
        with pytest.raises(InvalidRequest, match="cursor"):
            await bulk_retry.retry_matching(store, ALL, cursor)
