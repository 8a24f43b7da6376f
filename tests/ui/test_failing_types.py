"""The mark since which a type fails is the one after which its failures began."""

from __future__ import annotations

import pytest

from ojs_cluster.store.operators.dashboard.marks import Mark
from ojs_cluster.ui.incidents import mark_of_failures

_MINUTE_MS = 60_000


def record(completed: int, failed: int) -> list[int]:
    """Return the numbers of a minute; the times before them do not matter."""
    return [0, 0, completed + failed, completed, failed, failed]


def mark(minute: int) -> Mark:
    """Return a mark in the middle of a minute."""
    return Mark(f"m{minute}", f"v{minute}", minute * _MINUTE_MS + 30_000)


@pytest.mark.parametrize(
    ("marks", "good", "bad", "found"),
    [
        ([], range(100, 120), range(120, 130), None),
        ([120], range(100, 120), range(121, 130), "v120"),
        ([110, 120], range(100, 120), range(121, 130), "v120"),
        ([110, 120], range(100, 110), range(111, 130), "v110"),
        ([110, 120], [], range(100, 130), None),
        ([120], [], range(121, 130), "v120"),
        ([118, 119, 120], range(100, 118), range(121, 130), "v120"),
        ([100, 120], [], range(105, 130), "v100"),
    ],
    ids=[
        "no mark",
        "one",
        "the later one",
        "the earlier one",
        "before all",
        "a new type",
        "three at once",
        "a new type, and a later mark",
    ],
)
def test_the_mark_before_the_failures_is_named(
    marks: list[int], good: list[int], bad: list[int], found: str | None
) -> None:
    # A record has the number of the minute after it.
    records = {minute + 1: record(9, 1) for minute in good}
    records |= {minute + 1: record(5, 5) for minute in bad}
    blamed = mark_of_failures([mark(minute) for minute in marks], records)
    assert (None if blamed is None else blamed.label) == found


def test_the_minute_of_a_mark_is_on_neither_side() -> None:
    records = {101: record(10, 0), 111: record(0, 10)}
    blamed = mark_of_failures([mark(110)], records)
    assert blamed is not None
    assert mark_of_failures([mark(110)], {110: record(0, 10), **records}) is None
