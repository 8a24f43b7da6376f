"""ISO 8601 durations, in milliseconds inside the server (spec: ojs-retry section 4)."""

from __future__ import annotations

import re
from datetime import timedelta
from functools import lru_cache
from typing import Final

import isodate  # type: ignore[import-untyped]  # it ships no type information

MAX_DURATION_MS: Final = 3_650 * 86_400_000  # ten years: far from 2**53 when added to a clock

# isodate is lenient (signs, alternative formats, a trailing newline), so the form is checked first.
# Unlike the format itself, [0-9] keeps out the digits of other scripts.
_FORM: Final = re.compile(
    r"P(?=[0-9T])(?:[0-9]+Y)?(?:[0-9]+M)?(?:[0-9]+W)?(?:[0-9]+D)?"
    r"(?:T(?=[0-9])(?:[0-9]+H)?(?:[0-9]+M)?(?:[0-9]+(?:[.,][0-9]+)?S)?)?"
)
_CALENDAR: Final = re.compile(r"P[^T]*[YM]")
_LONGEST_TEXT: Final = 64


@lru_cache(maxsize=1024)
def parse_duration_ms(text: str) -> int:
    """The length of an ISO 8601 duration such as ``PT1M30.5S`` or ``P1D`` in milliseconds, rounded
    to the nearest one.

    Raises ValueError, with a message made to follow the name of the field, when ``text`` is no
    such duration, when it has years or months (their length depends on the calendar), or when it
    is shorter than a millisecond or longer than ten years.
    """
    if len(text) > _LONGEST_TEXT or not _FORM.fullmatch(text):
        raise ValueError(f"must be an ISO 8601 duration such as 'PT30S', not {text[:80]!r}")
    if _CALENDAR.match(text):
        raise ValueError("must not use years or months, whose length varies; use days instead")
    try:
        parsed = isodate.parse_duration(text)
    except (OverflowError, ValueError):  # ISO8601Error is a ValueError
        raise ValueError(f"must be a duration of at most ten years, not {text!r}") from None
    assert isinstance(parsed, timedelta)  # noqa: S101 - years and months were refused above
    ms = parsed / timedelta(milliseconds=1)
    if not 1 <= ms <= MAX_DURATION_MS:
        raise ValueError(f"must be between 1 ms and ten years, not {text!r}")
    return round(ms)


def format_duration(ms: int) -> str:
    """``ms`` as an ISO 8601 duration; days are written as hours, as all examples of OJS do."""
    minutes, rest_ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms / 1000:.3f}".rstrip("0").rstrip(".")
    text = "PT"
    if hours:
        text += f"{hours}H"
    if minutes:
        text += f"{minutes}M"
    if rest_ms or text == "PT":
        text += f"{seconds}S"
    return text
