"""Events: written by the transitions themselves, read by cursor, bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ojs_cluster.core import events as event_names
from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.events import NAMES
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.nack import Nack, nack_many
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.features.agents import agents
from ojs_cluster.store.features.events.content import content_of
from ojs_cluster.store.features.events.listing import EventFilter, read_events, read_newest
from ojs_cluster.store.features.progress import checkpoints
from ojs_cluster.store.features.progress.progress import Report, report_progress
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from ojs_cluster.store.ground import cursor as cursors
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    active,
    failure,
    foreign_id,
    home_id,
    nack,
    new_job,
    promote_all,
    put,
    queues_in_other_shards,
    reap_all,
    shard_of,
    take,
)
from tests.support.timeshift import age_job, age_worker


async def events(store: Store, limit: int = 1000, **wanted: Any) -> list[dict[str, Any]]:
    page = await read_events(store, EventFilter(**wanted), limit=limit)
    return decoded(page.events)


def decoded(raw: Iterable[bytes]) -> list[dict[str, Any]]:
    return [json.loads(event) for event in raw]


def data_of(fields: dict[str, str]) -> Any:
    raw = {name.encode(): value.encode() for name, value in fields.items()}
    return json.loads(b"{%b}" % content_of(0, raw)[1])


async def one_of_each(store: Store, db: Any) -> None:
    await lifecycle.create_queue(store, QUEUE)
    await lifecycle.create_queue(store, QUEUE, accept_existing=True)
    await lifecycle.delete_queue(store, QUEUE)
    shard = shard_of(store)
    done = await active(store)
    await heartbeat(store, Heartbeat("w1", (done.id,)))
    await report_progress(store, done.id, Report(0.5, "half"), worker_id="w1", lease_id=None)
    await checkpoints.save(store, done.id, b"{}", worker_id="w1", lease_id=None)
    await ack(store, done)
    await nack(store, await active(store), {"code": "E"})
    await nack(store, await active(store, max_attempts=1), {"code": "E"})
    later = await put(store, scheduled_at="+PT1H")
    age_job(db, shard, later.id, 2 * HOUR)
    await promote_all(store)
    await agents.pause(store, later.id, "approve")
    await cancel(store, later.id)
    late = await put(store, expires_at="+PT1H")
    age_job(db, shard, late.id, 2 * HOUR)
    await reap_all(store)
    await pauses.pause_or_resume(store, QUEUE, "pause")
    await pauses.pause_or_resume(store, QUEUE, "resume")


async def test_the_transitions_write_every_event_type(store: Store, db: Any) -> None:
    await one_of_each(store, db)
    seen = await events(store)

    elsewhere = "workflow.", "cron.", "rate_limit.", "backpressure.", "tenant.", "problem."
    others = {name for name in NAMES if name.startswith(elsewhere)}
    assert {event["type"] for event in seen} == NAMES - others
    for event in seen:
        assert event["specversion"] == "1.0"
        assert event["event"] == event["type"]
        assert event["time"] == event["timestamp"]
        assert event["id"].startswith("evt_")
        assert event["data"]["queue"] == QUEUE
    assert len({event["id"] for event in seen}) == len(seen)


async def test_an_event_describes_its_transition(store: Store, db: Any) -> None:
    await one_of_each(store, db)
    by_type = {event["type"]: event for event in await events(store)}
    data = {name: event["data"] for name, event in by_type.items()}

    assert data["job.enqueued"]["job_type"] == "mail.send"
    assert by_type["job.enqueued"]["subject"] == data["job.enqueued"]["job_id"]
    about_queue = [event["type"] for event in by_type.values() if event["subject"] == QUEUE]
    assert about_queue == ["queue.created", "queue.deleted", "queue.paused", "queue.resumed"]
    assert (data["job.started"]["worker_id"], data["job.started"]["attempt"]) == ("w1", 1)
    assert data["job.completed"]["duration_ms"] >= 0
    assert data["job.completed"]["attempt"] == 1
    assert data["job.failed"]["error"]["code"] == "E"
    assert data["job.discarded"]["total_attempts"] == 1
    assert data["job.discarded"]["last_error"]["code"] == "E"
    assert data["job.retrying"]["max_attempts"] == 3
    assert data["job.retrying"]["next_retry_at"].endswith("Z")
    assert data["job.progress"]["progress_percent"] == 50
    assert data["job.progress"]["progress_message"] == "half"
    assert data["job.checkpointed"]["sequence"] == 1
    assert data["job.heartbeat"]["visible_until"].endswith("Z")
    assert data["job.scheduled"]["scheduled_at"].endswith("Z")
    assert data["job.expired"]["expired_at"].endswith("Z")


async def test_the_events_of_a_job_are_in_order(store: Store) -> None:
    job = await active(store)
    await nack(store, job, requeue=True)
    [again] = await take(store)
    await ack(store, again)
    await put(store)

    told = [event["type"] for event in await events(store, job_id=job.id)]
    assert told == ["job.enqueued", "job.started"] * 2 + ["job.completed"]


async def test_filters_by_type_queue_and_job_type_hold_together(store: Store) -> None:
    other = queues_in_other_shards(store, 1)[0]
    for name in (QUEUE, other):
        for kind in ("a.x", "a.y"):
            await ack(store, await active(store, name, type=kind))

    found = await events(store, types={"job.completed"}, queues={QUEUE}, job_types={"a.x"})
    assert [(e["type"], e["data"]["queue"], e["data"]["job_type"]) for e in found] == [
        ("job.completed", QUEUE, "a.x")
    ]
    assert len(await events(store, types={"job.*"}, queues={other})) == 6
    assert await events(store, types={"queue.*"}) == []
    assert await events(store, queues={"no-such-queue"}) == []


async def test_events_of_a_job_with_an_alias_are_found(store: Store) -> None:
    job = await put(store, id=foreign_id(store))
    [event] = await events(store, job_id=job.id, queues={QUEUE})
    assert event["data"]["job_id"] == job.id


async def test_pages_merge_the_shards_by_time(store: Store) -> None:
    names = queues_in_other_shards(store, 6)
    order = []
    for number in range(30):
        order.append((await put(store, names[number % 6])).id)
        await trio.sleep(0.002)

    assert [event["data"]["job_id"] for event in await events(store)] == order


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_a_cursor_loses_and_repeats_nothing_while_writers_go_on(
    store: Store, other_store: Store, limit: int
) -> None:
    names = queues_in_other_shards(store, 8)
    written: list[str] = []
    writing = True

    async def write(number: int) -> None:
        for turn in range(8):
            batch = [new_job(names[(number + turn + n) % 8]) for n in range(3)]
            written.extend(job.id for job in await enqueue_many(other_store, batch))

    async def write_all() -> None:
        nonlocal writing
        async with trio.open_nursery() as writers:
            for number in range(4):
                writers.start_soon(write, number)
        writing = False

    seen: list[str] = []
    cursor: str | None = None
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_all)
            while True:
                last_look = not writing
                page = await read_events(store, EventFilter(), after=cursor, limit=limit)
                seen += [event["data"]["job_id"] for event in decoded(page.events)]
                cursor = page.cursor
                assert len(page.events) <= limit
                if last_look and not page.events and not page.has_more:
                    break

    assert len(seen) == len(set(seen)), "an event was repeated"
    assert set(seen) == set(written)


async def test_the_cursor_advances_past_filtered_events(store: Store) -> None:
    for _ in range(5):
        await put(store)
    page = await read_events(store, EventFilter(types={"job.completed"}), limit=10)
    assert (page.events, page.has_more) == ([], False)
    await ack(store, (await take(store))[0])

    page = await read_events(store, EventFilter(), after=page.cursor, limit=10)
    assert [e["type"] for e in decoded(page.events)] == ["job.started", "job.completed"]


@pytest.mark.parametrize("limit", [1, 7, 16, 1000])
async def test_events_that_share_an_entry_are_read_one_by_one(
    store: Store, db: Any, limit: int
) -> None:
    made = await enqueue_many(store, [new_job() for _ in range(20)])
    made += await enqueue_many(store, [new_job(type="other.type"), new_job()])
    started = await take(store, count=100)
    assert db.xlen(shard_of(store).events) < len(made)

    seen, cursor, more = list[dict[str, Any]](), None, True
    while more:
        page = await read_events(store, EventFilter(), after=cursor, limit=limit)
        assert len(page.events) <= limit
        seen += decoded(page.events)
        assert len(seen) <= len(made) + len(started), "an event comes twice"
        cursor, more = page.cursor, page.has_more

    assert [(e["type"], e["subject"]) for e in seen[:20]] == [
        ("job.enqueued", job.id) for job in made[:20]
    ]
    assert {e["subject"] for e in seen[20:22]} == {job.id for job in made[20:]}
    assert sorted(e["subject"] for e in seen[22:]) == sorted(job.id for job in started)
    assert {e["type"] for e in seen[22:]} == {"job.started"}
    assert len({e["id"] for e in seen}) == len(seen)
    assert [e["subject"] for e in await events(store, job_id=made[5].id)] == [made[5].id] * 2
    assert {e["data"]["job_type"] for e in await events(store, job_types={"other.type"})} == {
        "other.type"
    }


async def heartbeats(store: Store, _db: Any, held: list[JobRecord]) -> list[str]:
    await heartbeat(store, Heartbeat("w1", [job.id for job in held]))
    return ["job.heartbeat"]


async def is_requeued(store: Store, _db: Any, held: list[JobRecord]) -> list[str]:
    parts = [Nack(job.id, job.lease_id, failure(), requeue=True) for job in held]
    await nack_many(store, parts, worker_id="w1")
    return ["job.enqueued"]


async def loses_its_lease(store: Store, db: Any, held: list[JobRecord]) -> list[str]:
    db.zadd(shard_of(store).active, {job.id: 1 for job in held})
    await reap_all(store)
    return ["job.failed", "job.enqueued"]


async def loses_its_worker(store: Store, db: Any, _held: list[JobRecord]) -> list[str]:
    home = store.keys.shard_of_worker("w1")
    for _ in range(3):
        await heartbeat(store, Heartbeat("w1"))
    age_worker(db, home, "w1", HOUR)
    [dead], _, _ = await workers.find_dead(store, home, 10)
    await workers.recover(store, shard_of(store), [dead])
    return ["job.failed", "job.enqueued"]


@pytest.mark.parametrize("happen", [heartbeats, is_requeued, loses_its_lease, loses_its_worker])
async def test_events_of_many_jobs_at_once_share_entries(
    store: Store, db: Any, happen: Any
) -> None:
    await enqueue_many(store, [new_job() for _ in range(40)])
    held = await take(store, count=40)
    before = await read_events(store, EventFilter(), limit=1000)
    entries = db.xlen(shard_of(store).events)

    kinds = await happen(store, db, held)

    assert db.xlen(shard_of(store).events) - entries <= 4 * len(kinds)
    page = await read_events(store, EventFilter(), after=before.cursor, limit=1000)
    told: dict[str, list[str]] = {}
    for event in decoded(page.events):
        told.setdefault(event["data"]["job_id"], []).append(event["type"])
    assert told == {job.id: kinds for job in held}


async def test_the_newest_event_comes_first_also_within_an_entry(store: Store, db: Any) -> None:
    await enqueue_many(store, [new_job() for _ in range(3)])
    assert db.xlen(shard_of(store).events) == 1
    newest, total = await read_newest(store, EventFilter(), limit=10)
    oldest = await events(store)
    assert total == 3
    assert [event["id"] for event in decoded(newest)] == [event["id"] for event in oldest[::-1]]


def test_a_skipped_occurrence_names_the_job_that_is_still_active() -> None:
    fields = {"t": "cron.skipped", "c": "daily", "x": "0 0 * * *", "z": "UTC", "q": QUEUE, "y": "t"}
    fields |= {"w": "overlap", "j": "the-active-job", "s": "0"}
    data = data_of(fields)
    assert data["active_job_id"] == "the-active-job"
    assert "job_id" not in data


def test_a_rate_limit_event_without_a_job_names_none() -> None:
    fields = {"t": "rate_limit.exceeded", "k": "mail", "j": "", "y": "", "q": "", "l": "5"}
    assert data_of(fields) == {
        "key": "mail",
        "limit": 5,
    }


async def test_the_stream_of_a_shard_is_bounded(store: Store, db: Any) -> None:
    store = replace(store, settings=replace(store.settings, events_per_shard=50))
    for _ in range(600):
        await enqueue_many(store, [new_job()])

    # Trimmed in whole nodes of 100 entries, which costs almost nothing.
    assert 50 <= db.xlen(shard_of(store).events) <= 200


async def test_an_event_with_a_malformed_time_does_not_hide_others(store: Store, db: Any) -> None:
    fields = {"t": "job.scheduled", "j": home_id(store), "y": "t", "q": QUEUE}
    db.xadd(shard_of(store).events, {**fields, "n": 253_402_300_800_000})
    job = await put(store)

    strange, other = await events(store)

    assert strange["data"]["scheduled_at"] == "9999-12-31T23:59:59.000Z"
    assert other["data"]["job_id"] == job.id


DAMAGED: tuple[dict[str, str | bytes], ...] = (
    {"x": "y"},
    {"t": "job.started", "j": "j", "y": "t"},
    {"t": b"\xff", "j": "j", "y": "t", "q": QUEUE},
    {"t": "job.started", "j": "j", "y": b"\xff", "q": QUEUE},
    {"t": "job.started", "j": b"\xff", "y": "t", "q": QUEUE},
    {"t": "job.started", "j": 'a"b', "y": "t", "q": QUEUE},
    {"t": "job.started", "j": "j", "y": "t", "q": QUEUE, "a": "x"},
    {"t": "job.failed", "j": "j", "y": "t", "q": QUEUE, "e": "x"},
    {"t": "job.scheduled", "j": "j", "y": "t", "q": QUEUE, "n": "x"},
    {"t": "job.scheduled", "j": "j", "y": "t", "q": QUEUE, "n": "inf"},
)


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_damaged_entries_are_left_out(store: Store, db: Any, limit: int) -> None:
    jobs = [await put(store)]
    for fields in DAMAGED:
        db.xadd(shard_of(store).events, fields)
    jobs.append(await put(store))
    db.xadd(shard_of(store).events, {"x": "y"})
    expected = [job.id for job in jobs]
    for wanted in (
        EventFilter(),
        EventFilter(types=["job.*"]),
        EventFilter(queues=[QUEUE]),
        EventFilter(job_types=[jobs[0].type]),
        EventFilter(within=QueuePatterns([QUEUE])),
    ):
        found: list[bytes] = []
        cursor = None
        for _ in range(4):
            page = await read_events(store, wanted, after=cursor, limit=limit)
            found += page.events
            cursor = page.cursor
        assert [event["data"]["job_id"] for event in decoded(found)] == expected
        assert not page.has_more
        newest, _ = await read_newest(store, wanted, limit=1000)
        assert [event["data"]["job_id"] for event in decoded(newest)] == expected[::-1]


async def test_events_can_be_switched_off(store: Store, db: Any) -> None:
    store = replace(store, settings=replace(store.settings, events_per_shard=0))
    await one_of_each(store, db)

    assert not db.exists(shard_of(store).events)
    assert await events(store) == []


@pytest.mark.parametrize(
    "places",
    [
        {"\u00b2": "1-1"},
        {"1" * 5000: "1-1"},
        {"01": "1-1"},
        {"0": 1},
        {"0": ["1-1"]},
        {"0": "99999999999999999999-1"},
        {"0": "1-99999999999999999999"},
        {"0": "\u0661-1"},
        [],
    ],
)
async def test_a_cursor_of_another_form_is_refused(store: Store, places: Any) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await read_events(store, EventFilter(), after=cursors.encode(places))
    assert await read_events(store, EventFilter(), after=cursors.encode({"0": "9" * 19 + "-1"}))


@pytest.mark.parametrize("cursor", ["nonsense", "e30x", "WzFd", "eyI5OSI6IjEtMSJ9", "eyIwIjoieCJ9"])
async def test_a_cursor_of_another_server_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="after"):
        await read_events(store, EventFilter(), after=cursor)


async def test_events_start_at_a_time_and_go_on_from_the_cursor(store: Store, db: Any) -> None:
    def add(shard: int, ms: int) -> None:
        fields = {"t": "job.enqueued", "j": f"job-{ms}", "y": "t", "q": "q"}
        db.xadd(store.keys.shard(shard).events, fields, id=f"{ms}-3")

    def ids(events: list[bytes]) -> list[str]:
        return [json.loads(event)["subject"] for event in events]

    for shard, ms in ((0, 1000), (0, 2000), (0, 3000), (5, 1500), (5, 2500), (7, 900)):
        add(shard, ms)
    since = EventFilter(since_ms=2000)

    page = await read_events(store, since)
    assert ids(page.events) == ["job-2000", "job-2500", "job-3000"]
    for shard in (7, 9):
        add(shard, 4000 + shard)
    page = await read_events(store, since, after=page.cursor)
    assert (ids(page.events), page.gap) == (["job-4007", "job-4009"], False)
    first = await read_events(store, since, limit=1)
    assert (ids(first.events), first.has_more) == (["job-2000"], True)
    rest = await read_events(store, since, after=first.cursor)
    assert ids(rest.events) == ["job-2500", "job-3000", "job-4007", "job-4009"]
    newest, found = await read_newest(store, since, limit=2)
    assert (ids(newest), found) == (["job-4009", "job-4007"], 5)
    for early in (-5, 0):
        page = await read_events(store, EventFilter(since_ms=early))
        assert len(page.events) == 8
        assert (await read_newest(store, EventFilter(since_ms=early), limit=1))[1] == 8
    assert (await read_events(store, EventFilter(since_ms=253402300799999))).events == []


def test_the_names_are_those_of_the_module_and_of_the_scripts() -> None:
    members = vars(event_names).items()
    assert {value for name, value in members if name.isupper() and name != "NAMES"} == NAMES
    package = Path(event_names.__file__).parents[1]
    scripts = [path.read_text() for path in package.rglob("*.lua")]
    emitted = {name for text in scripts for name in re.findall(r"\bemit\('([a-z_.]+)'", text)}
    built = {name for name in emitted if name.endswith(".")}  # the script appends a state
    assert built == {"workflow."}
    assert emitted - built <= NAMES
