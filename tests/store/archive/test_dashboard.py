"""Export and import of marks on charts and saved searches."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.archive.archive import parse
from ojs_cluster.store.operators.archive.dashboard_lines import restore_mark, restore_search
from ojs_cluster.store.operators.archive.line_values import InvalidLine
from ojs_cluster.store.operators.dashboard import searches
from ojs_cluster.store.operators.dashboard.marks import KEPT_MS, Mark, add_mark, read_marks
from ojs_cluster.store.operators.dashboard.searches import SavedSearch, read_searches, save_search
from tests.store.archives import export_text, import_text

NOW_MS = time.time_ns() // 1_000_000
MARKS = [Mark("0" * 16, "v1 ü", NOW_MS - 5), Mark("1" * 16, "v2", NOW_MS, "alice")]
SEARCH = SavedSearch("failed mail", 'state:discarded "x"', 5, "bob")


async def test_marks_and_saved_searches_are_restored_unless_they_exist(
    store: Store, db: Any
) -> None:
    for mark in MARKS:
        await add_mark(store, mark)
    await save_search(store, SEARCH)
    text = await export_text(store)
    db.delete(store.keys.meta.marks, store.keys.meta.searches)
    for created in ({"marks": 2, "saved searches": 1}, {}):  # an import may be repeated
        counts, messages = await import_text(store, text)
        assert (counts.created, counts.refused, messages) == (created, 0, [])
        assert await read_marks(store) == MARKS
        assert await read_searches(store) == [SEARCH]

    other = SavedSearch(SEARCH.name, "state:active", 6)
    await save_search(store, other)
    counts, _ = await import_text(store, text)
    assert counts.existing == {"marks": 2, "saved searches": 1}
    assert await read_searches(store) == [other]


async def test_no_mark_is_restored_that_is_too_old_or_in_the_future(store: Store) -> None:
    assert not await restore_mark(store, Mark("0" * 16, "old", NOW_MS - KEPT_MS - 1))
    with pytest.raises(InvalidLine, match="future"):
        await restore_mark(store, Mark("1" * 16, "new", NOW_MS + 2 * 86_400_000))
    assert await read_marks(store) == []


async def test_more_searches_than_the_maximum_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save_search(store, SEARCH)
    monkeypatch.setattr(searches, "MAX_SEARCHES", 1)
    with pytest.raises(InvalidLine, match="at most 1 searches"):
        await restore_search(store, SavedSearch("other", "state:active", 1))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mark", {"id": "x"}),
        ("mark", {"label": ""}),
        ("mark", {"label": "a\nb"}),
        ("mark", {"at_ms": "x"}),
        ("mark", {"principal": 5}),
        ("search", {"name": " x"}),
        ("search", {"name": "x" * 61}),
        ("search", {"query": ""}),
        ("search", {"query": "state:loud"}),
        ("search", {"saved_ms": 2**60}),
        ("search", {"principal": "x" * 1001}),
    ],
)
def test_a_line_that_no_export_writes_is_refused(kind: str, change: dict[str, Any]) -> None:
    line: dict[str, Any] = {"id": "0" * 16, "label": "v1", "at_ms": 1}
    if kind == "search":
        line = {"name": "x", "query": "state:active", "saved_ms": 1}
    parse(json.dumps({kind: line}).encode())
    with pytest.raises(InvalidLine):
        parse(json.dumps({kind: line | change}).encode())
