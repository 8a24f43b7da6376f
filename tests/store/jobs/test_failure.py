"""What a failed attempt becomes, and what of the errors is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.errors import PayloadTooLarge
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from tests.store.shortcuts import (
    DAY,
    HOUR,
    MINUTE,
    ack,
    active,
    envelope,
    nack,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job, age_worker

Check = Callable[[], InvariantReport]
FIXED = {"initial_interval": "PT1M", "jitter": False}


async def test_a_failure_waits_for_its_backoff(store: Store, consistent: Check) -> None:
    job = await active(store, retry=FIXED)
    failed = await nack(store, job, {"code": "E1", "message": "no"})
    shown = envelope(failed)

    assert failed.state is State.RETRYABLE
    assert (shown["attempt"], shown["retry_delay_ms"]) == (1, MINUTE)
    assert shown["next_attempt_at"]
    assert shown["error"] == shown["errors"][-1]
    assert shown["error"]["code"] == "E1"
    assert "completed_at" not in shown
    assert await take(store) == []
    consistent()


async def test_delays_grow_and_are_shown_by_the_next_fetch(store: Store, db: Any) -> None:
    job = await put(store, max_attempts=4, retry=FIXED)
    for delay in (MINUTE, 2 * MINUTE, 4 * MINUTE):
        [fetched] = await take(store)
        failed = await nack(store, fetched)
        assert failed.retry_delay_ms == delay
        age_job(db, shard_of(store), job.id, delay)
    [last] = await take(store)

    assert envelope(last)["retry_delay_ms"] == 4 * MINUTE
    assert "next_attempt_at" not in envelope(last)


async def test_jitter_stays_within_half_and_one_and_a_half(store: Store) -> None:
    hourly = {"initial_interval": "PT1H", "max_interval": "PT10H"}
    delays = set()
    for _ in range(30):
        delays.add((await nack(store, await active(store, retry=hourly))).retry_delay_ms)

    assert all(HOUR <= (delay or 0) * 2 <= 3 * HOUR for delay in delays)
    assert len(delays) > 20


@pytest.mark.parametrize(
    ("retry", "error"),
    [
        ({"max_attempts": 1}, {"message": "x"}),
        ({"max_attempts": 0}, {"message": "x"}),
        ({}, {"message": "x", "retryable": False}),
        ({"non_retryable_errors": ["Fatal"]}, {"type": "Fatal"}),
        ({"non_retryable_errors": ["Auth.*"]}, {"code": "Auth.Expired"}),
        ({"non_retryable_errors": ["Auth.*"]}, {"details": {"error_class": "AuthError"}}),
        ({}, {"code": "DISCARD"}),
        ({}, {"action": "FAIL"}),
    ],
)
@pytest.mark.parametrize("end", ["discard", "dead_letter"])
async def test_the_last_failure_ends_the_job_as_its_policy_says(
    store: Store, retry: dict[str, Any], error: Any, end: str, consistent: Check
) -> None:
    job = await active(store, retry={**retry, "on_exhaustion": end})
    ended = await nack(store, job, error)
    shown = envelope(ended)

    assert (ended.state, ended.attempt) == (State.DISCARDED, 1)
    decided = "action" in error or error.get("code") == "DISCARD"
    assert ended.dead == (end == "dead_letter" and not decided)
    assert shown["completed_at"] == shown["discarded_at"]
    assert "retry_delay_ms" not in shown
    assert "next_attempt_at" not in shown
    consistent()


async def test_a_handler_may_ask_for_a_dead_letter(store: Store, consistent: Check) -> None:
    ended = await nack(store, await active(store), {"action": "DEAD_LETTER"})

    assert (ended.state, ended.dead) == (State.DISCARDED, True)
    consistent()


async def test_a_handlers_decision_holds_for_its_attempt_alone(
    store: Store, consistent: Check
) -> None:
    dead = await nack(store, await active(store), {"action": "DEAD_LETTER"})
    await dead_letters.retry(store, dead.id)
    [again] = await take(store)

    ended = await nack(store, again, {"message": "x", "retryable": False})

    assert (ended.state, ended.dead) == (State.DISCARDED, False)
    consistent()


async def times_out(store: Store, db: Any, job: JobRecord) -> None:
    db.zadd(shard_of(store).execution_deadlines, {job.id: 1})
    await reap_all(store)


async def loses_its_lease(store: Store, db: Any, job: JobRecord) -> None:
    age_job(db, shard_of(store), job.id, HOUR)
    await reap_all(store)


async def loses_its_worker(store: Store, db: Any, job: JobRecord) -> None:
    assert job.worker_id
    home = store.keys.shard_of_worker(job.worker_id)
    for _ in range(3):
        await heartbeat(store, Heartbeat(job.worker_id))
    age_worker(db, home, job.worker_id, HOUR)
    [lost], _, _ = await workers.find_dead(store, home, 10)
    await workers.recover(store, shard_of(store), [lost])
    await workers.finish_recovery(store, home, lost)


KINDS = [
    ("timeout", times_out, State.RETRYABLE),
    ("visibility_timeout", loses_its_lease, State.AVAILABLE),
    ("worker_lost", loses_its_worker, State.AVAILABLE),
]


@pytest.mark.parametrize(("kind", "fails", "_otherwise"), KINDS)
@pytest.mark.parametrize("end", ["discard", "dead_letter"])
async def test_a_policy_may_name_what_the_server_finds(
    store: Store, db: Any, kind: str, fails: Any, _otherwise: State, end: str, consistent: Check
) -> None:
    store = replace(store, settings=replace(store.settings, dead_letter_max=1))
    policy = {"non_retryable_errors": ["other", kind], "on_exhaustion": end}
    for worker in ("w1", "w2"):
        job = await active(store, worker=worker, retry=policy, timeout_ms=2 * HOUR)
        await fails(store, db, job)
        ended = await read_jobs.get(store, job.id)
        assert (ended.state, ended.attempt, ended.dead) == (State.DISCARDED, 1, end != "discard")
        assert envelope(ended)["error"]["type"] == kind
    assert (await dead_letters.list_dead_letters(store, limit=9))[1] == (end == "dead_letter")
    consistent()


@pytest.mark.parametrize(("kind", "fails", "otherwise"), KINDS)
async def test_what_the_server_finds_is_retried_unless_it_is_named(
    store: Store, db: Any, kind: str, fails: Any, otherwise: State, consistent: Check
) -> None:
    names = ["handler_error", *({name for name, _, _ in KINDS} - {kind})]
    job = await active(store, retry={"non_retryable_errors": names}, timeout_ms=2 * HOUR)
    await fails(store, db, job)
    failed = await read_jobs.get(store, job.id)
    assert failed.state is otherwise
    assert envelope(failed)["error"]["type"] == envelope(failed)["error"]["code"] == kind
    consistent()


async def test_a_name_that_only_resembles_a_pattern_is_retried(store: Store) -> None:
    policy = {"non_retryable_errors": ["Auth.*", "Fatal"]}
    for error in ({"type": "Auth"}, {"type": "FatalError"}, {"type": "fatal"}):
        assert (
            await nack(store, await active(store, retry=policy), error)
        ).state is State.RETRYABLE


async def test_success_clears_the_error_and_keeps_the_history(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store, retry=FIXED)
    await nack(store, job)
    age_job(db, shard_of(store), job.id, HOUR)
    [again] = await take(store)
    shown = envelope(await ack(store, again, result=b'{"n":12345678901234567890,"f":1.0}'))

    assert "error" not in shown
    assert len(shown["errors"]) == 1
    assert "retry_delay_ms" not in shown
    assert shown["completed_at"]
    assert (
        b'"result":{"n":12345678901234567890,"f":1.0}'
        in (await read_jobs.get(store, job.id)).json()
    )
    consistent()


async def fail_times(store: Store, db: Any, job_id: str, times: range) -> None:
    for number in times:
        [fetched] = await take(store)
        assert fetched.id == job_id
        await nack(store, fetched, {"code": f"E{number}"})
        age_job(db, shard_of(store), job_id, HOUR)
        await promote_all(store)


async def codes(store: Store, job_id: str) -> list[str]:
    return [
        error["code"] for error in envelope(await read_jobs.get(store, job_id)).get("errors", [])
    ]


async def test_the_ten_newest_errors_are_kept_oldest_first(store: Store, db: Any) -> None:
    job = await put(store, max_attempts=100)
    await fail_times(store, db, job.id, range(1, 24))

    shown = envelope(await read_jobs.get(store, job.id))
    assert [error["code"] for error in shown["errors"]] == [f"E{n}" for n in range(14, 24)]
    assert [error["attempt"] for error in shown["errors"]] == list(range(14, 24))
    assert shown["error"]["code"] == "E23"


@pytest.mark.parametrize(("before", "after"), [(10, 3), (3, 10), (10, 1), (1, 5)])
async def test_errors_stay_in_order_when_the_number_kept_changes(
    store: Store, db: Any, before: int, after: int
) -> None:
    job = await put(store, max_attempts=100)
    with_kept = replace(store, settings=replace(store.settings, errors_kept=before))
    await fail_times(with_kept, db, job.id, range(1, 13))
    with_kept = replace(store, settings=replace(store.settings, errors_kept=after))
    await fail_times(with_kept, db, job.id, range(13, 19))

    kept = [int(code[1:]) for code in await codes(store, job.id)]
    assert kept == sorted(kept)
    assert kept[-min(after, 6) :] == list(range(19 - min(after, 6), 19))
    assert len(kept) <= after


async def test_an_error_is_spliced_never_decoded(store: Store) -> None:
    error = {"code": "E", "details": {"empty": [], "big": 2**70, "deep": {"ключ": "значение"}}}
    failed = await nack(store, await active(store), error)

    assert envelope(failed)["error"]["details"] == error["details"]
    assert json.dumps(2**70).encode() in failed.json()


async def test_a_large_error_is_cut_in_events_and_whole_in_the_job(store: Store) -> None:
    job = await active(store)
    await nack(store, job, {"code": "BIG", "message": "x" * 50_000})

    assert len(envelope(await read_jobs.get(store, job.id))["error"]["message"]) == 50_000
    page = await read_events(store, EventFilter(types={"job.failed"}), limit=10)
    [event] = [json.loads(raw) for raw in page.events]
    assert event["data"]["error"]["code"] == "BIG"
    assert len(page.events[0]) < 4096


async def test_a_result_over_the_limit_is_refused_and_the_job_stays_active(
    store: Store, consistent: Check
) -> None:
    small = replace(store, settings=replace(store.settings, result_max_bytes=100))
    job = await active(store)
    with pytest.raises(PayloadTooLarge):
        await ack(small, job, result=b'"%b"' % (b"x" * 99))

    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE
    assert (await ack(small, job, result=b'"%b"' % (b"x" * 98))).result
    consistent()


@pytest.mark.parametrize("result", [None, b"null", b"0", b'""', b"[]", b"{}", b"false"])
async def test_any_json_is_a_result(store: Store, result: bytes | None) -> None:
    done = await ack(store, await active(store), result=result)

    assert done.result == result
    assert ("result" in envelope(done)) == (result is not None)
    assert (await read_jobs.get(store, done.id)).json() == done.json()


# Schedules and expiry


async def test_a_job_in_the_past_is_available_at_once(store: Store, consistent: Check) -> None:
    job = await put(store, scheduled_at="2020-01-01T00:00:00Z")

    assert job.state is State.AVAILABLE
    assert envelope(job)["scheduled_at"] == "2020-01-01T00:00:00Z"
    consistent()


async def test_a_relative_schedule_is_shown_as_the_moment_it_became(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await put(store, scheduled_at="+PT1H", expires_at="+PT2H")
    due = db.zscore(shard_of(store).due, job.id)

    assert job.state is State.SCHEDULED
    assert due == job.due_ms == job.created_ms + HOUR
    shown = envelope(job)
    assert shown["scheduled_at"] > shown["created_at"]
    assert shown["expires_at"] > shown["scheduled_at"]
    assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert await take(store) == []
    consistent()


async def test_an_absolute_time_is_echoed_as_it_was_sent(store: Store) -> None:
    job = await put(store, expires_at="2099-12-31T23:59:59+00:00")

    assert envelope(await read_jobs.get(store, job.id))["expires_at"] == "2099-12-31T23:59:59+00:00"
    assert job.json().count(b"expires_at") == 1


async def test_fetch_promotes_what_is_due_before_it_pops(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await put(store, scheduled_at="+PT1H")
    age_job(db, shard_of(store), job.id, HOUR)

    [fetched] = await take(store)
    assert (fetched.id, fetched.attempt) == (job.id, 1)
    consistent()


async def test_promote_moves_what_is_due_and_tells_when_it_next_has_work(
    store: Store, db: Any, consistent: Check
) -> None:
    shard = shard_of(store)
    due = [await put(store, scheduled_at="+PT1H") for _ in range(5)]
    later = await put(store, scheduled_at="+PT2H")
    for job in due:
        age_job(db, shard, job.id, HOUR)

    results = [await promote_all(store, limit=2) for _ in range(3)]

    assert [(result.done, result.more) for result in results] == [(2, True), (2, True), (1, False)]
    assert results[-1].next_ms == later.due_ms
    assert (await read_jobs.get(store, due[0].id)).state is State.AVAILABLE
    assert consistent().count() == {"available": 5, "scheduled": 1}


@pytest.mark.parametrize("state", ["available", "scheduled", "retryable", "pending"])
async def test_a_waiting_job_expires(store: Store, db: Any, state: str, consistent: Check) -> None:
    options: dict[str, Any] = {
        "expires_at": "+PT1H",
        "retry": {"initial_interval": "P2D", "max_interval": "P2D"},
    }
    if state == "scheduled":
        options["scheduled_at"] = "+P1D"
    options["pending"] = state == "pending"
    job = await put(store, **options)
    if state == "retryable":
        await nack(store, (await take(store))[0])
    assert (await read_jobs.get(store, job.id)).state == state
    age_job(db, shard_of(store), job.id, 2 * HOUR)
    assert (await reap_all(store)).done == 1

    shown = envelope(await read_jobs.get(store, job.id))
    assert shown["state"] == "discarded"
    assert "discarded_at" in shown
    assert "completed_at" not in shown
    consistent()


async def test_an_expired_job_is_discarded_when_a_fetch_reads_it(
    store: Store, db: Any, consistent: Check
) -> None:
    expired = await put(store, expires_at="+PT1H")
    fresh = await put(store)
    age_job(db, shard_of(store), expired.id, 2 * HOUR)

    assert [job.id for job in await take(store, count=2)] == [fresh.id]
    assert (await read_jobs.get(store, expired.id)).state is State.DISCARDED
    consistent()


async def test_many_expired_jobs_do_not_hide_a_fresh_one(
    store: Store, db: Any, consistent: Check
) -> None:
    for _ in range(40):
        job = await put(store, expires_at="+PT1H")
        age_job(db, shard_of(store), job.id, 2 * HOUR)
    fresh = await put(store)

    assert [job.id for job in await take(store)] == [fresh.id]
    consistent()


async def test_expiry_comes_before_promotion(store: Store, db: Any, consistent: Check) -> None:
    job = await put(store, scheduled_at="+PT2H", expires_at="+PT1H")
    age_job(db, shard_of(store), job.id, 3 * HOUR)
    await promote_all(store)

    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED
    consistent()


async def test_an_active_job_never_expires(store: Store, db: Any, consistent: Check) -> None:
    job = await active(store, expires_at="+PT1H", visibility_timeout_ms=DAY)
    assert db.zscore(shard_of(store).expiring, job.id) is None
    age_job(db, shard_of(store), job.id, 2 * HOUR)
    await reap_all(store)

    assert (await read_jobs.get(store, job.id)).state is State.ACTIVE
    assert (await ack(store, job)).state is State.COMPLETED
    consistent()


async def test_a_job_requeued_after_its_expiry_is_discarded(
    store: Store, db: Any, consistent: Check
) -> None:
    job = await active(store, expires_at="+PT1H", visibility_timeout_ms=DAY)
    age_job(db, shard_of(store), job.id, 2 * HOUR)
    await nack(store, job, requeue=True)

    assert await take(store) == []
    assert (await read_jobs.get(store, job.id)).state is State.DISCARDED
    consistent()


async def test_retention_of_an_expired_job_is_that_of_a_discarded_one(
    store: Store, db: Any
) -> None:
    job = await put(store, expires_at="+PT1S")
    age_job(db, shard_of(store), job.id, MINUTE)
    await take(store)

    kept = db.zscore(shard_of(store).finished, job.id) - (
        (await read_jobs.get(store, job.id)).finished_ms or 0
    )
    assert kept == store.settings.retention_discarded_ms


async def test_timeouts_of_one_sweep_are_repeated_at_different_times(store: Store, db: Any) -> None:
    hourly = {"initial_interval": "PT1H", "max_interval": "PT10H"}
    options: dict[str, Any] = {"timeout_ms": MINUTE, "visibility_timeout_ms": HOUR, "retry": hourly}
    ids = [(await put(store, **options)).id for _ in range(9)]
    assert len(await take(store, count=9)) == 9
    for job_id in ids:
        age_job(db, shard_of(store), job_id, 2 * MINUTE)

    await reap_all(store)

    delays = {(await read_jobs.get(store, job_id)).retry_delay_ms for job_id in ids}
    assert len(delays) > 1
