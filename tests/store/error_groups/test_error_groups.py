"""Groups of errors: what one is, how it is counted, and that their number is bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.failure import parse_failure
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.features.error_groups.error_groups import (
    KEPT_MS,
    ErrorGroup,
    read_error_groups,
)
from ojs_cluster.store.features.retention.retention import remove_leftovers
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.workers import DeadWorker
from ojs_cluster.store.open import open_store
from tests.store.hot_queues import spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    nack,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.invariants import InvariantReport
from tests.support.patience import patient_client
from tests.support.timeshift import age_job

Check = Callable[[], InvariantReport]
MAX = 200


async def fail(store: Store, error: Any, queue: str = QUEUE) -> str:
    job = await active(store, queue=queue)
    await nack(store, job, error)
    return job.id


async def groups(store: Store, **wanted: Any) -> list[ErrorGroup]:
    return await read_error_groups(store, **wanted)


async def only(store: Store) -> ErrorGroup:
    [group] = await groups(store)
    return group


async def test_equal_errors_of_all_shards_are_one_group(store: Store, consistent: Check) -> None:
    other = queues_in_other_shards(store, 1)[0]
    error = {"type": "SmtpError", "message": "no such host"}
    for queue in (QUEUE, other, QUEUE):
        await trio.sleep(0.002)  # of two shards, the later ms tells which failure was the last
        last = await fail(store, error, queue)
    await fail(store, {"type": "TlsError", "message": "no such host"})
    group, newest = sorted(await groups(store), key=lambda found: found.type)  # one ms is possible
    assert (newest.type, newest.count) == ("TlsError", 1)
    assert (group.type, group.message, group.count) == ("SmtpError", "no such host", 3)
    assert group.queues == {QUEUE: 2, other: 1}
    assert group.job_id == last
    assert group.first_ms <= group.last_ms <= newest.last_ms
    consistent()


@pytest.mark.parametrize(
    ("message", "normalised"),
    [
        ("connect to 10.0.0.12:6379 timed out after 5000 ms", "connect to * timed out after * ms"),
        ("job 0192f0a1-7c3e-7b11-8aaf-0123456789ab is gone", "job * is gone"),
        ("key deadbeefabba-abcd-abcd-abcd-abcdefabcdef", "key *"),
        ("Error404 at 0x7fff12ab", "* at *"),
        ('no "such" host\n\tat line 7', 'no "such" host\n\tat line *'),
        ("größe 5", "größe *"),
        ("line\n7 of C:\\u12\t9", "line\n* of C:\\*\t*"),
        ("faces a-b-c-d-effect", "faces a-b-c-d-effect"),
        ("é" * 79 + "123 45", "é" * 79 + "*"),
        ("", ""),
        ("x" * 500, "x" * 160),
        ("é" * 200, "é" * 80),
        ("\\" * 200, "\\" * 80),
        ("a" + "\\" * 200, "a" + "\\" * 80),
        ('"' * 200, '"' * 80),
    ],
)
async def test_messages_that_differ_in_words_with_digits_are_equal(
    store: Store, message: str, normalised: str
) -> None:
    job = await active(store)
    error = json.dumps({"type": "E", "message": message}, ensure_ascii=False)
    failure = parse_failure(error.encode())
    await nack_many(store, [Nack(job.id, None, failure, requeue=False)], worker_id="w1")
    assert (await only(store)).message == normalised


async def test_no_script_searches_the_text_of_a_client(standalone: Embedded) -> None:
    refusing = """
local string = setmetatable({}, {__index = string})
for _, name in ipairs({'gsub', 'gmatch', 'match'}) do
    local original = string[name]
    string[name] = function(text, ...)
        if #text < 2000 and string.find(text, 'client text', 1, true) then error('a pattern', 0) end
        return original(text, ...)
    end
