"""Times and durations of requests."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from ojs_client.testing.refusals import invalid, not_allowed

_DURATION: Final = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?"
)
_UNITS_S: Final = (7 * 86_400, 86_400, 3_600, 60, 1)


def iso(ms: int) -> str:
    """Return a Unix time in milliseconds as RFC 3339."""
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def duration_ms(text: Any, field: str) -> int:
    """Return an ISO 8601 duration in milliseconds.

    Raises:
        Refusal: it is not a duration of at least one millisecond.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    seconds = (
        sum(float(n) * unit for n, unit in zip(match.groups(), _UNITS_S, strict=True) if n)
        if match
        else 0
    )
    if round(seconds * 1000) < 1:
        raise not_allowed(f"must be an ISO 8601 duration of at least 1 ms, not {text!r}", field)
    return round(seconds * 1000)


def time_ms(text: Any, now_ms: int, field: str) -> int:
    """Return a time as Unix time in milliseconds: RFC 3339, or ``+`` and a duration from now.

    Raises:
        Refusal: it is neither.
    """
    if isinstance(text, str) and text.startswith("+"):
        if text in ("+PT0S", "+P0D"):
            return now_ms
        return now_ms + duration_ms(text[1:], field)
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise invalid(f"must be a time as RFC 3339, not {text!r}", field) from None
    if time.tzinfo is None:
        raise invalid(f"must have a time zone, not {text!r}", field)
    return round(time.timestamp() * 1000)


def iso_duration(ms: int) -> str:
    """Return a duration as the server shows it: in hours, minutes and seconds."""
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:g}S" if rest else ""
    return "PT" + (f"{hours}H" if hours else "") + (f"{minutes}M" if minutes else "") + seconds
