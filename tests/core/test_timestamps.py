from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.timestamps import TimePoint, format_ms, parse_timestamp

offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)), offsets)
def test_an_absolute_time_is_the_same_moment_and_keeps_its_spelling(
    naive: datetime, zone: timezone
) -> None:
    moment = naive.replace(tzinfo=zone)
    text = moment.isoformat(timespec="microseconds")
    elapsed = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_timestamp(text) == TimePoint(elapsed // timedelta(milliseconds=1), False, text)


@given(st.integers(0, 253_402_300_799_999))
def test_a_formatted_time_is_utc_with_milliseconds_and_parses_back(ms: int) -> None:
    text = format_ms(ms).decode()
    assert len(text) == 24
    assert text.endswith("Z")
    assert parse_timestamp(text).ms == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01T00:00:00.9999999Z", 999),
        ("1970-01-01T00:00:00.5Z", 500),
        ("1969-12-31T23:59:59.250Z", -750),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T23:59:00-00:01", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000),
    ],
)
def test_every_form_of_rfc_3339_is_understood(text: str, ms: int) -> None:
    assert parse_timestamp(text).ms == ms


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_the_first_and_the_last_moment_are_written_as_they_were_sent(text: str) -> None:
    assert format_ms(parse_timestamp(text).ms).decode() == text


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (253_402_300_800_000, b"9999-12-31T23:59:59.000Z"),
        (2**53, b"9999-12-31T23:59:59.992Z"),
        (-62_135_596_800_001, b"0001-01-01T00:00:00.999Z"),
        (-(2**53), b"0001-01-01T00:00:00.008Z"),
    ],
)
def test_a_moment_that_cannot_be_written_becomes_the_nearest_second(ms: int, shown: bytes) -> None:
    assert format_ms(ms) == shown


def test_a_relative_time_has_no_spelling_of_its_own() -> None:
    assert parse_timestamp("+PT5S") == TimePoint(5_000, True, None)
    assert parse_timestamp("+P1DT0.5S") == TimePoint(86_400_500, True, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "2026-03-01",
        "2026-03-01T09:00:00",
        "2026-03-01 09:00:00Z",
        "2026-03-01T09:00Z",
        "20260301T090000Z",
        "2026-W09-7T09:00:00Z",
        "2026-03-01T09:00:00+0100",
        "2026-03-01T09:00:00+01",
        "2026-03-01T09:00:00+24:00",
        "2026-03-01T09:00:00+01:60",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T09:60:00Z",
        "2026-03-01T09:00:61Z",
        "0000-01-01T00:00:00Z",
        "2026-03-01T09:00:00.Z",
        "2026-03-01T09:00:00Z\n",
        " 2026-03-01T09:00:00Z",
        "1772355600",
        "PT5S",
        "+PT0S",
        "+P1M",
        "+PT5S\n",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999-00:01",
        "0001-01-01T00:00:00+23:59",
        "0001-01-01T00:00:00+00:01",
        "+-PT5S",
        "２026-03-01T09:00:00Z",  # noqa: RUF001 - a digit, but not of ASCII
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must|is not a time"):
        parse_timestamp(text)
