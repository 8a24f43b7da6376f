"""Parse and format points in time.

Clients send RFC 3339 times or relative times, and get RFC 3339 times in UTC with milliseconds.
Inside the server a point in time is an int: Unix time in milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from ojs_cluster.core.durations import parse_duration_ms

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_S: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
_MAX_S: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
"""The first and last Unix time in seconds that a year of four digits can express."""
_MILLIS: Final = tuple(b".%03dZ" % ms for ms in range(1000))
_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.([0-9]{1,18}))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)


@dataclass(frozen=True, slots=True)
class TimePoint:
    """A time that a client requested.

    Args:
        ms: Unix time in milliseconds; when ``relative``, milliseconds after Redis stores the job.
        relative: whether ``ms`` is a delay.
        verbatim: an absolute time as the client spelled it, which responses repeat. None for a
            relative time, for which responses show the absolute time.
    """

    ms: int
    relative: bool
    verbatim: str | None


def parse_timestamp(text: str, *, allow_delay: bool = True) -> TimePoint:
    """Parse ``2026-03-01T09:00:00+01:00`` (an offset or Z is required) or ``+PT5S``.

    Digits below the millisecond are cut off.

    Args:
        text: the time.
        allow_delay: whether the second form is allowed.

    Raises:
        ValueError: the text has no allowed form. The caller puts the name of the field before the
            message.
    """
    if allow_delay and text.startswith("+P"):
        return TimePoint(parse_duration_ms(text[1:]), True, None)
    match = _RFC3339.fullmatch(text)
    if match is None:
        delay = " or a delay such as '+PT5S'," if allow_delay else ""
        raise ValueError(
            "must be an RFC 3339 time with an offset, such as '2026-03-01T09:00:00Z',"
            f"{delay} not {text[:80]!r}"
        )
    date, hour_minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    # RFC 3339 allows a leap second. Unix time has no such second, so it becomes the next one.
    leap = second == "60"
    try:
        moment = datetime.fromisoformat(f"{date}T{hour_minute}:{'59' if leap else second}+00:00")
    except ValueError as error:
        raise ValueError(f"is not a time that exists ({error}): {text!r}") from None
    seconds = (moment - _EPOCH) // timedelta(seconds=1) + leap
    if sign:
        offset = int(offset_hours) * 3600 + int(offset_minutes) * 60
        seconds += offset if sign == "-" else -offset
    if not _MIN_S <= seconds <= _MAX_S:
        raise ValueError(f"must be in one of the years 1 to 9999 in UTC, not {text!r}")
    return TimePoint(seconds * 1000 + int((fraction or "0")[:3].ljust(3, "0")), False, text)


@lru_cache(maxsize=4096)
def _format_second(second: int) -> bytes:
    # isoformat, because strftime does not pad years below 1000 on every platform
    return (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat().encode()


def format_ms(ms: int) -> bytes:
    """Return a time as RFC 3339, such as ``b"2026-01-01T00:00:00.000Z"``.

    A time before year 1 or after year 9999 becomes the first or last second of these years: one
    invalid stored number must not make a whole response fail.

    The text of each second is cached, because concurrent responses mostly have times of the same
    few seconds.

    Args:
        ms: Unix time in milliseconds.
    """
    second = ms // 1000  # two operators cost less than a call of divmod
    try:
        return _format_second(second) + _MILLIS[ms % 1000]
    except OverflowError:
        return _format_second(_MIN_S if second < 0 else _MAX_S) + _MILLIS[ms % 1000]
