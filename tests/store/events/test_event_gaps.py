"""A page of events reports when events may be missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.features.events.listing import EventFilter, EventPage, read_events
from ojs_cluster.store.features.workers.heartbeat import Heartbeat, heartbeat
from tests.store.shortcuts import QUEUE, new_job, put, shard_of, take


@pytest.fixture
def brief(store: Store) -> Store:
    """A store whose streams are short."""
    return replace(store, settings=replace(store.settings, events_per_shard=50))


async def page_after(store: Store, page: EventPage | None, limit: int = 1000) -> EventPage:
    cursor = page.cursor if page else None
    return await read_events(store, EventFilter(), after=cursor, limit=limit)


async def flood(store: Store, jobs: int, queue: str = QUEUE) -> None:
    """One entry for each job."""
    for _ in range(jobs):
        await put(store, queue)


async def test_a_reader_that_keeps_up_sees_no_gap(brief: Store) -> None:
    page = await page_after(brief, None)
    assert not page.gap
    for _ in range(12):
        await flood(brief, 30)
        page = await page_after(brief, page)
        assert not page.gap
        assert len(page.events) == 30
    page = await page_after(brief, page)
    assert (page.events, page.gap) == ([], False)


async def test_a_slow_reader_sees_the_gap_once(brief: Store) -> None:
    await flood(brief, 3)
    page = await page_after(brief, None)
    await flood(brief, 400)

    page = await page_after(brief, page)
    assert page.gap
    assert len(page.events) < 400
    page = await page_after(brief, page)
    assert (page.events, page.gap) == ([], False)


async def test_a_gap_in_a_stream_that_was_empty_is_reported(brief: Store) -> None:
    page = await page_after(brief, None)
    await flood(brief, 400)
    page = await page_after(brief, page)
    assert page.gap
    assert not (await page_after(brief, page)).gap


async def test_pages_of_a_full_stream_have_no_gap(brief: Store) -> None:
    await flood(brief, 120)
    page, seen = await page_after(brief, None, limit=7), 0
    while page.events:
        seen += len(page.events)
        assert not page.gap
        page = await page_after(brief, page, limit=7)
    assert 50 <= seen < 120


async def test_a_lost_stream_is_reported_as_a_gap(brief: Store, db: Any) -> None:
    await flood(brief, 3)
    page = await page_after(brief, None)
    db.delete(shard_of(brief).events)
    page = await page_after(brief, page)
    assert (page.events, page.gap) == ([], True)
    assert not (await page_after(brief, page)).gap


async def test_heartbeats_of_one_worker_share_entries(store: Store, db: Any) -> None:
    """So a worker with many jobs does not displace other events."""
    await enqueue_many(store, [new_job() for _ in range(96)])
    jobs = await take(store, count=96)
    before = db.xlen(shard_of(store).events)
    reply = await heartbeat(store, Heartbeat("w1", [job.id for job in jobs]))

    assert len(reply.extended) == 96
    assert db.xlen(shard_of(store).events) - before == 6
    page = await read_events(store, EventFilter(types=["job.heartbeat"]))
    assert len(page.events) == 96
