"""The audit streams: bounded, each entry once, read newest first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.store import cursor
from ojs_cluster.store.context import Store
from ojs_cluster.store.operations import audit
from ojs_cluster.store.operations.audit import RETENTION_MS, AuditFilter, AuditPage, Stream
from tests.support.invariants import Census

EVERYTHING = AuditFilter()


def entry(number: int, **more: Any) -> bytes:
    return orjson.dumps({"n": number, **more})


async def append(store: Store, stream: Stream, *entries: bytes, batch: str = "") -> None:
    await audit.append(store, stream, entries, batch or f"batch of {entries[0]!r}")


def numbers(page: AuditPage) -> list[int]:
    return [each["n"] for each in page.entries]


async def all_pages(store: Store, wanted: AuditFilter, limit: int) -> list[int]:
    found: list[int] = []
    reached: str | None = ""
    while reached is not None:
        page = await audit.read(store, wanted, limit=limit, cursor=reached)
        assert len(page.entries) <= limit
        found += numbers(page)
        reached = page.cursor
    return found


async def test_pages_of_both_streams_are_merged_newest_first(
    store: Store, consistent: Callable[[], Census]
) -> None:
    for number in range(30):
        stream = Stream.REFUSALS if number % 3 == 0 else Stream.CHANGES
        await append(store, stream, entry(number))
    whole = await all_pages(store, EVERYTHING, 100)
    assert sorted(whole) == list(range(30))
    for is_refusal in (True, False):
        of_stream = [number for number in whole if (number % 3 == 0) is is_refusal]
        assert of_stream == sorted(of_stream, reverse=True)
    page = await audit.read(store, EVERYTHING, limit=100)
    times = [each["id"].split("-")[1] for each in page.entries]
    assert times == sorted(times, reverse=True)
    for limit in (1, 7, 30):
        assert await all_pages(store, EVERYTHING, limit) == whole
    consistent()


async def test_entries_that_come_meanwhile_do_not_shift_a_page(store: Store) -> None:
    for number in range(10):
        await append(store, Stream.CHANGES, entry(number))
    first = await audit.read(store, EVERYTHING, limit=4)
    await append(store, Stream.CHANGES, entry(10))
    await append(store, Stream.REFUSALS, entry(11))
    second = await audit.read(store, EVERYTHING, limit=4, cursor=first.cursor)
    assert (numbers(first), numbers(second)) == ([9, 8, 7, 6], [5, 4, 3, 2])


async def test_filters_admit_a_principal_an_action_and_what_came_since(
    store: Store, db: Any
) -> None:
    for number in range(6):
        who, what = ("ann", "bob")[number % 2], ("queue.pause", "job.retry")[number // 3]
        await append(store, Stream.CHANGES, entry(number, principal=who, action=what))
    assert await all_pages(store, AuditFilter(principal="ann"), 1) == [4, 2, 0]
    assert await all_pages(store, AuditFilter(action="job.retry"), 2) == [5, 4, 3]
    assert await all_pages(store, AuditFilter(principal="bob", action="queue.pause"), 2) == [1]
    newest = int(db.xrevrange(store.keys.meta.audit, count=1)[0][0].split(b"-")[0])
    assert 5 in await all_pages(store, AuditFilter(since_ms=newest), 9)
    assert await all_pages(store, AuditFilter(since_ms=newest + 60_000), 9) == []


async def test_a_filter_that_admits_little_bounds_the_work_of_a_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MOST_READ", 10)
    await append(store, Stream.CHANGES, entry(0, principal="ann"))
    await append(store, Stream.CHANGES, *(entry(n, principal="bob") for n in range(1, 41)))
    page = await audit.read(store, AuditFilter(principal="ann"), limit=5)
    assert page.entries == []
    assert page.cursor is not None
    assert await all_pages(store, AuditFilter(principal="ann"), 5) == [0]


async def test_a_batch_that_is_sent_again_is_stored_once(store: Store, other_store: Store) -> None:
    batch = [entry(0), entry(1)]
    await audit.append(store, Stream.CHANGES, batch, "a")
    await audit.append(other_store, Stream.CHANGES, [entry(2)], "b")
    await audit.append(store, Stream.CHANGES, batch, "a", again=True)
    await audit.append(store, Stream.CHANGES, [entry(3)], "c", again=True)  # was lost
    assert await all_pages(store, EVERYTHING, 100) == [3, 2, 1, 0]


async def test_streams_are_bounded_by_count_and_refusals_push_no_change_out(
    store: Store, db: Any, consistent: Callable[[], Census]
) -> None:
    meta = store.keys.meta
    await append(store, Stream.CHANGES, entry(-1))
    for start in range(0, Stream.REFUSALS.value + 200, 100):
        await append(store, Stream.REFUSALS, *(entry(start + n) for n in range(100)))
    assert db.xlen(meta.audit_refused) == Stream.REFUSALS.value
    assert db.xlen(meta.audit) == 1
    consistent()


async def test_streams_are_bounded_by_time(store: Store, db: Any) -> None:
    meta = store.keys.meta
    old_ms = int(time.time() - 60) * 1000 - RETENTION_MS
    for number in range(3):
        db.xadd(meta.audit, {"b": "x", "e": entry(number)}, id=f"{old_ms}-{number}")
    assert await all_pages(store, EVERYTHING, 100) == []  # over, though it is still there
    await append(store, Stream.CHANGES, entry(3))
    assert db.xlen(meta.audit) == 1
    assert 0 < db.pttl(meta.audit) <= RETENTION_MS
    assert await all_pages(store, EVERYTHING, 100) == [3]


@pytest.mark.parametrize("place", [[], ["+"] * 4, ["x", "+"], [1, "+"], {}, ["1-1-1", "+"], None])
async def test_a_cursor_must_be_ours(store: Store, place: Any) -> None:
    with pytest.raises(InvalidRequest):
        await audit.read(store, EVERYTHING, limit=1, cursor=cursor.encode(place))
