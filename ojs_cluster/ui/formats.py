"""Show numbers, times and durations to people. All functions are filters of the templates."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from ojs_cluster.ui.languages.language import current
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.wall_clock import wall_s

_UNITS: Final = (
    (86_400, later("%(number)s d")),
    (3600, later("%(number)s h")),
    (60, later("%(number)s min")),
    (1, later("%(number)s s")),
)
NONE: Final = "\u2013"
"""Stands for a value that is not known."""
NO_BREAK: Final = "\u00a0"
STATES: Final = {
    "available": "○",
    "scheduled": "◷",
    "pending": "◌",
    "active": "●",
    "completed": "✓",
    "retryable": "↻",
    "cancelled": "⊘",
    "discarded": "✕",
}
"""A shape for each state, so that no state is shown by its colour alone."""


def number(value: float | None) -> str:
    """Return a number with separators; a fraction has two digits at most, above ten one."""
    if value is None:
        return NONE
    if isinstance(value, int) or value >= 100 or value == int(value):
        return _in_digits(f"{round(value):,}")
    text = f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return _in_digits(text.rstrip("0").rstrip("."))


def _in_digits(text: str) -> str:
    """Return an English number with the separators of the current language."""
    language = current()
    if language.thousands == "," and language.decimal == ".":
        return text
    return "".join({",": language.thousands, ".": language.decimal}.get(c, c) for c in text)


def plain(value: float | None) -> str:
    """Return a number that scripts can read too: no separators, and two digits at most.

    Returns:
        The number, without decimals if it is whole; empty if it is not known.
    """
    return "" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def size(count: int | None) -> str:
    """Return a number of bytes in its largest unit, such as ``1.5 MiB``."""
    if count is None:
        return NONE
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    has_decimal = amount < 10 and unit != "B"
    return _in_digits(f"{amount:.1f} {unit}" if has_decimal else f"{amount:.0f} {unit}")


def duration(ms: float | None) -> str:
    """Return a duration in its largest unit, such as ``1.5 s`` or ``3 h``."""
    if ms is None:
        return NONE
    if ms < 1000:
        return _("%(number)s ms", number=number(round(ms, 1 if ms < 10 else 0)))
    seconds = ms / 1000
    for size, unit in _UNITS:
        if seconds >= size:
            amount = seconds / size
            text = f"{amount:.1f}".removesuffix(".0") if amount < 10 else f"{amount:,.0f}"
            return _(unit, number=_in_digits(text))
    return NONE


def epoch_s(text: str) -> float | None:
    """Return the Unix time of RFC 3339 text in seconds, None if it is no time."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def rfc3339(at_s: float) -> str:
    """Return a Unix time in seconds as RFC 3339."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pass_context
def ago(context: Context, text: str | None) -> Markup:
    """Return a time relative to now, and the exact time on hover; in a chosen zone the reverse.

    In a narrow column an exact time may break between the date and the time of the day.
    """
    at_s = epoch_s(text) if text else None
    if at_s is None or text is None:
        return escape(NONE)
    zone, words = _zone_of(context), _relative(at_s, _now_s(context))
    if zone is None:
        return Markup('<time datetime="{}" title="{}">{}</time>').format(
            text, exact_time(text), words
        )
    day, clock = exact_time(text, zone).split(" ", 1)
    exact = f"{day} {clock.replace(' ', NO_BREAK)}"
    return Markup('<time class="exact" datetime="{}" title="{}">{}</time>').format(
        text, words, exact
    )


@pass_context
def moment(context: Context, text: str | None) -> Markup:
    """Return a time to the second; the time relative to now stands beside it."""
    at_s = epoch_s(text) if text else None
    if at_s is None or text is None:
        return escape(NONE)
    return Markup('<time datetime="{}">{}</time> <span class="quiet">{}</span>').format(
        text, exact_time(text, _zone_of(context)), _relative(at_s, _now_s(context))
    )


@pass_context
def minute(context: Context, text: str) -> str:
    """Return month, day and minute of a time. ``zone_name`` says in which time zone they are."""
    at = _local(text, _zone_of(context))
    return text if at is None else at.strftime("%m-%d %H:%M")


@pass_context
def clock_time(context: Context, text: str) -> str:
    """Return the time of the day to the second, with its time zone."""
    at = _local(text, _zone_of(context))
    return text if at is None else f"{at:%H:%M:%S} {_abbreviation(at)}"


def zone_name(zone: ZoneInfo | None) -> str:
    """Return the name of the time zone of times that are not relative."""
    return "UTC" if zone is None else zone.key


def exact_time(text: str, zone: ZoneInfo | None = None) -> str:
    """Return an RFC 3339 time for people, such as ``2030-01-31 18:00:00 UTC``; other text as is.

    Args:
        text: the time, in UTC.
        zone: the time zone in which to show it; None for UTC.
    """
    at = _local(text, zone) if text.endswith("Z") else None
    return text if at is None else f"{at:%Y-%m-%d %H:%M:%S} {_abbreviation(at)}"


def _zone_of(context: Context) -> ZoneInfo | None:
    """Return the time zone that the viewer of a page has chosen."""
    visit = context.get("visit")
    return None if visit is None else visit.zone


def _now_s(context: Context) -> float:
    """Return the present time by the clock of Redis, of which the times on pages are."""
    visit = context.get("visit")
    return wall_s() if visit is None else float(visit.clock.now_s())


def _local(text: str, zone: ZoneInfo | None) -> datetime | None:
    at_s = epoch_s(text)
    try:
        return None if at_s is None else datetime.fromtimestamp(at_s, zone or UTC)
    except (OverflowError, ValueError):  # the local time is after the year 9999, or before year 1
        return datetime.fromtimestamp(at_s or 0.0, UTC)


def _abbreviation(at: datetime) -> str:
    """Return the abbreviation of a time zone, such as ``CET``; ``UTC+03`` for one without."""
    name = at.tzname() or ""
    return f"UTC{name}" if name[:1] in ("+", "-") else name


def _relative(at_s: float, now_s: float) -> str:
    """Return a Unix time in seconds in words relative to now."""
    distance_s = at_s - now_s
    amount = duration(round(abs(distance_s)) * 1000) if abs(distance_s) >= 1 else ""
    if not amount:
        return _("now")
    if distance_s > 0:
        return _("in %(duration)s", duration=amount)
    return _("%(duration)s ago", duration=amount)


def state(name: str) -> Markup:
    """Return a state as a word with its shape and colour."""
    known = name if name in STATES else "unknown"
    return Markup(
        '<span class="state state-{}"><span class="glyph" aria-hidden="true">{}</span>{}</span>'
    ).format(known, STATES.get(name, "?"), name)
