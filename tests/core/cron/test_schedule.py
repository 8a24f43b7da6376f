"""When a schedule is due: the calendar, the changes of the clock, what is refused."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from types import FrameType
from typing import Any

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from ojs_cluster.core.cron.calendars import calendar_of
from ojs_cluster.core.cron.schedule import Schedule, parse_schedule
from ojs_cluster.core.errors import InvalidRequest
from tests.support.cron_oracle import ZONES, random_expression, utc

MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(utc(text).timestamp() * 1000)


_MOST_CALLS = 60_000
"""Calls of functions, of which a fast machine makes some millions a second."""


def bounded(action: Callable[[], Any]) -> Any:
    """What ``action`` returns. Raises AssertionError once it takes too many steps, which are
    counted because a clock would measure the machine.
    """
    calls = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal calls
        calls += event == "call"
        assert calls < _MOST_CALLS, "so much work must not be asked for by a client"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return action()
    finally:
        sys.setprofile(before)


def following(expression: str, after: str, zone: str = "UTC", count: int = 1) -> list[str]:
    """The next occurrences, as ISO text without an offset, in UTC."""
    schedule = parse_schedule(expression, zone)
    at, found = ms(after), []
    for _ in range(count):
        occurrence = schedule.following(at, ms(after))
        assert occurrence is not None
        at = occurrence.ms
        found.append(datetime.fromtimestamp(at / 1000, UTC).replace(tzinfo=None).isoformat(" "))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", "2026-01-01 00:01:00"),
        ("*/15 * * * *", "2026-01-01 00:15:00"),
        ("5/20 * * * *", "2026-01-01 00:05:00"),
        ("30 9 * * *", "2026-01-01 09:30:00"),
        ("0 9 * * MON-FRI", "2026-01-01 09:00:00"),
        ("0 0 * feb *", "2026-02-01 00:00:00"),
        ("0 0 * * 0", "2026-01-04 00:00:00"),
        ("0 0 * * 7", "2026-01-04 00:00:00"),
        ("0 0 * * sun", "2026-01-04 00:00:00"),
        ("0 0 * * FRI-SUN", "2026-01-02 00:00:00"),
        ("0 0 * * 6-6", "2026-01-03 00:00:00"),
        ("0 0 * * 7-7", "2026-01-04 00:00:00"),
        ("0 0 * * 7-0", "2026-01-04 00:00:00"),
        ("0 0 * * 7-SUN", "2026-01-04 00:00:00"),
        ("0 0 * * 7-0/2", "2026-01-04 00:00:00"),
        ("0 0 * * 0-7", "2026-01-02 00:00:00"),
        ("0 0 * * 7-6", "2026-01-02 00:00:00"),
        ("0 22-2 * * *", "2026-01-01 01:00:00"),
        ("*/10 * * * * *", "2026-01-01 00:00:10"),
        ("30 0 0 1 * *", "2026-01-01 00:00:30"),
        ("0 0 L * *", "2026-01-31 00:00:00"),
        ("0 0 17W * *", "2026-01-16 00:00:00"),
        ("0 0 LW * *", "2026-01-30 00:00:00"),
        ("0 0 * * 5L", "2026-01-30 00:00:00"),
        ("0 0 * * 5#3", "2026-01-16 00:00:00"),
        ("0 0 13 * FRI", "2026-01-02 00:00:00"),
        ("0 0 29 2 *", "2028-02-29 00:00:00"),
        ("@yearly", "2027-01-01 00:00:00"),
        ("@annually", "2027-01-01 00:00:00"),
        ("@monthly", "2026-02-01 00:00:00"),
        ("@weekly", "2026-01-04 00:00:00"),
        ("@daily", "2026-01-02 00:00:00"),
        ("@midnight", "2026-01-02 00:00:00"),
        ("@hourly", "2026-01-01 01:00:00"),
        ("  0   12  *  * * ", "2026-01-01 12:00:00"),
    ],
)
def test_every_spelling_of_the_spec(expression: str, expected: str) -> None:
    assert following(expression, "2026-01-01") == [expected]


def test_a_day_that_a_month_does_not_have_is_skipped() -> None:
    assert following("0 0 31W * *", "2026-01-31", count=3) == [
        "2026-03-31 00:00:00",
        "2026-05-29 00:00:00",
        "2026-07-31 00:00:00",
    ]
    assert following("0 0 31 * *", "2026-01-31", count=2) == [
        "2026-03-31 00:00:00",
        "2026-05-31 00:00:00",
    ]


def test_kinds_of_days_can_be_mixed_and_are_joined_by_or() -> None:
    assert following("0 0 1,15W,L * 1#2", "2026-02-01", count=5) == [
        "2026-02-09 00:00:00",
        "2026-02-16 00:00:00",
        "2026-02-28 00:00:00",
        "2026-03-01 00:00:00",
        "2026-03-09 00:00:00",
    ]


@pytest.mark.parametrize(
    "expression",
    [
        "",
        " ",
        "not a valid cron",
        "0 0 0 0 0 0 0",
        "* * * *",
        "99 25 32 13 8",
        "60 * * * *",
        "* 24 * * *",
        "* * 32 * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * 0 *",
        "* * * * 8",
        "60 * * * * *",
        "*/0 * * * *",
        "*/61 * * * *",
        "1- * * * *",
        "-5 * * * *",
        "1-2-3 * * * *",
        "1,,2 * * * *",
        "a * * * *",
        "* * * foo *",
        "* * * * MONDAY",
        "0 0 * * 5#6",
        "0 0 * * L",
        "0 0 32W * *",
        "0 0 0W * *",
        "0 0 L-3 * *",
        "L * * * *",
        "H * * * *",
        "R R * * *",
        "h(0-5) * * * *",
        "0 0 30 2 *",
        "0 0 31 2,4,6,9,11 *",
        "* * 31W 2 *",
        "* * * 30W 2 *",
        "0 0 31W 2,4,6,9,11 *",
        "@sometimes",
        "@reboot",
        "@every",
        "@every 5",
        "@every -5m",
        "@every 500ms",
        "@every 9999999h",
        "* * * * *\n* * * * *",
        "٥ * * * *",  # noqa: RUF001 - digits of another script
        "* " * 200,
    ],
)
def test_an_invalid_expression_is_refused(expression: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bounded(lambda: parse_schedule(expression, field="cron"))
    assert refused.value.field == "cron"


@pytest.mark.parametrize(
    "zone",
    [
        *("", "EST", "CET", "PST8PDT", "+05:00", "UTC+5", "-08:00", "Mars/Base"),
        *("america/new_york", "../etc/passwd", "/etc/localtime", "right/Asia/Tokyo"),
        "Europe/Berlin ",
    ],
)
def test_only_iana_names_are_zones(zone: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_schedule("* * * * *", zone)
    assert refused.value.field == "timezone"


def test_local_time_counts() -> None:
    assert following("0 9 * * *", "2026-01-01", "Asia/Tokyo") == ["2026-01-02 00:00:00"]
    assert following("0 9 * * *", "2026-01-01", "America/New_York") == ["2026-01-01 14:00:00"]
    assert following("0 9 * * *", "2026-07-01", "America/New_York") == ["2026-07-01 13:00:00"]


def test_time_that_is_skipped_in_spring_does_not_fire_and_is_reported() -> None:
    schedule = Schedule("30 2 * * *", "America/New_York")

    occurrence = schedule.following(ms("2026-03-07 12:00"), 0)

    assert occurrence is not None
    assert occurrence.ms == ms("2026-03-09 06:30")
    assert occurrence.gap_ms == ms("2026-03-08 07:00")
    later = schedule.following(occurrence.ms, 0)
    assert later is not None
    assert later.gap_ms is None


def test_of_several_skipped_times_in_a_row_the_first_is_reported() -> None:
    """Tehran put its clock forward at midnight of 22 March in 2017, 2018 and 2019."""
    schedule = Schedule("30 0 22 3 *", "Asia/Tehran")

    occurrence = schedule.following(ms("2017-01-01"), 0)

    assert occurrence is not None
    assert occurrence.ms == ms("2020-03-21 20:00")
    assert occurrence.gap_ms == ms("2017-03-21 20:30")


def test_time_that_comes_twice_in_autumn_fires_the_first_time_only() -> None:
    assert following("30 1 * * *", "2026-10-31 12:00", "America/New_York", 2) == [
        "2026-11-01 05:30:00",
        "2026-11-02 06:30:00",
    ]
    assert following("*/30 * * * *", "2026-11-01 05:00", "America/New_York", 2) == [
        "2026-11-01 05:30:00",
        "2026-11-01 07:00:00",
    ]
    # Asked in the middle of the second time: nothing more of it is due.
    assert following("* * * * * *", "2026-11-01 06:10", "America/New_York") == [
        "2026-11-01 07:00:00"
    ]


def test_a_schedule_may_have_no_occurrence_in_its_zone() -> None:
    schedule = parse_schedule("30 2 * 3 SUN#2", "America/New_York")

    assert schedule.following(ms("2026-01-01"), 0) is None


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("* * 31W 2 *", "UTC", "2026-01-01", None),
        ("* * * 31W 2 *", "UTC", "2026-01-01", None),
        ("* * * 29W 2 *", "UTC", "2028-03-01", "2032-02-27"),
        ("* * 29W 2 *", "UTC", "2096-03-01", "2104-02-29"),
        ("* * * 30W 1,2 *", "UTC", "2027-02-01", "2028-01-31"),
        ("* * * 31W * *", "UTC", "2026-04-29 12:00", "2026-05-29"),
        ("* * 29 2 MON#5", "UTC", "2028-02-29 23:59", "2032-02-29"),
        # All that is wanted lies in the hour that the clock leaves out, every year.
        ("30 2 * 3 SUN#2", "America/New_York", "2026-01-01", None),
        ("* 2 * 3 0L", "Europe/Berlin", "2026-01-01", None),
    ],
)
def test_no_expression_keeps_the_server_busy(
    expression: str, zone: str, after: str, expected: str | None
) -> None:
    schedule = Schedule(expression, zone)

    occurrence = bounded(lambda: schedule.following(ms(after), 0))

    assert (occurrence and occurrence.ms) == (expected and ms(expected))


def _hostile() -> st.SearchStrategy[str]:
    """Expressions of rare days, and of many occurrences on each."""
    clock = st.sampled_from(["*", "0", "59", "*/7", "0-59", "2", "1-3"])
    days = ["31W", "30W", "29W", "28W", "1W", "LW", "L", "31", "30", "29", "*", "1-31/30"]
    month = st.sampled_from(["2", "2", "2", "3", "4", "6", "9", "10", "11", "12"])
    months = st.lists(month, min_size=1, max_size=5).map(",".join)
    weekdays = ["*", "?", "1#5", "0L", "0#2", "0#5", "6#5", "1-5", "7", "*/7"]

    def some(items: list[str]) -> st.SearchStrategy[str]:
        return st.lists(st.sampled_from(items), min_size=1, max_size=20).map(",".join)

    return st.tuples(
        *(st.one_of(st.just(""), clock), clock, clock),
        st.one_of(st.sampled_from(days), some(days)),
        st.one_of(st.just("*"), months),
        st.one_of(st.sampled_from(weekdays), some(weekdays)),
    ).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(expression=_hostile(), zone=st.sampled_from(ZONES), after=st.integers(0, 2**42))
def test_the_work_for_any_expression_is_bounded(expression: str, zone: str, after: int) -> None:
    def ask() -> None:
        schedule = parse_schedule(expression, zone)
        for _ in range(3):
            occurrence = schedule.following(after, 0)
            if occurrence is None:
                break

    with suppress(InvalidRequest):
        bounded(ask)


def test_every_counts_from_its_anchor() -> None:
    schedule = parse_schedule("@every 1h30m")
    anchor = ms("2026-01-01 00:10")

    assert schedule.following(anchor, anchor) is not None
    for after, expected in [
        ("2026-01-01 00:10", "2026-01-01 01:40"),
        ("2026-01-01 01:39", "2026-01-01 01:40"),
        ("2026-01-01 01:40", "2026-01-01 03:10"),
        ("2025-12-31 00:00", "2026-01-01 01:40"),
    ]:
        found = schedule.following(ms(after), anchor)
        assert found is not None
        assert found.ms == ms(expected)


def test_threads_can_search_the_same_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = calendar_of("0 0 1 1 *")
    later = threading.Barrier(2, timeout=60)
    set_current = croniter.set_current

    def set_when_both_search(cron: croniter, *args: Any, **kwargs: Any) -> Any:
        result = set_current(cron, *args, **kwargs)
        later.wait()
        return result

    monkeypatch.setattr(croniter, "set_current", set_when_both_search)
    starts = [datetime(year, 6, 1) for year in (2000, 2026)]
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(shared.after, starts))
    assert found == [datetime(2001, 1, 1), datetime(2027, 1, 1)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), zone=st.sampled_from(ZONES), start=st.integers(0, 400))
def test_no_occurrence_is_missed_or_invented(seed: int, zone: str, start: int) -> None:
    """Against brute force, over stretches that hold every kind of change of the clock."""
    named = random_expression(Random(seed))
    begin = utc("2026-01-01") + timedelta(days=start)
    end = begin + timedelta(days=40)
    try:
        schedule = parse_schedule(named.text, zone)
    except InvalidRequest as refused:
        assert "no such date" in refused.message  # noqa: PT017 - both outcomes are right
        assert list(named.occurrences("UTC", begin, begin + timedelta(days=800))) == []
        return

    expected = list(named.occurrences(zone, begin, end))
    at = int(begin.timestamp() * 1000) - 1
    for expected_ms in expected[:400]:
        occurrence = schedule.following(at, 0)
        assert occurrence is not None, named.text
        assert occurrence.ms == expected_ms, named.text
        at = expected_ms
    if len(expected) <= 400:
        occurrence = schedule.following(at, 0)
        assert occurrence is None or occurrence.ms >= int(end.timestamp() * 1000), named.text


@given(seed=st.integers(0, 2**32), zone=st.sampled_from(ZONES), after=st.integers(0, 2**41))
@settings(max_examples=200, deadline=None)
def test_the_next_occurrence_is_later_than_any_given_time(seed: int, zone: str, after: int) -> None:
    named = random_expression(Random(seed))
    try:
        occurrence = parse_schedule(named.text, zone).following(after, 0)
    except InvalidRequest:
        return
    assert occurrence is None or occurrence.ms > after
    assert occurrence is None or occurrence.ms % MINUTE_MS == 0
