"""The audit streams: bounded, each entry once, read newest first."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground import cursor
from ojs_cluster.store.operators.operations import audit
from ojs_cluster.store.operators.operations.audit import (
    RETENTION_MS,
    AuditFilter,
    AuditPage,
    AuditStream,
)
from tests.support.invariants import InvariantReport

EVERYTHING = AuditFilter()


def entry(number: int, **more: Any) -> bytes:
    return orjson.dumps({"n": number, **more})


async def append(store: Store, stream: AuditStream, *entries: bytes, batch: str = "") -> None:
    await audit.append_entries(store, stream, entries, batch or f"batch of {entries[0]!r}")


def numbers(page: AuditPage) -> list[int]:
    return [each["n"] for each in page.entries]


async def all_pages(store: Store, wanted: AuditFilter, limit: int) -> list[int]:
    found: list[int] = []
    reached: str | None = ""
    while reached is not None:
        page = await audit.read_entries(store, wanted, limit=limit, cursor=reached)
        assert len(page.entries) <= limit
        found += numbers(page)
        reached = page.cursor
    return found


async def test_pages_of_both_streams_are_merged_newest_first(
    store: Store, consistent: Callable[[], InvariantReport]
) -> None:
    for number in range(30):
        stream = AuditStream.REFUSALS if number % 3 == 0 else AuditStream.CHANGES
        await append(store, stream, entry(number))
    whole = await all_pages(store, EVERYTHING, 100)
    assert sorted(whole) == list(range(30))
    for is_refusal in (True, False):
        of_stream = [number for number in whole if (number % 3 == 0) is is_refusal]
        assert of_stream == sorted(of_stream, reverse=True)
    page = await audit.read_entries(store, EVERYTHING, limit=100)
    times = [each["id"].split("-")[1] for each in page.entries]
    assert times == sorted(times, reverse=True)
    for limit in (1, 7, 30):
        assert await all_pages(store, EVERYTHING, limit) == whole
    consistent()


async def test_new_entries_do_not_shift_later_pages(store: Store) -> None:
    for number in range(10):
        await append(store, AuditStream.CHANGES, entry(number))
    first = await audit.read_entries(store, EVERYTHING, limit=4)
    await append(store, AuditStream.CHANGES, entry(10))
    await append(store, AuditStream.REFUSALS, entry(11))
    second = await audit.read_entries(store, EVERYTHING, limit=4, cursor=first.cursor)
    assert (numbers(first), numbers(second)) == ([9, 8, 7, 6], [5, 4, 3, 2])


async def test_filters_select_by_principal_action_and_time(store: Store, db: Any) -> None:
    for number in range(6):
        who, what = ("ann", "bob")[number % 2], ("queue.pause", "job.retry")[number // 3]
        await append(store, AuditStream.CHANGES, entry(number, principal=who, action=what))
    assert await all_pages(store, AuditFilter(principal="ann"), 1) == [4, 2, 0]
    assert await all_pages(store, AuditFilter(action="job.retry"), 2) == [5, 4, 3]
    assert await all_pages(store, AuditFilter(principal="bob", action="queue.pause"), 2) == [1]
    newest = int(db.xrevrange(store.keys.meta.audit, count=1)[0][0].split(b"-")[0])
    assert 5 in await all_pages(store, AuditFilter(since_ms=newest), 9)
    assert await all_pages(store, AuditFilter(since_ms=newest + 60_000), 9) == []


async def test_a_queue_selects_all_changes_of_the_queue(store: Store) -> None:
    changes = (
        ("queue.pause", "mail"),
        ("queue.delete", "mail discard"),
        ("queue.delete", "mail move slow"),
        ("job.retry_many", "queue=mail"),
        ("bulk.create", "count delete queue=mail type=mail.send"),
        ("bulk.create", "mail queue=mails type=mail"),
        ("queue.delete", "mails discard"),
        ("job.edit", ""),
    )
    for number, (action, changed) in enumerate(changes):
        await append(store, AuditStream.CHANGES, entry(number, action=action, object=changed))
    assert await all_pages(store, AuditFilter(object="mail"), 9) == [4, 3, 2, 1, 0]
    assert await all_pages(store, AuditFilter(object="mail", action="queue.delete"), 9) == [2, 1]
    assert await all_pages(store, AuditFilter(object="mail discard"), 9) == [1]


async def test_a_page_reads_a_bounded_number_of_entries(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MAX_READ", 10)
    await append(store, AuditStream.CHANGES, entry(0, principal="ann"))
    await append(store, AuditStream.CHANGES, *(entry(n, principal="bob") for n in range(1, 41)))
    page = await audit.read_entries(store, AuditFilter(principal="ann"), limit=5)
    assert page.entries == []
    assert page.cursor is not None
    assert await all_pages(store, AuditFilter(principal="ann"), 5) == [0]


async def test_a_batch_that_is_sent_again_is_stored_once(store: Store, other_store: Store) -> None:
    batch = [entry(0), entry(1)]
    await audit.append_entries(store, AuditStream.CHANGES, batch, "a")
    await audit.append_entries(other_store, AuditStream.CHANGES, [entry(2)], "b")
    await audit.append_entries(store, AuditStream.CHANGES, batch, "a", again=True)
    await audit.append_entries(store, AuditStream.CHANGES, [entry(3)], "c", again=True)  # was lost
    assert await all_pages(store, EVERYTHING, 100) == [3, 2, 1, 0]


async def test_each_stream_is_bounded_and_refusals_do_not_displace_changes(
    store: Store, db: Any, consistent: Callable[[], InvariantReport]
) -> None:
    meta = store.keys.meta
    await append(store, AuditStream.CHANGES, entry(-1))
    for start in range(0, AuditStream.REFUSALS.value + 200, 100):
        await append(store, AuditStream.REFUSALS, *(entry(start + n) for n in range(100)))
    assert db.xlen(meta.audit_refused) == AuditStream.REFUSALS.value
    assert db.xlen(meta.audit) == 1
    consistent()


async def test_streams_are_bounded_by_time(store: Store, db: Any) -> None:
    meta = store.keys.meta
    old_ms = int(time.time() - 60) * 1000 - RETENTION_MS
    for number in range(3):
        db.xadd(meta.audit, {"b": "x", "e": entry(number)}, id=f"{old_ms}-{number}")
    assert await all_pages(store, EVERYTHING, 100) == []  # over, though it is still there
    await append(store, AuditStream.CHANGES, entry(3))
    assert db.xlen(meta.audit) == 1
    assert 0 < db.pttl(meta.audit) <= RETENTION_MS
    assert await all_pages(store, EVERYTHING, 100) == [3]


@pytest.mark.parametrize("place", [[], ["+"] * 4, ["x", "+"], [1, "+"], {}, ["1-1-1", "+"], None])
async def test_a_cursor_of_another_form_is_refused(store: Store, place: Any) -> None:
    with pytest.raises(InvalidRequest):
        await audit.read_entries(store, EVERYTHING, limit=1, cursor=cursor.encode(place))
