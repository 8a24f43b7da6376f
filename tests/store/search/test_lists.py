"""Lists and searches: newest first over all shards, with a bound on each page."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.search import Search, parse_search
from ojs_cluster.core.searched_content import SearchedJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue, enqueue_many
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search import lists
from ojs_cluster.store.features.search.lists import JobPage, list_jobs
from ojs_cluster.store.ground import job_fields as f
from tests.store.hot_queues import spread
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    foreign_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    shard_of,
    take,
)
from tests.support.lossy import lossy
from tests.support.timeshift import age_job

NOW = 1_900_000_000_000


def wanted_by(text: str, **more: Any) -> JobFilter:
    search = parse_search(text, now_ms=NOW)
    times = {"since_ms": search.since_ms, "until_ms": search.until_ms}
    return JobFilter(search=search, **{**times, **more})


async def put_body(store: Store, queue: str, pending: bool = False, **members: Any) -> str:
    """Enqueue a job with these members of the request."""
    body = {"args": [], "options": {"queue": queue, "pending": pending}, **members}
    return (await enqueue(store, parse_job(json.dumps(body).encode()))).id


async def pages(store: Store, wanted: JobFilter, limit: int) -> list[JobRecord]:
    found: list[JobRecord] = []
    cursor: str | None = None
    for _ in range(1000):
        page = await list_jobs(store, wanted, limit=limit, cursor=cursor)
        assert len(page.jobs) <= limit
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the list does not end")


async def found_by(store: Store, text: str, **more: Any) -> set[str]:
    return {job.id for job in await pages(store, wanted_by(text, **more), 50)}


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_ended_jobs_of_all_shards_come_newest_first(
    store: Store, db: Any, limit: int
) -> None:
    ended = []
    for number, queue in enumerate(queues_in_other_shards(store, 3) * 4):
        shard, age = shard_of(store, queue), number // 6
        job = await cancel(store, (await put(store, queue)).id)
        # Six at a time end at the same moment, two of them in one shard.
        db.zadd(shard.finished, {job.id: NOW - age * HOUR})
        ended.append((age, shard.index, job.id))
    ended.sort(key=lambda item: item[2], reverse=True)
    ended.sort(key=lambda item: item[:2])
    listed = await pages(store, JobFilter(state=State.CANCELLED), limit)
    assert [job.id for job in listed] == [job_id for _, _, job_id in ended]


@pytest.mark.parametrize("limit", [1, 4, 100])
async def test_available_jobs_of_a_queue_come_newest_first(store: Store, limit: int) -> None:
    made = [(await put(store)).id for _ in range(9)]
    listed = await pages(store, JobFilter(queue=QUEUE), limit)
    assert [job.id for job in listed] == made[::-1]


@pytest.mark.parametrize("limit", [7, 60])
async def test_pages_over_partitions_show_every_job_once(store: Store, db: Any, limit: int) -> None:
    await spread(store, db, 5)
    made = await enqueue_many(store, [new_job() for _ in range(120)])
    made += await enqueue_many(store, [new_job(priority=n % 3) for n in range(40)])
    for wanted in (JobFilter(queue=QUEUE), wanted_by(f"queue:{QUEUE} attempt:0", queue=QUEUE)):
        listed = await pages(store, wanted, limit)
        assert sorted(job.id for job in listed) == sorted(job.id for job in made)


async def test_scheduled_jobs_come_as_they_are_due(store: Store) -> None:
    hours = (3, 1, 2, 5, 4)
    queues = [QUEUE, *queues_in_other_shards(store, 4)]
    made = {
        hour: (await put(store, queue, scheduled_at=f"+PT{hour}H")).id
        for hour, queue in zip(hours, queues, strict=True)
    }
    listed = await pages(store, JobFilter(state=State.SCHEDULED), 2)
    assert [job.id for job in listed] == [made[hour] for hour in sorted(hours)]


async def test_a_search_finds_jobs_by_every_field(store: Store) -> None:
    other = queues_in_other_shards(store, 1)[0]
    plain = await put_body(store, QUEUE, type="mail.send", args=[{"user": 7}])
    tagged = (await put(store, other, type="sms.send", tags=["urgent"], priority=9)).id
    meta = await put_body(store, other, True, type="mail.sort", meta={"tenant": "acme"})
    [held] = await take(store, worker="w-9")
    assert held.id == plain
    for text, expected in (
        ("", {plain, tagged, meta}),
        ("type:mail.*", {plain, meta}),
        (f"queue:{other}", {tagged, meta}),
        ("tag:urgent", {tagged}),
        ("meta.tenant:acme", {meta}),
        ("meta.tenant:acme tag:urgent", set()),
        ("args.user:7", {plain}),
        ("args.0.user:7,8", {plain}),
        ("priority:>5", {tagged}),
        ("state:active,pending", {plain, meta}),
        ("state:active state:pending", set()),
        ("worker:w-9", {plain}),
        ("worker:w-9 state:available", set()),
        ("attempt:>0", {plain}),
        (f"id:{tagged},{meta}", {tagged, meta}),
        (f"id:{tagged},{meta} type:sms*", {tagged}),
        (f"id:{tagged[:24]}* type:sms*", {tagged}),
    ):
        assert await found_by(store, text) == expected, text
    await nack(store, held, {"type": "SmtpError", "message": "no such host"})
    for text in ("error:SmtpError", 'error:"no such"*', "error:Smtp* args.user:7"):
        assert await found_by(store, text) == {plain}, text
    assert await found_by(store, "error:TlsError") == set()


async def test_a_search_by_id_finds_jobs_under_an_alias_and_no_others(store: Store) -> None:
    job = await put(store, id=foreign_id(store))
    page = await list_jobs(store, wanted_by(f"id:{job.id},0192-unknown"), limit=10)
    assert ([found.id for found in page.jobs], page.next_cursor) == ([job.id], None)
    assert page.examined == 2


async def test_a_search_by_id_has_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = sorted([(await put(store)).id for _ in range(5)], reverse=True)
    search = wanted_by(f"id:{','.join(made)}")
    assert [job.id for job in await pages(store, search, 2)] == made
    monkeypatch.setattr(lists, "PAGE_BYTES", 1)
    first = await list_jobs(store, search, limit=5)
    assert ([job.id for job in first.jobs], first.next_cursor is None) == (made[:1], False)
    assert [job.id for job in await pages(store, search, 5)] == made


async def test_the_times_of_a_search_hold(store: Store, db: Any) -> None:
    old, new = await put(store), await put(store)
    age_job(db, shard_of(store), old.id, 3 * HOUR)
    since = new.created_ms - HOUR
    assert await found_by(store, "attempt:0", since_ms=since) == {new.id}
    assert await found_by(store, "args.x:*", since_ms=since) == set()
    assert await found_by(store, "attempt:0", until_ms=since) == {old.id}


async def test_a_page_tells_how_many_it_has_examined_and_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "SEARCH_BUDGET", 100)
    needle = await put(store, type="needle")  # the oldest
    await enqueue_many(store, [new_job() for _ in range(250)])
    wanted = replace(wanted_by("type:needle"), queue=QUEUE, state=State.AVAILABLE)
    found: list[JobPage] = []
    cursor: str | None = None
    while not found or cursor is not None:
        found.append(await list_jobs(store, wanted, limit=10, cursor=cursor))
        cursor = found[-1].next_cursor
    assert [job.id for page in found for job in page.jobs] == [needle.id]
    assert sum(page.examined for page in found) == 251
    assert max(page.examined for page in found) == 100


async def test_a_page_that_takes_long_ends_and_the_next_one_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_PAGE_S", 0.0)
    monkeypatch.setattr(lists, "MIN_EFFORT", 0)
    needle = await put(store, type="needle")
    await enqueue_many(store, [new_job() for _ in range(250)])
    first = await list_jobs(store, wanted_by("type:needle", queue=QUEUE), limit=10)
    assert (first.jobs, first.examined) == ([], 0)  # of pending jobs, which come first
    assert first.next_cursor is not None
    assert await found_by(store, "type:needle", queue=QUEUE) == {needle.id}
    assert len(await pages(store, JobFilter(queue=QUEUE), 30)) == 251


async def test_a_page_that_takes_long_ends_between_two_jobs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MAX_PAGE_S", 0.0)
    monkeypatch.setattr(lists, "MIN_EFFORT", 0)
    monkeypatch.setattr(lists, "_COMPARE_S", 0.0)
    made = {await put_body(store, QUEUE, type="t", args=[7]) for _ in range(5)}
    found: list[JobPage] = []
    cursor: str | None = None
    while not found or cursor is not None:
        assert len(found) < 100
        wanted = wanted_by("args.0:7", queue=QUEUE, state=State.AVAILABLE)
        found.append(await list_jobs(store, wanted, limit=10, cursor=cursor))
        cursor = found[-1].next_cursor
    assert max(page.examined for page in found) == 1
    assert sorted(job.id for page in found for job in page.jobs) == sorted(made)


@pytest.mark.parametrize("by_id", [False, True])
async def test_large_jobs_are_compared_in_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch, by_id: bool
) -> None:
    large = await put_body(store, QUEUE, type="t", args=["needle", "x" * 100_000])
    small = await put_body(store, QUEUE, type="t", args=["needle"])
    threads: dict[str, int] = {}
    admits = Search.admits_content

    def spy(search: Search, job: SearchedJob) -> bool:
        threads[job.id] = threading.get_ident()
        return admits(search, job)

    monkeypatch.setattr(Search, "admits_content", spy)
    text = f"args.0:needle id:{large},{small}" if by_id else "args.0:needle"
    assert await found_by(store, text) == {large, small}
    assert threads[small] == threading.get_ident() != threads[large]


async def test_a_page_that_is_full_has_examined_no_more_than_it_shows(store: Store) -> None:
    await enqueue_many(store, [new_job() for _ in range(150)])
    page = await list_jobs(store, JobFilter(queue=QUEUE), limit=20)
    assert (len(page.jobs), page.examined) == (20, 20)


async def test_small_fields_of_many_jobs_are_one_call(store: Store) -> None:
    await enqueue_many(store, [new_job(type="hay") for _ in range(400)])
    process, client = lossy(store)
    page = await list_jobs(process, wanted_by("type:needle", queue=QUEUE), limit=10)
    assert (page.jobs, page.examined, page.next_cursor) == ([], 400, None)
    assert client.calls["search_fields"] == 3, "batches of 100, 200 and 100 jobs"


@pytest.mark.parametrize(
    "damage",
    [
        {f.STATE: b"\xff"},
        {f.PRIORITY: b"x"},
        {f.ATTEMPT: b"\xff"},
        {f.CREATED: b""},
        {f.TYPE: b"\xff"},
        {f.QUEUE: b"\xff\xfe"},
        {f.ENVELOPE: b"\xff{"},
    ],
    ids=lambda damage: repr(next(iter(damage))),
)
async def test_a_malformed_job_hides_no_others(
    store: Store, db: Any, damage: dict[bytes, bytes]
) -> None:
    good = [(await put(store)).id for _ in range(2)]
    bad = await put(store)
    db.hset(shard_of(store).job(bad.id), mapping=damage)
    for text in ("priority:0", "attempt:0 type:t*", "args.0:*", "state:available"):
        found = await found_by(store, text, queue=QUEUE)
        assert found - {bad.id} <= set(good), text
    assert set(good) <= await found_by(store, "priority:0", queue=QUEUE)
