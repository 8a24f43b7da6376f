"""Cron schedules: when a recurring job is due next (spec: ojs-cron, sections 3 to 5).

``calendars`` computes local times without a zone. This module maps them to UTC with zoneinfo. When
the clock is put forward, the skipped local times have no occurrence. When the clock is put back,
only the first of two equal local times counts.

An expression comes from a client, so the search for an occurrence must end. If there is none within
fifty years, the schedule has no occurrence. This is the limit of croniter, and more than the forty
years between two 29 February that fall on the same day of the week.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ojs_cluster.core.cron.calendars import SEARCH_YEARS, Calendar, calendar_of
from ojs_cluster.core.cron.zones import is_zone
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.raw_json import show

_MIN_INTERVAL_MS: Final = 1000  # "not more often than once per second", section 7.3
_MAX_INTERVAL_MS: Final = 366 * 24 * 3_600_000
_SECOND: Final = timedelta(seconds=1)
_YEAR_2000: Final = datetime(2000, 1, 1)
_every: Final = re.compile(r"@every\s+((?:\d{1,9}(?:\.\d{1,3})?(?:ms|s|m|h))+)").fullmatch
_part: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


@dataclass(frozen=True, slots=True)
class Occurrence:
    """The next time a schedule is due.

    Args:
        ms: Unix time in milliseconds.
        gap_ms: Unix time in ms of a clock change that has skipped an earlier occurrence: its local
            time does not exist. None if none was skipped.
    """

    ms: int
    gap_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """A valid cron expression in a valid time zone.

    Args:
        expression: the cron expression, as the client spelled it.
        timezone: IANA name of the time zone.
    """

    expression: str
    timezone: str = "UTC"

    def following(self, after_ms: int, anchor_ms: int) -> Occurrence | None:
        """Return the first occurrence later than ``after_ms``, None when there is none.

        Args:
            after_ms: Unix time in milliseconds.
            anchor_ms: Unix time in ms of the start of the first ``@every`` interval; other
                expressions ignore it.
        """
        interval = _interval(self.expression)
        if interval is not None:
            steps = max(0, after_ms - anchor_ms) // interval + 1
            return Occurrence(anchor_ms + steps * interval)
        return _next(calendar_of(self.expression), _zone(self.timezone), after_ms)


def parse_schedule(
    expression: str, timezone: str = "UTC", *, field: str = "expression"
) -> Schedule:
    """Return a checked schedule.

    Args:
        expression: the cron expression.
        timezone: IANA name.
        field: the field that errors name.

    Raises:
        InvalidRequest: the expression is invalid, it has no occurrence (30 February), or the zone
            is no IANA name. ``details.field`` names the field.
    """
    schedule = Schedule(expression, timezone)
    _check_zone(timezone)
    try:
        _check_expression(expression)
    except ValueError as error:
        raise InvalidRequest(
            f"{field} is not a cron expression of five fields, six with seconds first, or a "
            f"shorthand such as @daily or '@every 5m': {error}; given {show(expression)}",
            field=field,
        ) from None
    return schedule


def _check_expression(expression: str) -> None:
    if _interval(expression) is None and calendar_of(expression).after(_YEAR_2000) is None:
        raise ValueError("no such date ever comes")


def _check_zone(name: str) -> None:
    if not is_zone(name):
        raise InvalidRequest(
            "timezone must be an IANA name with an area, such as 'Europe/Berlin', or 'UTC', "
            f"not {show(name)}",
            field="timezone",
        )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise InvalidRequest(
            f"this server has no time zone {show(name)}", field="timezone"
        ) from None


@lru_cache(maxsize=1024)
def _interval(expression: str) -> int | None:
    """Return the milliseconds of an ``@every`` expression, None for a calendar.

    Raises:
        ValueError: the duration is invalid.
    """
    if not expression.startswith("@every"):
        return None
    match = _every(expression.strip())
    if match is None:
        raise ValueError("@every needs a duration such as 90s, 5m or 1h30m")
    ms = round(sum(float(n) * _UNIT_MS[unit] for n, unit in _part.findall(match[1])))
    if not _MIN_INTERVAL_MS <= ms <= _MAX_INTERVAL_MS:
        raise ValueError("@every needs between 1 s and 366 days")
    return ms


# -- from local time to UTC -----------------------------------------------------------------------


@lru_cache(maxsize=256)
def _next(wanted: Calendar, zone: ZoneInfo, after_ms: int) -> Occurrence | None:
    """Return the first time after ``after_ms`` whose local time is in the calendar.

    Skips local times that do not exist, and the second of two equal local times.
    """
    after = datetime.fromtimestamp(after_ms // 1000, UTC).astimezone(zone)
    local = after.replace(tzinfo=None, fold=0)
    if after.fold:
        # The clock shows this time again, and its occurrences were due the first time. Continue
        # from the last second that is shown twice, the one before the clock was put back.
        change = _change(zone, _utc(local, zone, 0), _utc(local, zone, 1))
        local = (change - _SECOND).astimezone(zone).replace(tzinfo=None, fold=0)
    gap: int | None = None
    last_year = local.year + SEARCH_YEARS
    while True:
        found = wanted.after(local)
        # The limit also ends the search of an expression whose local times never exist.
        if found is None or found.year > last_year:
            return None
        utc = _utc(found, zone, 0)
        if utc.astimezone(zone).replace(tzinfo=None, fold=0) == found:
            return Occurrence(int(utc.timestamp()) * 1000, gap)
        # This local time does not exist. Continue from the last second that the clock skips.
        change = _change(zone, _utc(found, zone, 1), utc)
        gap = gap or int(change.timestamp()) * 1000
        local = change.astimezone(zone).replace(tzinfo=None, fold=0) - _SECOND


def _utc(local: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _change(zone: ZoneInfo, low: datetime, high: datetime) -> datetime:
    """Return the UTC second after ``low``, at most ``high``, at which the zone's offset changes."""
    old = low.astimezone(zone).utcoffset()
    while high - low > _SECOND:
        middle = low + (high - low) // 2
        middle = middle.replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == old:
            low = middle
        else:
            high = middle
    return high
