"""What jobs record for their history, and what that costs jobs that need none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.jobs import nack as nacks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.activate import activate
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.change_priority import change_priority
from ojs_cluster.store.engine.jobs.history_entries import MAX_BYTES, Cause, Entry, recorded
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.features.dead_letters import dead_letters
from ojs_cluster.store.features.history.clear_history import clear_history
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.operators.archive.job_lines import job_pieces, parse_job_line
from ojs_cluster.store.operators.archive.line_values import InvalidLine, JobLine
from tests.store.shortcuts import (
    ack,
    active,
    failure,
    nack,
    new_job,
    promote_all,
    put,
    reap_all,
    shard_of,
    take,
)
from tests.support.timeshift import age_job

OPS = Cause("client", "ops")


async def entries(store: Store, job_id: str) -> list[Entry]:
    return list(recorded((await read_jobs.get(store, job_id)).fields).entries)


async def kinds(store: Store, job_id: str) -> list[str]:
    return [entry.kind for entry in await entries(store, job_id)]


async def test_a_job_that_completes_at_once_records_nothing(store: Store) -> None:
    for options in ({}, {"scheduled_at": "+PT0.001S"}, {"pending": True}):
        made = await put(store, **options)
        if options.get("pending"):
            await activate(store, made.id)
        while not (found := await take(store)):
            await promote_all(store)
        await ack(store, found[0], result=b"1")
        assert f.HISTORY not in (await read_jobs.get(store, made.id)).fields


async def test_a_failed_attempt_keeps_its_worker_and_its_times(store: Store) -> None:
    job = await active(store, worker='w "1"\\ü')
    await nack(store, job, {"code": "E1", "message": "no"})
    [entry] = await entries(store, job.id)
    assert (entry.kind, entry.attempt, entry.worker) == ("failed", 1, 'w "1"\\ü')
    assert (entry.error["code"], entry.error["message"]) == ("E1", "no")
    assert entry.enqueued_ms <= entry.started_ms <= entry.at_ms
    assert entry.started_ms == job.started_ms


async def test_many_nacks_record_as_one_does(store: Store) -> None:
    jobs = [await active(store) for _ in range(3)]
    nacks = [Nack(job.id, job.lease_id, failure(), requeue=job is jobs[0]) for job in jobs]
    await nack_many(store, nacks, worker_id="w1")
    found = [await kinds(store, job.id) for job in jobs]
    assert found == [["requeued"], ["failed"], ["failed"]]


async def test_a_repeated_nack_records_one_entry(store: Store) -> None:
    job = await active(store)
    for _ in range(2):
        await nack(store, job, lease_id=job.lease_id)
    assert await kinds(store, job.id) == ["failed"]


async def test_a_lost_lease_is_recorded(store: Store, db: Any) -> None:
    job = await active(store)
    age_job(db, shard_of(store), job.id, 10 * 60_000)
    await reap_all(store)
    [entry] = await entries(store, job.id)
    assert (entry.error["type"], entry.worker) == ("visibility_timeout", "w1")


async def test_a_job_that_was_not_started_records_nothing(store: Store) -> None:
    job = await active(store)
    await nack(store, job, release=True, lease_id=job.lease_id)
    assert await kinds(store, job.id) == []


async def test_a_manual_retry_keeps_what_happened_before(store: Store) -> None:
    job = await active(store, retry={"max_attempts": 1})
    failed = await nack(store, job, {"message": "first life"})
    retried = await dead_letters.retry_discarded(store, job.id, OPS)
    assert retried.errors() == []
    first, second = await entries(store, job.id)
    assert first.error["message"] == "first life"
    assert (second.kind, second.attempt) == ("retried", 1)
    assert (second.actor, second.actor_id) == ("client", "ops")
    assert second.finished_ms == failed.finished_ms == first.at_ms


async def test_a_unique_job_keeps_who_has_retried_it(store: Store) -> None:
    unique = {"keys": ["type"]}
    job = await active(store, retry={"max_attempts": 1}, unique=unique)
    await nack(store, job)
    await dead_letters.retry_discarded(store, job.id, OPS)
    assert [entry.actor_id for entry in await entries(store, job.id)] == ["", "ops"]


async def test_a_replaced_job_names_its_successor(store: Store) -> None:
    unique = {"keys": ["type"], "on_conflict": "replace"}
    for new_queue in ("mail", "elsewhere"):  # the first replacement is in the shard of the job
        old = await put(store, unique=unique)
        new = await enqueue(store, new_job(new_queue, unique=unique))
        [entry] = await entries(store, old.id)
        assert (entry.kind, entry.actor) == ("cancelled", "system")
        assert new.id in entry.why
        await cancel(store, new.id)


async def test_who_cancels_or_changes_a_job_is_recorded(store: Store) -> None:
    job = await put(store, priority=2)
    for _ in range(2):  # the second one changes nothing
        await change_priority(store, job.id, -3, OPS)
    await cancel(store, job.id, cause=Cause("user", "ann", "no\nreason"))
    changed, cancelled = await entries(store, job.id)
    assert (changed.kind, changed.old, changed.new) == ("priority", 2, -3)
    assert (cancelled.kind, cancelled.actor, cancelled.actor_id) == ("cancelled", "user", "ann")
    assert cancelled.why == "no\nreason"


async def test_a_cancellation_without_a_cause_records_nothing(store: Store) -> None:
    job = await put(store)
    await cancel(store, job.id)
    assert await kinds(store, job.id) == []


@pytest.mark.parametrize("kept", [1, 3])
async def test_the_newest_entries_are_kept(store: Store, kept: int) -> None:
    store = replace(store, settings=replace(store.settings, history_max_events=kept))
    job = await put(store)
    for priority in range(1, 6):
        await change_priority(store, job.id, priority)
    found = recorded((await read_jobs.get(store, job.id)).fields)
    assert [entry.new for entry in found.entries] == list(range(6 - kept, 6))
    assert found.dropped == 5 - kept


async def test_entries_are_bounded_in_bytes(store: Store, db: Any) -> None:
    settings = replace(store.settings, history_max_events=1000)
    store = replace(store, settings=settings)
    job = await put(store)
    key = shard_of(store).job(job.id)
    cause = Cause("client", "ä" * 500, "ü" * 500)
    for priority in range(1, 40):
        await change_priority(store, job.id, priority, cause)
        assert db.hstrlen(key, f.HISTORY) <= MAX_BYTES + 20
    found = recorded((await read_jobs.get(store, job.id)).fields)
    assert len(found.entries) + found.dropped == 39
    assert found.entries[-1].new == 39
    assert found.dropped > 0


async def test_a_server_without_a_history_records_nothing_and_keeps_what_there_is(
    store: Store,
) -> None:
    job = await put(store)
    await change_priority(store, job.id, 1)
    without = replace(store, settings=replace(store.settings, history_enabled=False))
    await change_priority(without, job.id, 2)
    [taken] = await take(without)
    await nack(without, taken)
    assert [entry.new for entry in await entries(store, job.id)] == [1]


@pytest.mark.parametrize("damage", [b"", b"x", b"1 1\n", b"0 99999999999999\n{}\n", b"9 9\nx\n{"])
async def test_a_damaged_history_is_replaced(store: Store, db: Any, damage: bytes) -> None:
    job = await put(store)
    db.hset(shard_of(store).job(job.id), f.HISTORY, damage)
    assert await entries(store, job.id) == []
    await change_priority(store, job.id, 1)
    assert [entry.new for entry in await entries(store, job.id)] == [1]


@pytest.mark.parametrize(
    ("message", "begins"),
    [
        ("x" * 5000, "x" * 150),
        ("ä" * 5000, "ä" * 33),
        ('"\\\n' * 2000, '"\\\n' * 20),
        ("\U0001f600" * 2000, "\U0001f600" * 15),
    ],
    ids=["ascii", "umlauts", "escapes", "surrogates"],
)
@pytest.mark.parametrize("escaped", [False, True])
async def test_a_large_error_is_cut_behind_a_whole_character(
    store: Store, message: str, begins: str, escaped: bool
) -> None:
    job = await active(store)
    error = json.dumps({"code": "E", "message": message}, ensure_ascii=escaped).encode()
    failed = await nacks.nack(
        store, job.id, worker_id=None, lease_id=None, failure=parse_failure(error)
    )
    [entry] = await entries(store, job.id)
    shown = entry.error["message"]
    assert message.startswith(shown)
    assert shown.startswith(begins)
    assert entry.error["truncated"] is True
    assert len(failed.fields[b"h0"]) > 5000


async def test_a_broken_line_in_an_error_does_not_end_its_entry(store: Store) -> None:
    job = await active(store)
    error = parse_failure(b'{"message":"a\\nb","details":{\n"x":\r\n1}}')
    await nacks.nack(store, job.id, worker_id=None, lease_id=None, failure=error)
    [entry] = await entries(store, job.id)
    assert entry.error["message"] == "a\nb"
    assert entry.error["details"] == {"x": 1}


async def test_the_history_of_a_partly_read_job_is_kept(store: Store, db: Any) -> None:
    jobs = [await put(store) for _ in range(4)]
    for job in jobs:
        await change_priority(store, job.id, 1)
    taken = await take(store, count=4)
    shard = shard_of(store)
    for job in taken:  # a script reads only small fields of further jobs after a MiB
        db.hset(shard.job(job.id), f.PROGRESS_DATA, b'{"x":"%b"}' % (b"x" * 600_000))
        db.zadd(shard.active, {job.id: 1})
    await reap_all(store)
    for job in jobs:
        assert await kinds(store, job.id) == ["priority", "failed"]


async def test_a_deleted_history_does_not_return(store: Store) -> None:
    job = await put(store)
    await change_priority(store, job.id, 1)
    assert await clear_history(store, job.id) == 1
    assert await clear_history(store, job.id) == 0
    assert await entries(store, job.id) == []


async def test_an_archive_has_the_history(store: Store) -> None:
    job = await put(store)
    await change_priority(store, job.id, 1)
    stored = await read_jobs.get(store, job.id)
    pieces = job_pieces(JobLine(job.id, stored.fields, (), None, None, False))
    assert "history" in pieces
    assert parse_job_line(pieces).fields[f.HISTORY] == stored.fields[f.HISTORY]
    too_large = {**stored.fields, f.HISTORY: b"0 1\n" + b"x" * (MAX_BYTES + 100)}
    pieces = job_pieces(JobLine(job.id, too_large, (), None, None, False))
    with pytest.raises(InvalidLine, match="history"):
        parse_job_line(pieces)
