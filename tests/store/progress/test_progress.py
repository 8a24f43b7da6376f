"""Progress in the job's shard: who may report it, how long it lasts, and what it costs others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ojs_cluster.core.errors import Conflict, MalformedJob, NotFound, PayloadTooLarge
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import release
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.stored_progress import Progress
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.events.listing import EventFilter, read_events
from ojs_cluster.store.features.progress.progress import MAX_BYTES, Report, report_progress
from ojs_cluster.store.ground import job_fields as f
from tests.store.archives import export_text, import_text
from tests.store.shortcuts import (
    HOUR,
    ack,
    active,
    envelope,
    foreign_id,
    home_id,
    nack,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]


async def report(
    store: Store, job: JobRecord | str, value: float | None, message: str = "", **more: Any
) -> Progress | None:
    """Report progress as ``worker_id`` or ``lease_id``, or anonymously; ``data`` is JSON."""
    who = {"worker_id": more.get("worker_id"), "lease_id": more.get("lease_id")}
    job_id = job if isinstance(job, str) else job.id
    wanted = Report(value, message, more.get("data", b""))
    return (await report_progress(store, job_id, wanted, **who)).progress


async def progress_of(store: Store, job: JobRecord) -> Progress | None:
    return (await read_jobs.get(store, job.id)).progress


async def number_of(store: Store, job: JobRecord) -> bytes | None:
    progress = await progress_of(store, job)
    return None if progress is None else progress.value


async def test_a_report_is_stored_and_shown_with_the_job(store: Store, consistent: Check) -> None:
    job = await active(store)
    assert await progress_of(store, job) is None
    assert "progress" not in envelope(await read_jobs.get(store, job.id))

    answer = await report(store, job, 0.25, "a quarter", data=b'{"rows": 1e2}')

    assert answer == await progress_of(store, job)
    assert answer is not None
    assert (answer.value, answer.message, answer.data) == (
        b"0.25",
        b'"a quarter"',
        b'{"rows": 1e2}',
    )
    shown = envelope(await read_jobs.get(store, job.id))
    assert (shown["progress"], shown["progress_data"]) == (0.25, {"rows": 100})
    consistent()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        *((1.5, b"1.0"), (-0.5, b"0.0"), (-0.0, b"0.0"), (float("inf"), b"1.0"), (1, b"1.0")),
        *((1e-7, b"1e-07"), (0.1 + 0.2, b"0.30000000000000004"), (5e-324, b"5e-324")),
    ],
)
async def test_a_number_is_clamped(store: Store, value: float, stored: bytes) -> None:
    job = await active(store)
    await report(store, job, value)
    assert await number_of(store, job) == stored


async def test_a_number_does_not_fall_during_an_attempt(store: Store) -> None:
    job = await active(store)
    await report(store, job, 0.5, "half")

    answer = await report(store, job, 0.4, "less")

    assert answer is not None
    assert (answer.value, answer.message) == (b"0.5", b'"half"')
    await report(store, job, None, data=b'{"again":true}')
    answer = await progress_of(store, job)
    assert answer is not None
    assert (answer.value, answer.message, answer.data) == (b"0.5", b"", b'{"again":true}')


async def test_data_alone_is_progress_without_a_number(store: Store) -> None:
    job = await active(store)
    await report(store, job, None, data=b"{}")
    shown = envelope(await read_jobs.get(store, job.id))
    assert "progress" not in shown
    assert shown["progress_data"] == {}
    await ack(store, job)
    assert await number_of(store, job) == b"1.0"


async def test_a_further_attempt_starts_without_progress(store: Store, db: Any) -> None:
    job = await active(store)
    await report(store, job, 0.7)
    await nack(store, job)
    assert await number_of(store, job) == b"0.7"
    age_job(db, shard_of(store), job.id, HOUR)
    await promote_all(store)

    [again] = await take(store)

    assert again.attempt == 2
    assert again.progress is None
    assert "progress" not in envelope(again)
    await report(store, job, 0.1)
    assert await number_of(store, job) == b"0.1"


async def test_a_requeued_job_starts_without_progress(store: Store) -> None:
    job = await active(store)
    await report(store, job, 0.7)
    await nack(store, job, requeue=True)
    [again] = await take(store)
    assert again.progress is None
    await release(store, [again])  # as if no worker had received it
    assert await number_of(store, job) == b"0.7"


async def test_a_released_job_starts_without_progress(store: Store) -> None:
    job = await active(store)
    await report(store, job, 0.9, data=b'{"a":1}')
    await release(store, [job])  # as if no worker had received it
    [again] = await take(store)
    assert (again.attempt, again.progress) == (job.attempt, None)
    await report(store, again, 0.1)
    assert await number_of(store, again) == b"0.1"


async def test_a_job_retried_from_the_dead_letters_has_no_progress(store: Store, db: Any) -> None:
    job = await active(store, max_attempts=1, retry={"on_exhaustion": "dead_letter"})
    await report(store, job, 0.7, data=b'{"a":1}')
    await nack(store, job)
    assert await number_of(store, job) == b"0.7"

    await dead_letters.retry(store, job.id)

    assert await progress_of(store, job) is None
    assert not db.hexists(shard_of(store).job(job.id), f.PROGRESS_DATA)


async def test_an_ack_completes_the_progress_of_a_job_that_reported_some(store: Store) -> None:
    silent, job = await active(store), await active(store)
    await report(store, job, 0.5, "half")
    done = await ack(store, job, worker_id="w1")
    assert envelope(done)["progress"] == 1.0
    progress = await progress_of(store, job)
    assert progress is not None
    assert (progress.value, progress.message) == (b"1.0", b'"half"')
    assert progress.updated_ms == done.finished_ms
    assert "progress" not in envelope(await ack(store, silent))


@pytest.mark.parametrize("end", [ack, nack])
async def test_a_report_in_another_state_is_ignored(
    store: Store, end: Callable[..., Any], db: Any
) -> None:
    job = await active(store)
    await report(store, job, 0.5)
    await end(store, job)
    before = db.hgetall(shard_of(store).job(job.id))

    await report(store, job, 0.9, "late", worker_id="w1", lease_id=job.lease_id)

    assert db.hgetall(shard_of(store).job(job.id)) == before
    waiting = await put(store)
    assert await report(store, waiting, 0.5) is None


async def test_only_the_holder_reports(store: Store) -> None:
    job = await active(store, worker="w1")
    for who in ({"worker_id": "w2"}, {"lease_id": "lease_x"}):
        with pytest.raises(Conflict):
            await report(store, job, 0.5, **who)
    assert await progress_of(store, job) is None
    await report(store, job, 0.5, worker_id="w1", lease_id=job.lease_id)
    with pytest.raises(NotFound):
        await report(store, home_id(store), 0.5)


async def test_a_report_extends_the_lease(store: Store, db: Any, consistent: Check) -> None:
    job = await active(store)
    shard = shard_of(store)
    for value in (0.5, 0.4):  # the lower one, too
        age_job(db, shard, job.id, HOUR)
        await report(store, job, value)
        await reap_all(store)
        found = await read_jobs.get(store, job.id)
        assert found.state == "active"
        assert db.zscore(shard.active, job.id) == int(db.hget(shard.job(job.id), f.DEADLINE))
        assert db.hexists(shard.job(job.id), f.EXTENDED)
    consistent()


async def test_a_job_stored_under_an_alias_has_progress(store: Store) -> None:
    job = await active(store, id=foreign_id(store))
    await report(store, job, 0.5)
    assert await number_of(store, job) == b"0.5"


async def test_events_are_at_most_one_per_second(store: Store, db: Any) -> None:
    job = await active(store)
    key = shard_of(store).job(job.id)

    async def shown() -> list[bytes]:
        page = await read_events(store, EventFilter(types=["job.progress"], job_id=job.id))
        return page.events

    await report(store, job, 0.655, "é" * 500)
    [event] = await shown()
    assert b'"worker_id":"w1","attempt":1,"progress_percent":65.5' in event
    assert '"progress_message":"{}"'.format("é" * 200).encode() in event

    attempt, updated, event_at, value = db.hget(key, f.PROGRESS).split(b" ")
    future = int(event_at) + HOUR
    db.hset(key, f.PROGRESS, b"%b %b %d %b" % (attempt, updated, future, value))
    await report(store, job, 0.7)  # a clock that was set back must not stop the events
    assert len(await shown()) == 2
    packed = db.hget(key, f.PROGRESS).split(b" ")
    for _ in range(20):
        await report(store, job, 0.8)
    last = int(db.hget(key, f.PROGRESS).split(b" ")[1])
    assert len(await shown()) <= 3 + (last - int(packed[2])) // 1000
    assert await number_of(store, job) == b"0.8"


async def test_a_report_that_is_too_large_is_refused(store: Store) -> None:
    job = await active(store)
    fits = b'{"d":"%b"}' % (b"x" * (MAX_BYTES - len('{"data":{"d":""}}')))
    await report(store, job, 0.5, data=fits)
    with pytest.raises(PayloadTooLarge):
        await report(store, job, 0.6, "m", data=fits)
    assert await number_of(store, job) == b"0.5"


@pytest.mark.parametrize("damaged", [b"", b"x", b"1 2 3 e.e", b"1 2 3 0.5 6", b"\xff"])
async def test_damaged_progress_counts_as_none(store: Store, db: Any, damaged: bytes) -> None:
    job = await active(store)
    key = shard_of(store).job(job.id)
    db.hset(key, f.PROGRESS, damaged)
    db.hset(key, f.PROGRESS_DATA, b"{")
    assert await progress_of(store, job) is None
    await report(store, job, 0.5)
    assert await number_of(store, job) == b"0.5"
    db.hset(key, f.PROGRESS_DATA, b"{")
    progress = await progress_of(store, job)
    assert progress is not None
    assert progress.data == b""


async def test_a_malformed_job_takes_no_report(store: Store, db: Any) -> None:
    job = await active(store)
    key = shard_of(store).job(job.id)
    db.hdel(key, f.ATTEMPT)
    with pytest.raises(MalformedJob):
        await report(store, job, 0.5)
    db.hset(key, f.STATE, b"unknown")
    with pytest.raises(MalformedJob):
        await report(store, job, 0.5)
    db.hdel(key, f.STATE)
    with pytest.raises(MalformedJob):
        await report(store, job, 0.5)


@pytest.mark.parametrize("packed", [b"1 999999999999999 1 0.5", b"1 5 5 9.9"])
async def test_progress_that_no_response_can_show_is_left_out(
    store: Store, db: Any, packed: bytes
) -> None:
    job = await active(store)
    db.hset(shard_of(store).job(job.id), f.PROGRESS, packed)
    assert await progress_of(store, job) is None


async def test_a_completed_job_with_a_damaged_end_shows_its_last_report(
    store: Store, db: Any
) -> None:
    job = await active(store)
    await report(store, job, 0.5)
    await ack(store, job)
    db.hset(shard_of(store).job(job.id), f.FINISHED, b"1.5")
    assert (await report(store, job, 0.6)) is not None


async def test_a_producer_cannot_set_progress_data(store: Store) -> None:
    await put(store, progress_data=7)
    [job] = await take(store)
    await report(store, job, 0.5, data=b'{"a":1}')
    assert (await read_jobs.get(store, job.id)).json().count(b'"progress_data"') == 1


async def test_progress_survives_an_export_and_an_import(backend: Embedded, store: Store) -> None:
    job = await active(store)
    await report(store, job, 0.5, "half", data=b'{"a":[1]}')
    done = await ack(store, job)
    held = await active(store)
    await report(store, held, 0.9)
    text = await export_text(store)
    for node in backend.masters():
        with node.client() as client:
            client.flushall()
    tally, messages = await import_text(store, text)
    assert (messages, tally.refused) == ([], 0)
    assert envelope(await read_jobs.get(store, job.id)) == envelope(done)
    [again] = await take(store)
    assert (again.id, again.attempt, again.progress) == (held.id, 1, None)
    await report(store, again, 0.1)
    assert await number_of(store, again) == b"0.1"
