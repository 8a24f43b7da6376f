from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.durations import MAX_DURATION_MS, format_duration, parse_duration_ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("PT1S", 1_000),
        ("PT0.5S", 500),
        ("PT0,5S", 500),
        ("PT0.001S", 1),
        ("PT0.0014S", 1),
        ("PT0.0016S", 2),
        ("PT1.9996S", 2_000),
        ("PT5M", 300_000),
        ("PT1H30M", 5_400_000),
        ("PT90M", 5_400_000),
        ("P1D", 86_400_000),
        ("P1W", 604_800_000),
        ("P1DT12H", 129_600_000),
        ("P3650D", MAX_DURATION_MS),
    ],
)
def test_a_duration_has_its_length_in_milliseconds(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@given(st.integers(1, MAX_DURATION_MS))
def test_a_formatted_duration_parses_back(ms: int) -> None:
    assert parse_duration_ms(format_duration(ms)) == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [(1, "PT0.001S"), (1_000, "PT1S"), (300_000, "PT5M"), (5_400_000, "PT1H30M"), (0, "PT0S")],
)
def test_durations_are_written_as_the_specification_does(ms: int, text: str) -> None:
    assert format_duration(ms) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "P",
        "PT",
        "P1",
        "PT1",
        "1S",
        "5s",
        "pt1s",
        "T1S",
        "PT1M1H",
        "PT1.5H",
        "P1DT",
        "-PT1S",
        "+PT1S",
        "PT-1S",
        "PT1S\n",
        " PT1S",
        "PT1S ",
        "PT.5S",
        "PT1.S",
        "P0003-06-04T12:30:05",
        "PT٣S",
        "PT" + "1" * 100 + "S",
    ],
)
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 8601 duration"):
        parse_duration_ms(text)


@pytest.mark.parametrize("text", ["P1Y", "P1M", "P1Y2M3DT1S", "P2M1W"])
def test_years_and_months_are_refused_because_their_length_varies(text: str) -> None:
    with pytest.raises(ValueError, match="years or months"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    "text",
    [
        "PT0S",
        "P0D",
        "PT0.0004S",
        "PT0.0006S",
        "PT0.000999S",
        "P3650DT0.0004S",
        "P3651D",
        "PT99999999999999999999S",
    ],
)
def test_a_duration_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ten years"):
        parse_duration_ms(text)