end
"""
    async with open_store(patient_client(standalone), prelude=refusing) as store:
        await fail(store, {"type": "E", "message": "client text " + "a" * 200})
        assert (await only(store)).message == "client text " + "a" * 148


@pytest.mark.parametrize("how", ["timeout", "lost lease", "dead worker"])
async def test_errors_of_the_server_have_a_readable_message(
    store: Store, db: Any, how: str
) -> None:
    job = await active(store, timeout_ms=1000 if how == "timeout" else None)
    if how == "dead worker":
        await workers.recover(store, shard_of(store), [DeadWorker("w1", 2**52)])
    else:
        age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store)
    assert (await only(store)).message == {
        "timeout": "execution timeout of * ms exceeded",
        "lost lease": "the lease ended without ack, nack or heartbeat",
        "dead worker": "the worker died while it held this job",
    }[how]


async def test_an_escaped_message_is_readable(store: Store) -> None:
    job = await active(store)
    escaped = b'{"type":"E","message":"caf\\u00e95 a1\\uD83D\\ude00 ' + b"\\u00e9" * 60 + b'"}'
    await nack_many(
        store, [Nack(job.id, None, parse_failure(escaped), requeue=False)], worker_id="w1"
    )
    assert (await only(store)).message == "café* *\U0001f600 " + "é" * 22


@pytest.mark.parametrize("how", ["nack_many", "lost lease", "timeout", "dead worker"])
async def test_every_way_to_fail_counts(store: Store, db: Any, how: str, consistent: Check) -> None:
    jobs = [await active(store, timeout_ms=1000 if how == "timeout" else None) for _ in range(3)]
    if how == "nack_many":
        error = parse_failure(b'{"type":"E","message":"no 7"}')
        nacks = [Nack(job.id, job.lease_id, error, requeue=False) for job in jobs]
        await nack_many(store, nacks, worker_id="w1")
    elif how == "dead worker":
        await workers.recover(store, shard_of(store), [DeadWorker("w1", 2**52)])
    else:
        for job in jobs:
            age_job(db, shard_of(store), job.id, HOUR)
        await reap_all(store)
    group = await only(store)
    expected = {"nack_many": "E", "lost lease": "visibility_timeout", "dead worker": "worker_lost"}
    assert (group.type, group.count) == (expected.get(how, "timeout"), 3)
    assert group.job_id in {job.id for job in jobs}
    assert group.queues == {QUEUE: 3}
    consistent()


async def test_what_is_no_failure_counts_nothing(store: Store, db: Any) -> None:
    await nack(store, await active(store), requeue=True)
    [again] = await take(store)
    await ack(store, again)
    assert await groups(store) == []
    shard = shard_of(store)
    assert not db.exists(shard.error_groups, shard.error_group_times)


async def test_a_nack_that_is_repeated_counts_once(store: Store) -> None:
    job = await active(store)
    for _ in range(2):
        await nack(store, job, {"message": "no"}, lease_id=job.lease_id)
    assert (await only(store)).count == 1


async def test_new_groups_replace_those_that_failed_last_the_longest_ago(
    store: Store, db: Any
) -> None:
    shard = shard_of(store)
    old = {f"{QUEUE}\nE\nm{chr(97 + n % 26)}{'x' * n}": n + 1 for n in range(MAX)}
    db.zadd(shard.error_group_times, old)
    job_id = "0192f0a1-7c3e-7b11-8aaf-0123456789ab"
    db.hset(shard.error_groups, mapping={name: f"1 1 {ms} {job_id}" for name, ms in old.items()})
    for letter in "abc":
        await fail(store, {"type": "New", "message": letter})
    found = await groups(store)
    assert len(found) == db.hlen(shard.error_groups) == db.zcard(shard.error_group_times) == MAX
    assert [group.type for group in found[:4]] == ["New", "New", "New", "E"]
    assert min(group.last_ms for group in found) == 4


async def test_groups_end_a_week_after_their_last_failure(store: Store, db: Any) -> None:
    shard = shard_of(store)
    await fail(store, {"type": "Old", "message": "x"})
    await fail(store, {"type": "New", "message": "x"})
    name = f"{QUEUE}\nOld\nx".encode()
    now = db.zscore(shard.error_group_times, name)
    db.zadd(shard.error_group_times, {name: now - KEPT_MS})
    await remove_leftovers(store, shard)
    assert [group.type for group in await groups(store)] == ["New"]
    assert db.zcard(shard.error_group_times) == 1


async def test_a_reader_sees_the_failures_of_its_queues(store: Store) -> None:
    other = queues_in_other_shards(store, 1)[0]
    for queue in (QUEUE, other):
        await fail(store, {"type": "E", "message": "x"}, queue)
    for wanted in ({"queue": QUEUE}, {"within": QueuePatterns((QUEUE,))}):
        [group] = await groups(store, **wanted)
        assert (group.count, group.queues) == (1, {QUEUE: 1})


async def test_failures_in_all_partitions_are_one_group(store: Store, db: Any) -> None:
    await spread(store, db, 4)
    for _ in range(12):
        await put(store)
    for job in await take(store, count=12):
        await nack(store, job, {"type": "E", "message": "x"})
    [group] = await groups(store, queue=QUEUE)
    assert group.count == 12


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"\xff\nE\nm", b"1 1 1 x"),
        (b"q\nE", b"1 1 1 0192f0a1-7c3e-7b11-8aaf-0123456789ab"),
        (b"q\nE\nm", b"\xff"),
        (b"q\nE\nm", b"1 1"),
    ],
)
async def test_a_damaged_group_hides_no_others(
    store: Store, db: Any, name: bytes, value: bytes
) -> None:
    db.hset(shard_of(store).error_groups, name, value)
    await fail(store, {"type": "Good", "message": "x"})
    assert [group.type for group in await groups(store)] == ["Good"]


async def test_damaged_numbers_begin_again(store: Store, db: Any) -> None:
    await fail(store, {"type": "E", "message": "x"})
    db.hset(shard_of(store).error_groups, f"{QUEUE}\nE\nx", b"\xff")
    await fail(store, {"type": "E", "message": "x"})
    assert (await only(store)).count == 1


def test_a_failure_of_any_form_has_a_type_and_a_message_in_front() -> None:
    for error in ({}, {"message": 7}, {"code": 'a"b'}, {"details": {"message": "m"}}, "text"):
        stored = parse_failure(json.dumps(error).encode()).json
        assert stored.startswith(b'{"code":"')
        assert b'"message":"' in stored
