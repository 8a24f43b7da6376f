"""Export and import of marks on charts; saved searches of an earlier version are ignored."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.archive.archive import parse
from ojs_cluster.store.operators.archive.dashboard_lines import restore_mark
from ojs_cluster.store.operators.archive.line_values import InvalidLine
from ojs_cluster.store.operators.dashboard.marks import KEPT_MS, Mark, add_mark, read_marks
from tests.store.archives import export_text, import_text

NOW_MS = time.time_ns() // 1_000_000
MARKS = [Mark("0" * 16, "v1 ü", NOW_MS - 5), Mark("1" * 16, "v2", NOW_MS, "alice")]
SEARCH = {"name": "failed", "query": "state:discarded", "saved_ms": 5, "principal": "bob"}


async def test_marks_are_restored_unless_they_exist(store: Store, db: Any) -> None:
    for mark in MARKS:
        await add_mark(store, mark)
    text = await export_text(store)
    db.delete(store.keys.meta.marks)
    for created in ({"marks": 2}, {}):  # an import may be repeated
        counts, messages = await import_text(store, text)
        assert (counts.created, counts.refused, messages) == (created, 0, [])
        assert await read_marks(store) == MARKS

    counts, _ = await import_text(store, text)
    assert counts.existing == {"marks": 2}


async def test_saved_searches_of_an_earlier_version_are_counted_and_ignored(
    store: Store, db: Any
) -> None:
    await add_mark(store, MARKS[1])
    head, *rest, end = (await export_text(store)).splitlines(keepends=True)
    lines = [json.dumps({"search": {**SEARCH, "name": name}}).encode() + b"\n" for name in "ab"]
    counts, messages = await import_text(store, b"".join([head, *lines, *rest, end]))
    assert (counts.refused, counts.total, counts.complete, messages) == (0, 3, True, [])
    assert counts.text() == "0 marks created, 1 existed already; 2 saved searches ignored"
    assert not db.exists(store.keys.meta.searches)


async def test_no_mark_is_restored_that_is_too_old_or_in_the_future(store: Store) -> None:
    assert not await restore_mark(store, Mark("0" * 16, "old", NOW_MS - KEPT_MS - 1))
    with pytest.raises(InvalidLine, match="future"):
        await restore_mark(store, Mark("1" * 16, "new", NOW_MS + 2 * 86_400_000))
    assert await read_marks(store) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"label": ""},
        {"label": " x"},
        {"label": "a\nb"},
        {"label": "x" * 101},
        {"at_ms": "x"},
        {"at_ms": 2**60},
        {"principal": 5},
        {"principal": "x" * 1001},
    ],
)
def test_a_line_that_no_export_writes_is_refused(change: dict[str, Any]) -> None:
    line: dict[str, Any] = {"id": "0" * 16, "label": "v1", "at_ms": 1}
    parse(json.dumps({"mark": line}).encode())
    with pytest.raises(InvalidLine):
        parse(json.dumps({"mark": line | change}).encode())
