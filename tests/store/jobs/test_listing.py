"""Listings: every job exactly once, filtered, page by page, with bounded work."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.ground import cursor as cursors
from tests.store.shortcuts import (
    HOUR,
    QUEUE,
    ack,
    foreign_id,
    home_id,
    nack,
    new_job,
    put,
    queues_in_other_shards,
    sibling_queue,
    take,
)
from tests.support.timeshift import age_job


async def all_pages(
    store: Store, limit: int, most_pages: int = 1000, **wanted: Any
) -> list[JobRecord]:
    found: list[JobRecord] = []
    cursor: str | None = None
    for _ in range(most_pages):
        page = await list_jobs(store, JobFilter(**wanted), limit=limit, cursor=cursor)
        assert len(page.jobs) <= limit
        found += page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the listing does not end")


async def a_bit_of_everything(store: Store) -> list[JobRecord]:
    names = [*queues_in_other_shards(store, 3), QUEUE, sibling_queue(store)]
    for name in names:
        await enqueue_many(store, [new_job(name, type=f"t.n{n % 2}") for n in range(6)])
        held = await take(store, name, count=5)
        await ack(store, held[0])
        await nack(store, held[1])
        await nack(store, held[2], {"retryable": False})
        await cancel(store, held[3].id)
        await put(store, name, scheduled_at="+PT1H")
        await put(store, name, pending=True)
    await put(store, id=foreign_id(store))
    stored = []
    for name in names:
        for state in State:
            stored += await all_pages(store, 100, queue=name, state=state)
    assert len(stored) == 41
    return stored


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_show_every_job_exactly_once(store: Store, limit: int) -> None:
    stored = await a_bit_of_everything(store)
    listed = await all_pages(store, limit)

    assert sorted(job.id for job in listed) == sorted(job.id for job in stored)


async def test_every_filter_and_their_combinations_hold(store: Store) -> None:
    stored = await a_bit_of_everything(store)
    for state in (None, *State):
        for queue in (None, QUEUE, "nobody"):
            for kind in (None, "t.n0", "t.n9"):
                wanted = {"state": state, "queue": queue, "type": kind}
                listed = await all_pages(store, 5, **wanted)
                expected = [
                    job.id
                    for job in stored
                    if (state is None or job.state is state)
                    and (queue is None or job.queue == queue)
                    and (kind is None or job.type == kind)
                ]
                assert sorted(job.id for job in listed) == sorted(expected), wanted


async def test_a_type_with_an_asterisk_is_how_a_type_begins(store: Store) -> None:
    for kind in ("mail.send", "mail.sort", "mailer.run"):
        await put(store, type=kind)
    for wanted, count in (("mail.*", 2), ("mail*", 3), ("*", 3), ("mail.s", 0), ("mail.send", 1)):
        assert len(await all_pages(store, 10, type=wanted)) == count, wanted


async def test_the_jobs_of_a_worker_are_those_it_holds(store: Store) -> None:
    for _ in range(3):
        await put(store)
    [mine], [_] = await take(store, worker="w1"), await take(store, worker="w2")
    [done] = await take(store, worker="w1")
    await ack(store, done)
    for state in (None, State.ACTIVE):
        assert [job.id for job in await all_pages(store, 1, worker="w1", state=state)] == [mine.id]


async def test_a_time_admits_what_was_created_in_it(store: Store, db: Any) -> None:
    old, new = await put(store), await put(store)
    age_job(db, store.keys.shard_of_queue(QUEUE), old.id, HOUR)
    at = new.created_ms
    for bounds, expected in (
        ({"since_ms": at - HOUR // 2}, [new.id]),
        ({"until_ms": at - HOUR // 2}, [old.id]),
        ({"since_ms": at, "until_ms": at + 1}, [new.id]),
        ({"until_ms": at}, [old.id]),
    ):
        assert [job.id for job in await all_pages(store, 5, **bounds)] == expected, bounds


async def test_finished_jobs_and_dead_letters_come_newest_first(store: Store, db: Any) -> None:
    dead: dict[str, Any] = {"max_attempts": 1, "retry": {"on_exhaustion": "dead_letter"}}
    found = []
    for age in range(7):
        await put(store, **dead)
        found.append((await nack(store, (await take(store))[0])).id)
        age_job(db, store.keys.shard_of_queue(QUEUE), found[-1], age * HOUR)
    for wanted in ({"state": State.DISCARDED}, {"dead": True}, {"dead": True, "queue": QUEUE}):
        assert [job.id for job in await all_pages(store, 2, **wanted)] == found, wanted


async def test_jobs_of_one_score_are_not_lost_between_pages(store: Store) -> None:
    stored = await enqueue_many(
        store, [new_job(scheduled_at="2099-01-01T00:00:00Z") for _ in range(250)]
    )
    listed = await all_pages(store, 30, state=State.SCHEDULED)

    assert [job.id for job in listed] == sorted(job.id for job in stored)


async def test_an_empty_server_lists_nothing(store: Store) -> None:
    assert await all_pages(store, 10) == []


async def test_a_page_looks_at_a_bounded_number_of_jobs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_cluster.store.features.search.lists.SCAN_BUDGET", 50)
    oldest = await put(store, type="needle.only")
    await enqueue_many(store, [new_job() for _ in range(200)])

    page = await list_jobs(store, JobFilter(queue=QUEUE, type="needle.only"), limit=10)
    assert page.jobs == []
    assert page.next_cursor is not None
    found = await all_pages(store, 10, queue=QUEUE, type="needle.only")
    assert [job.id for job in found] == [oldest.id]


@pytest.mark.parametrize(
    "cursor", ["x", "W10", "WzAsMCwiIiwieCIsMF0", "WzksMCwiIiwiMSIsMF0", "bnVsbA"]
)
async def test_a_cursor_of_another_server_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await list_jobs(store, JobFilter(), limit=1, cursor=cursor)


@pytest.mark.parametrize(
    "place",
    [
        [0, 0, "", "nan", 0],
        [0, 0, "", "inf", 0],
        [0, 0, "", "1_0", 0],
        [0, 0, "", " 1", 0],
        [0, 0, "", "1e400", 0],
        [0, 0, "", "\u0663", 0],
        [0, 0, "", "-inf", 2**63],
        [0, 0, "", "-inf", True],
        [False, 0, "", "-inf", 0],
        [1, 0, "}:{", "-inf", 0],
        [1, 0, "q" * 5000, "-inf", 0],
    ],
)
async def test_a_cursor_of_another_form_is_refused(store: Store, place: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        await list_jobs(store, JobFilter(), limit=1, cursor=cursors.encode(place))


async def test_a_job_is_read_as_it_was_answered_and_reading_changes_nothing(
    store: Store, db: Any
) -> None:
    job = await put(store, tags=["a"], timeout_ms=5, expires_at="+PT1H")
    key = store.keys.shard_of_queue(QUEUE).job(job.id)
    before = db.hgetall(key)

    assert (await read_jobs.get(store, job.id)).json() == job.json()
    assert db.hgetall(key) == before
    for unknown in (home_id(store), foreign_id(store), "x", job.id.upper()):
        with pytest.raises(NotFound):
            await read_jobs.get(store, unknown)
