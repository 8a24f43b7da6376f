"""The lease: who may finish a job, for how long, and what losing it means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import release as release_strictly
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from tests.store.shortcuts import (
    HOUR,
    MINUTE,
    QUEUE,
    ack,
    active,
    envelope,
    home_id,
    nack,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


async def test_each_fetch_gives_a_new_lease(store: Store, consistent: Check) -> None:
    first = await active(store, worker="w1")
    await nack(store, first, requeue=True)
    [second] = await take(store, worker="w2")

    assert first.lease_id
    assert second.lease_id
    assert first.lease_id != second.lease_id
    assert (first.worker_id, second.worker_id) == ("w1", "w2")
    assert (first.attempt, second.attempt) == (1, 2)
    consistent()


async def test_jobs_of_one_fetch_have_different_leases(store: Store) -> None:
    for _ in range(3):
        await put(store)

    assert len({job.lease_id for job in await take(store, count=3)}) == 3


async def test_only_the_fetch_shows_the_lease(store: Store) -> None:
    job = await active(store)

    assert envelope(job, lease=True)["lease_id"] == job.lease_id
    assert "lease_id" not in envelope(await read_jobs.get(store, job.id))
    assert envelope(await read_jobs.get(store, job.id))["worker_id"] == "w1"


@pytest.mark.parametrize(
    ("options", "asked", "expected"),
    [
        ({}, None, 120_000),
        ({"visibility_timeout_ms": 3000}, None, 3000),
        ({"visibility_timeout_ms": 3000}, 45_000, 45_000),
        ({}, 45_000, 45_000),
    ],
)
async def test_the_lease_is_as_long_as_the_fetch_or_else_the_job_says(
    store: Store, db: Any, options: dict[str, Any], asked: int | None, expected: int
) -> None:
    await put(store, **options)
    [job] = await take(store, lease_ms=asked)

    deadline = db.zscore(shard_of(store).active, job.id)
    assert deadline - (job.started_ms or 0) == expected


async def test_stale_worker_cannot_finish_after_reap(
    store: Store, db: Any, consistent: Check
) -> None:
    stale = await active(store, worker="w1")
    age_job(db, shard_of(store), stale.id, HOUR)
    assert (await reap_all(store)).done == 1

    for who in ({"worker_id": "w1"}, {"lease_id": stale.lease_id}, {}):
        with pytest.raises(Conflict):
            await ack(store, stale, **who)
        with pytest.raises(Conflict):
            await nack(store, stale, **who)
    job = await read_jobs.get(store, stale.id)
    assert (job.state, job.attempt) == (State.AVAILABLE, 1)
    consistent()


@pytest.mark.parametrize(
    "who", [{"worker_id": "w1"}, {"lease_id": "stale"}, {"worker_id": "w2", "lease_id": "stale"}]
)
async def test_stale_worker_cannot_finish_the_next_workers_attempt(
    store: Store, db: Any, who: dict[str, str], consistent: Check
) -> None:
    stale = await active(store, worker="w1")
    age_job(db, shard_of(store), stale.id, HOUR)
    await reap_all(store)
    [fresh] = await take(store, worker="w2")
    if "lease_id" in who:
        who = {**who, "lease_id": stale.lease_id or ""}

    with pytest.raises(Conflict, match="another lease"):
        await ack(store, stale, **who)
    with pytest.raises(Conflict, match="another lease"):
        await nack(store, stale, **who)
    with pytest.raises(Conflict, match="another lease"):
        await nack(store, stale, requeue=True, **who)

    assert (await read_jobs.get(store, fresh.id)).fields == fresh.fields
    assert (await ack(store, fresh, lease_id=fresh.lease_id)).state is State.COMPLETED
    consistent()


async def test_the_same_worker_cannot_use_its_lost_lease(store: Store, db: Any) -> None:
    stale = await active(store, worker="w1")
    age_job(db, shard_of(store), stale.id, HOUR)
    await reap_all(store)
    [fresh] = await take(store, worker="w1")

    with pytest.raises(Conflict):
        await ack(store, stale, worker_id="w1", lease_id=stale.lease_id)
    await ack(store, fresh, worker_id="w1", lease_id=fresh.lease_id)


@pytest.mark.parametrize("timeout_ms", [None, 1000])
async def test_a_nack_after_the_lease_was_lost_is_no_repetition_of_one(
    store: Store, db: Any, timeout_ms: int | None
) -> None:
    job = await active(store, timeout_ms=timeout_ms, visibility_timeout_ms=MINUTE)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)

    with pytest.raises(Conflict):
        await nack(store, job, worker_id="w1", lease_id=job.lease_id)


async def test_an_anonymous_caller_is_served_only_while_the_job_is_active(
    store: Store,
) -> None:
    job = await active(store)

    assert (await ack(store, job)).state is State.COMPLETED
    with pytest.raises(Conflict, match="completed"):
        await ack(store, job)


async def test_a_job_fetched_anonymously_belongs_to_its_lease_alone(store: Store) -> None:
    job = await active(store, worker="")

    assert job.worker_id is None
    assert "worker_id" not in envelope(job)
    with pytest.raises(Conflict, match="another lease"):
        await ack(store, job, worker_id="w1")
    assert (await ack(store, job, lease_id=job.lease_id)).state is State.COMPLETED


@pytest.mark.parametrize("named_by", ["worker_id", "lease_id", "both"])
async def test_the_holder_that_repeats_its_ack_gets_the_stored_answer(
    store: Store, named_by: str, consistent: Check
) -> None:
    job = await active(store)
    who = {"worker_id": "w1", "lease_id": job.lease_id}
    if named_by != "both":
        who = {named_by: who[named_by]}
    first = await ack(store, job, result=b'{"a":1}', **who)
    again = await ack(store, job, result=b'{"other":2}', **who)

    assert again.json() == first.json()
    assert again.result == b'{"a":1}'
    consistent()


async def test_only_the_holder_can_repeat_its_ack(store: Store) -> None:
    job = await active(store)
    await ack(store, job, worker_id="w1")

    for who in ({"worker_id": "w2"}, {"lease_id": "lease_other"}, {}):
        with pytest.raises(Conflict, match="completed"):
            await ack(store, job, **who)
        with pytest.raises(Conflict, match="completed"):
            await nack(store, job, **who)
    with pytest.raises(Conflict, match="completed"):
        await nack(store, job, lease_id=job.lease_id)


async def test_a_lease_that_repeats_its_nack_gets_the_stored_answer(
    store: Store, consistent: Check
) -> None:
    job = await active(store)
    first = await nack(store, job, lease_id=job.lease_id)
    again = await nack(store, job, lease_id=job.lease_id)

    assert again.json() == first.json()
    assert len(again.errors()) == 1
    with pytest.raises(Conflict):
        await nack(store, job, worker_id="w1")
    consistent()


@pytest.mark.parametrize("state", [State.AVAILABLE, State.SCHEDULED, State.PENDING])
async def test_a_job_that_was_not_fetched_cannot_be_finished(store: Store, state: State) -> None:
    options: dict[State, dict[str, Any]] = {
        State.SCHEDULED: {"scheduled_at": "+PT1H"},
        State.PENDING: {"pending": True},
    }
    job = await put(store, **options.get(state, {}))

    with pytest.raises(Conflict, match=state.value):
        await ack(store, job)
    with pytest.raises(Conflict, match=state.value):
        await nack(store, job)
    found = await read_jobs.get(store, job.id)
    assert (found.state, found.attempt) == (state, 0)


async def test_an_unknown_id_is_not_found(store: Store) -> None:
    for job_id in (home_id(store), "nonsense", ""):
        with pytest.raises(NotFound):
            await ack(store, job_id)
        with pytest.raises(NotFound):
            await nack(store, job_id)
        with pytest.raises(NotFound):
            await cancel(store, job_id)


async def test_a_cancelled_job_refuses_its_workers_ack(store: Store, consistent: Check) -> None:
    job = await active(store)
    cancelled = await cancel(store, job.id)

    assert cancelled.state is State.CANCELLED
    shown = envelope(cancelled)
    assert shown["attempt"] == 1
    assert "started_at" in shown
    assert "completed_at" not in shown
    for act in (ack, nack):
        with pytest.raises(Conflict, match="cancelled"):
            await act(store, job, worker_id="w1", lease_id=job.lease_id)
    with pytest.raises(Conflict, match="cancelled"):
        await cancel(store, job.id)
    consistent()


# Lost leases


async def test_a_lost_lease_counts_the_attempt_and_records_an_error(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store)
    age_job(db, shard_of(store), job.id, HOUR)
    result = await reap_all(store)
    lost = await read_jobs.get(store, job.id)

    assert (result.done, result.more) == (1, False)
    assert (lost.state, lost.attempt) == (State.AVAILABLE, 1)
    [error] = envelope(lost)["errors"]
    assert error["code"] == error["type"] == "visibility_timeout"
    assert error["attempt"] == 1
    assert error["occurred_at"]
    assert "retry_delay_ms" not in envelope(lost)
    [again] = await take(store)
    assert again.attempt == 2
    consistent()


async def test_a_lease_that_has_not_ended_is_left_alone(store: Store, db: Any) -> None:
    job = await active(store)
    age_job(db, shard_of(store), job.id, 100_000)
    result = await reap_all(store)

    assert result.done == 0
    assert result.next_ms == db.zscore(shard_of(store).active, job.id)
    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE


@pytest.mark.parametrize("end", ["discard", "dead_letter"])
async def test_a_job_that_kills_its_workers_ends_with_its_attempts(
    store: Store, db: Any, end: str, consistent: Check
) -> None:
    job = await put(store, max_attempts=2, retry={"on_exhaustion": end})
    for attempt in (1, 2):
        [fetched] = await take(store)
        assert fetched.attempt == attempt
        age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store)

    last = await read_jobs.get(store, job.id)
    assert last.state is State.DISCARDED
    assert last.dead == (end == "dead_letter")
    assert [entry["attempt"] for entry in envelope(last)["errors"]] == [1, 2]
    assert await take(store) == []
    consistent()


async def test_a_job_without_attempts_is_discarded_at_its_first_lost_lease(
    store: Store, db: Any
) -> None:
    job = await active(store, max_attempts=0)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)

    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED


async def test_reap_takes_no_more_than_its_limit_and_says_so(
    store: Store, db: Any, consistent: Check
) -> None:
    for _ in range(5):
        age_job(db, shard_of(store), (await active(store)).id, HOUR)

    results = [await reap_all(store, limit=2) for _ in range(3)]

    assert [(result.done, result.more) for result in results] == [(2, True), (2, True), (1, False)]
    assert consistent().count() == {"available": 5}


# Heartbeats


async def test_a_heartbeat_extends_by_the_leases_own_length(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store, visibility_timeout_ms=2 * HOUR)
    age_job(db, shard_of(store), job.id, HOUR)
    reply = await heartbeat(store, Heartbeat("w1", (job.id,)))

    assert reply.extended == [job.id]
    assert reply.state == "running"
    deadline = db.zscore(shard_of(store).active, job.id)
    assert deadline == pytest.approx(reply.now_ms + 2 * HOUR, abs=MINUTE)
    consistent()


async def test_a_heartbeat_may_ask_for_another_length(store: Store, db: Any) -> None:
    job = await active(store)
    reply = await heartbeat(store, Heartbeat("w1", (job.id,), visibility_timeout_ms=HOUR))

    deadline = db.zscore(shard_of(store).active, job.id)
    assert deadline == pytest.approx(reply.now_ms + HOUR, abs=MINUTE)


async def test_heartbeats_extend_jobs_of_many_shards_at_once(store: Store) -> None:
    held = [await active(store, f"q{number}") for number in range(20)]

    reply = await heartbeat(store, Heartbeat("w1", [job.id for job in held]))

    assert reply.extended == [job.id for job in held]


async def test_a_heartbeat_of_a_non_holder_extends_and_creates_nothing(
    store: Store, db: Any, consistent: Check
) -> None:
    held = await active(store, worker="w1")
    waiting = await put(store)
    unknown = home_id(store)
    before = db.zscore(shard_of(store).active, held.id)
    for worker in ("w2", "w3"):
        reply = await heartbeat(
            store,
            Heartbeat(worker, (held.id, waiting.id, unknown, "nonsense"), visibility_timeout_ms=1),
        )
        assert reply.extended == []

    assert db.zscore(shard_of(store).active, held.id) == before
    assert not db.exists(shard_of(store).job(unknown))
    consistent()


async def test_a_heartbeat_with_a_stale_lease_is_left_out(store: Store, db: Any) -> None:
    stale = await active(store)
    age_job(db, shard_of(store), stale.id, HOUR)
    await reap_all(store)
    [fresh] = await take(store)

    reply = await heartbeat(
        store, Heartbeat("w1", (fresh.id,), leases={fresh.id: stale.lease_id or ""})
    )
    assert reply.extended == []
    reply = await heartbeat(
        store, Heartbeat("w1", (fresh.id,), leases={fresh.id: fresh.lease_id or ""})
    )
    assert reply.extended == [fresh.id]


async def test_a_heartbeat_after_the_ack_does_not_bring_the_lease_back(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store)
    await ack(store, job)

    assert (await heartbeat(store, Heartbeat("w1", (job.id,)))).extended == []
    assert db.zscore(shard_of(store).active, job.id) is None
    consistent()


# Execution timeouts


async def test_heartbeats_do_not_move_the_execution_timeout(
    store: Store, db: Any, consistent: Check
) -> None:
    shard = shard_of(store)
    job = await active(store, timeout_ms=10 * MINUTE)
    timeout = db.zscore(shard.execution_deadlines, job.id)
    assert timeout == (job.started_ms or 0) + 10 * MINUTE
    await heartbeat(store, Heartbeat("w1", (job.id,), visibility_timeout_ms=HOUR))

    assert db.zscore(shard.execution_deadlines, job.id) == timeout
    age_job(db, shard, job.id, 11 * MINUTE)
    assert (await reap_all(store)).done == 1
    consistent()


async def test_an_execution_timeout_fails_the_attempt_with_backoff(
    store: Store, db: Any, consistent: Check
) -> None:
    policy = {"initial_interval": "PT4M", "jitter": False}
    job = await active(store, timeout_ms=2000, visibility_timeout_ms=HOUR, retry=policy)
    age_job(db, shard_of(store), job.id, 2500)
    assert (await reap_all(store)).done == 1
    failed = await read_jobs.get(store, job.id)

    assert failed.state is State.RETRYABLE
    assert failed.retry_delay_ms == 4 * MINUTE
    error = envelope(failed)["error"]
    assert (error["code"], error["type"], error["attempt"]) == ("timeout", "timeout", 1)
    assert error["details"]["timeout_kind"] == "execution"
    assert error["details"]["limit_seconds"] == 2
    assert error["details"]["elapsed_seconds"] >= 2.5
    with pytest.raises(Conflict):
        await ack(store, job, worker_id="w1", lease_id=job.lease_id)
    with pytest.raises(Conflict):
        await nack(store, job, worker_id="w1", lease_id=job.lease_id)
    consistent()


async def test_a_timeout_at_the_last_attempt_discards(store: Store, db: Any) -> None:
    job = await active(store, timeout_ms=2000, max_attempts=1)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)

    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED


async def test_a_timeout_and_a_lost_lease_at_once_are_one_failure(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store, timeout_ms=2000, visibility_timeout_ms=1000)
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)

    assert len((await read_jobs.get(store, job.id)).errors()) == 1
    consistent()


# Hand-backs


async def test_requeue_keeps_the_attempt_and_records_no_failure(
    store: Store, consistent: Check
) -> None:
    job = await active(store)
    await put(store)
    back = await nack(store, job, {"code": "x", "retryable": False}, requeue=True)

    assert (back.state, back.attempt) == (State.AVAILABLE, 1)
    assert back.errors() == []
    other, again = await take(store, count=2)
    assert (again.id, again.attempt) == (job.id, 2)
    assert other.attempt == 1
    consistent()


async def test_release_undoes_the_fetch_and_goes_to_the_front(
    store: Store, consistent: Check
) -> None:
    first = await put(store)
    second = await put(store)
    urgent = await put(store, priority=1)
    await release(store, await take(store, count=2))

    back = await read_jobs.get(store, first.id)
    shown = envelope(back)
    assert (shown["state"], shown["attempt"]) == ("available", 0)
    assert shown["enqueued_at"] == shown["created_at"]
    assert "started_at" not in shown
    assert "errors" not in shown
    order = [job.id for job in await take(store, QUEUE, count=3)]
    assert order == [urgent.id, first.id, second.id]
    consistent()


async def test_release_of_a_later_attempt_keeps_the_earlier_ones(store: Store) -> None:
    await nack(store, await active(store), requeue=True)
    fetched = await take(store)
    await release(store, fetched)

    back = await read_jobs.get(store, fetched[0].id)
    assert back.attempt == 1
    assert "started_at" in envelope(back)


async def test_release_of_a_lease_that_is_over_changes_nothing(store: Store, db: Any) -> None:
    [old] = [await active(store)]
    age_job(db, shard_of(store), old.id, HOUR)
    await reap_all(store)
    [fresh] = await take(store, worker="w2")

    with pytest.raises(Conflict):
        await release_strictly(store, old)
    await release(store, [old])
    assert (await read_jobs.get(store, old.id)).fields == fresh.fields
