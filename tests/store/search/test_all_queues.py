"""Available jobs of all queues: newest first over many queues, each job exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.engine.jobs.listing import JobFilter
from ojs_cluster.store.features.search import all_queues
from ojs_cluster.store.features.search.lists import list_jobs
from ojs_cluster.store.ground import cursor as cursors
from tests.store.hot_queues import spread
from tests.store.search.test_lists import pages, wanted_by
from tests.store.shortcuts import new_job, put, shard_of

AVAILABLE = JobFilter(state=State.AVAILABLE)


async def put_in_turn(store: Store, queues: int, rounds: int = 3) -> list[str]:
    """Enqueue jobs of many queues in turn; return their ids, newest first.

    A batch chooses the priorities, so a queue is not in the order of its jobs' times.
    """
    made: list[str] = []
    for turn in range(rounds):
        jobs = [new_job(f"q{number:02}", priority=(turn * 7) % 5) for number in range(queues)]
        made += [job.id for job in await enqueue_many(store, jobs)]
    return sorted(made, reverse=True)


async def ids_of(store: Store, wanted: JobFilter, limit: int) -> list[str]:
    return [job.id for job in await pages(store, wanted, limit)]


@pytest.mark.parametrize("limit", [7, 200])
async def test_jobs_of_many_queues_come_newest_first(store: Store, db: Any, limit: int) -> None:
    await spread(store, db, 3, "q07")
    made = await put_in_turn(store, 40)
    blocked, shard = made[50], None
    for number in range(40):
        for shard in store.keys.partitions(f"q{number:02}", 3):
            if db.zscore(shard.queue_available(f"q{number:02}"), blocked):
                score = db.zscore(shard.queue_available(f"q{number:02}"), blocked)
                db.zadd(shard.queue_blocked(f"q{number:02}"), {blocked: score})
                db.zrem(shard.queue_available(f"q{number:02}"), blocked)
    assert await ids_of(store, AVAILABLE, limit) == made
    searched = wanted_by("type:mail.send state:available queue:q07,q11,q30")
    within = JobFilter(state=State.AVAILABLE, within=QueuePatterns(("q07", "q3*")))
    for wanted, names in ((searched, {"q07", "q11", "q30"}), (within, None)):
        found = await pages(store, wanted, limit)
        assert [job.id for job in found] == sorted((job.id for job in found), reverse=True)
        queues = {job.queue for job in found}
        assert queues == (names or {"q07", *(f"q{number}" for number in range(30, 40))})
        assert len(found) == 3 * len(queues)


@pytest.mark.parametrize("limit", [3, 200])
async def test_groups_and_large_queues_follow_each_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(all_queues, "MAX_ENTRIES", 10)
    monkeypatch.setattr(all_queues, "_NAMES", 2)
    made = await put_in_turn(store, 7)
    large = [job.id for job in await enqueue_many(store, [new_job("q03") for _ in range(20)])]
    found = await pages(store, AVAILABLE, limit)
    assert sorted(job.id for job in found) == sorted([*made, *large])
    groups = [{"q00", "q01", "q02"}, {"q03"}, {"q04", "q05", "q06"}]
    places = [next(n for n, group in enumerate(groups) if job.queue in group) for job in found]
    assert places == sorted(places)
    for number in (0, 2):
        ids = [job.id for job, place in zip(found, places, strict=True) if place == number]
        assert ids == sorted(ids, reverse=True)
    monkeypatch.setattr(all_queues, "MAX_QUEUES", 1)
    monkeypatch.setattr(all_queues, "MAX_ENTRIES", 100)
    assert [job.queue for job in await pages(store, AVAILABLE, limit)] == sorted(
        job.queue for job in found
    )


async def test_a_cursor_goes_on_exactly_while_jobs_come_and_go(store: Store, db: Any) -> None:
    made = await put_in_turn(store, 12)
    page = await list_jobs(store, AVAILABLE, limit=10)
    assert [job.id for job in page.jobs] == made[:10]
    await put_in_turn(store, 20)  # newer jobs, also of new queues
    gone = made[12]
    for number in range(12):
        db.zrem(shard_of(store, f"q{number:02}").queue_available(f"q{number:02}"), gone)
    rest = []
    while page.next_cursor is not None:
        page = await list_jobs(store, AVAILABLE, limit=10, cursor=page.next_cursor)
        rest += [job.id for job in page.jobs]
    # The new queues have names after the last one of the group, so they are a later group.
    later = rest[len(made) - 11 :]
    assert rest[: len(made) - 11] == [job_id for job_id in made[10:] if job_id != gone]
    assert len(later) == 8 * 3
    assert not set(later) & set(made)


async def test_a_group_that_has_grown_too_much_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_in_turn(store, 5, rounds=1)
    cursor = (await list_jobs(store, AVAILABLE, limit=2)).next_cursor
    monkeypatch.setattr(all_queues, "MAX_ENTRIES", 2)
    with pytest.raises(InvalidRequest, match="begin again"):
        await list_jobs(store, AVAILABLE, limit=2, cursor=cursor)
    monkeypatch.setattr(all_queues, "MAX_ENTRIES", 100)
    monkeypatch.setattr(all_queues, "MAX_QUEUES", 2)
    with pytest.raises(InvalidRequest, match="begin again"):
        await list_jobs(store, AVAILABLE, limit=2, cursor=cursor)


async def test_damaged_names_and_ids_are_left_out(store: Store, db: Any) -> None:
    job = await put(store, "mail")
    db.zadd(store.keys.meta.queues, {b"\xff": 0, b"a\xfe": 0, b"UPPER": 0})
    db.zadd(shard_of(store, "mail").queue_available("mail"), {b"\xff": 1, b"zz": 2})
    db.zadd(shard_of(store, "mail").finished, {b"\xff": 1})
    for wanted in (AVAILABLE, JobFilter(), wanted_by("type:mail.*")):
        assert await ids_of(store, wanted, 2) == [job.id]


@pytest.mark.parametrize(
    "position",
    [[0, "a", "b", 7], [1, "a", "b", None], [0, "A", "b", None], [0, "a", "", None], [0, "a", "b"]],
)
async def test_a_cursor_of_another_list_is_refused(store: Store, position: list[Any]) -> None:
    await put(store)
    with pytest.raises(InvalidRequest):
        await list_jobs(store, AVAILABLE, limit=2, cursor=cursors.encode(position))
    good = cursors.encode([0, "a", "b", None])
    with pytest.raises(InvalidRequest):
        await list_jobs(store, JobFilter(queue="mail"), limit=2, cursor=good)
