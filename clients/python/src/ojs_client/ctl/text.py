"""Texts for people: times, durations, and texts of the server that a terminal may show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

MISLEADING: Final = r"\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"
"""Characters of a set in a regular expression: control characters above the blank, changes of
direction, and invisible characters. The dashboard marks the same ones."""
_CONTROL: Final = re.compile(rf"[\x00-\x1f{MISLEADING}]")
_CONTROL_BUT_LINES: Final = re.compile(rf"[\x00-\x08\x0b-\x1f{MISLEADING}]")
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?")
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def safe(text: str, *, keep_lines: bool = False) -> str:
    r"""Return a text with its control and invisible characters escaped, as in ``\x1b``.

    Clients choose types, arguments and errors of jobs. A terminal would obey control characters
    in them, and show other characters in another order or not at all.

    Args:
        text: the text.
        keep_lines: whether line ends and tabs are kept.
    """
    pattern = _CONTROL_BUT_LINES if keep_lines else _CONTROL
    return pattern.sub(lambda match: _escaped(match[0]), text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def counted(count: int, what: str) -> str:
    """Return a number with what it counts, whose plural ``what`` is: ``1 job``, ``2 jobs``."""
    return f"{count} {what.removesuffix('s') if count == 1 else what}"


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as ``2s``, ``1.5m``, ``500ms``, or ``2`` seconds.

    Raises:
        ValueError: the text is no duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration: write 500ms, 2s, 15m, 2h or 7d")
    return float(match[1]) * _UNITS_S[match[2] or "s"]


def short_span(seconds: float) -> str:
    """Return a span of time in at most two units, such as ``42s``, ``5m10s`` or ``3d4h``."""
    whole = int(seconds)
    if whole < 100:
        return f"{whole}s"
    minutes, second = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{second:02}s" if minutes < 10 else f"{minutes}m"
    hours, minute = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minute:02}m"
    days, hour = divmod(hours, 24)
    return f"{days}d{hour:02}h" if days < 10 else f"{days}d"


def rate(value: float) -> str:
    """Return a rate in three digits; a rate of 100 and more as an integer."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def milliseconds(value: Any) -> str:
    """Return a duration in milliseconds for people; empty without one."""
    if not isinstance(value, int | float):
        return ""
    if value < 1000:
        return f"{value:.0f}ms"
    return f"{value / 1000:.1f}s" if value < 100_000 else short_span(value / 1000)


def moment(text: Any) -> datetime | None:
    """Return the time of an RFC 3339 text; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def ago(text: Any) -> str:
    """Return how long ago a time of the server was, or ``in 5s`` for a time to come."""
    time = moment(text)
    if time is None:
        return ""
    seconds = (datetime.now(UTC) - time).total_seconds()
    # Clocks differ a little: the time of a new job may be slightly in the future.
    return short_span(max(0.0, seconds)) if seconds > -1 else f"in {short_span(-seconds)}"


def local_clock(text: Any) -> str:
    """Return a time of the server with its zone, which is that of the user; empty without one."""
    return f"{shown} local time" if (shown := clock(text)) else ""


def clock(text: Any) -> str:
    """Return a time of the server as local time; empty without one."""
    time = moment(text)
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def event_detail(event: Mapping[str, Any]) -> str:
    """Return the details of an event other than its job, for people."""
    parts = []
    if event.get("to"):
        parts.append(f"{event.get('from') or '-'} -> {event['to']}")
    for name in ("progress_percent", "progress_message", "attempt", "worker_id", "duration_ms"):
        value = event.get(name)
        if value not in (None, ""):
            parts.append(f"{name.removeprefix('progress_')}={value}")
    error = event.get("error")
    if error:
        parts.append(str(error.get("message") if isinstance(error, dict) else error))
    return " ".join(parts)
