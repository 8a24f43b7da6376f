"""Cron schedules: when a recurring job is due next (spec: ojs-cron, sections 3 to 5).

croniter computes the calendar, and this module does the rest:

* croniter gets local times without a zone. This module maps local times to UTC with zoneinfo. When
  the clock is put forward, the skipped local times have no occurrence. When the clock is put back,
  only the first of two equal local times counts.
* This module accepts only what the spec allows: no years, no hashed or random fields.
* Each kind of day (a plain list, ``15W``, ``5#3``, ``5L``) becomes a separate calendar, and the
  earliest time of all calendars counts. croniter does not allow these kinds in one list. The spec
  joins two restricted day fields by "or", but croniter does not do so for ``W``.
* croniter reads ``31W`` as the last weekday of a shorter month. This module skips such months.

An expression comes from a client, so the search for an occurrence must end. If there is none within
fifty years, the schedule has no occurrence. This is the limit of croniter, and more than the forty
years between two 29 February that fall on the same day of the week.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from croniter import croniter

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.raw_json import show

MAX_EXPRESSION_CHARACTERS: Final = 255
_MIN_INTERVAL_MS: Final = 1000  # "not more often than once per second", section 7.3
_MAX_INTERVAL_MS: Final = 366 * 24 * 3_600_000
_SECOND: Final = timedelta(seconds=1)
_YEAR_2000: Final = datetime(2000, 1, 1)
_SEARCH_YEARS: Final = 50
_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAYS: Final = "sun|mon|tue|wed|thu|fri|sat"
_MONTHS: Final = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_is_number_item: Final = re.compile(r"(?:\*|\d{1,2}(?:-\d{1,2})?)(?:/\d{1,2})?").fullmatch
_is_month_item: Final = re.compile(
    rf"(?:\*|(?:\d{{1,2}}|{_MONTHS})(?:-(?:\d{{1,2}}|{_MONTHS}))?)(?:/\d{{1,2}})?"
).fullmatch
_is_day_item: Final = re.compile(
    rf"(?:\*|(?:[0-7]|{_DAYS})(?:-(?:[0-7]|{_DAYS}))?)(?:/\d)?"
).fullmatch
_nth_day: Final = re.compile(rf"([0-7]|{_DAYS})#([1-5])").fullmatch
_last_day: Final = re.compile(rf"([0-7]|{_DAYS})l").fullmatch
_near_weekday: Final = re.compile(r"(\d{1,2})w").fullmatch
_every: Final = re.compile(r"@every\s+((?:\d{1,9}(?:\.\d{1,3})?(?:ms|s|m|h))+)").fullmatch
_part: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_NUMBER_OF_NAME: Final = {
    **{name: str(number) for number, name in enumerate(_DAYS.split("|"))},
    **{name: str(number) for number, name in enumerate(_MONTHS.split("|"), 1)},
}
_UNRESTRICTED: Final = frozenset({"*", "?", "*/1"})


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
        return _next(_calendar(self.expression), _zone(self.timezone), after_ms)


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
    if _interval(expression) is None and _calendar(expression).after(_YEAR_2000) is None:
        raise ValueError("no such date ever comes")


def _check_zone(name: str) -> None:
    # The spec refuses abbreviations (EST, CET) and offsets. All other names have a slash.
    if name != "UTC" and ("/" not in name or name not in _zones()):
        raise InvalidRequest(
            "timezone must be an IANA name with an area, such as 'Europe/Berlin', or 'UTC', "
            f"not {show(name)}",
            field="timezone",
        )


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


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


# -- the calendar, in local time ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _KindCalendar:
    """The calendar of one kind of day.

    Args:
        cron: croniter's calendar for this kind.
        min_month_days: number of days that a month must have at least, such as 31 for ``31W``.
    """

    cron: croniter
    min_month_days: int = 0

    def after(self, start: datetime) -> datetime | None:
        """Return the first local time later than ``start``, in whole seconds; None for none."""
        found = start
        while found.year <= start.year + _SEARCH_YEARS:
            try:
                found = self.cron.get_next(datetime, start_time=found)
            except ValueError:  # CroniterBadDateError: not within fifty years
                return None
            month_days = calendar.monthrange(found.year, found.month)[1]
            if self.min_month_days <= month_days:
                return found
            # Skip the whole month: one day may have an occurrence in every second.
            found = found.replace(day=month_days, hour=23, minute=59, second=59)
        return None


@dataclass(frozen=True, slots=True)
class _Calendar:
    """The occurrences of an expression in local time."""

    kinds: Sequence[_KindCalendar]

    def after(self, start: datetime) -> datetime | None:
        """Return the first local time later than ``start``, in whole seconds; None for none."""
        found = [time for kind in self.kinds if (time := kind.after(start)) is not None]
        return min(found, default=None)


@lru_cache(maxsize=4096)
def _calendar(expression: str) -> _Calendar:
    """Return the calendar of an expression.

    Raises:
        ValueError: the expression is invalid. The client gets the message.
    """
    if len(expression) > MAX_EXPRESSION_CHARACTERS or not expression.isascii():
        raise ValueError(f"it must be at most {MAX_EXPRESSION_CHARACTERS} ASCII characters")
    text = expression.strip().lower()
    if text.startswith("@"):
        if text not in _NAMED:
            raise ValueError("there is no such shorthand")
        text = _NAMED[text]
    fields = text.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise ValueError(f"it has {len(fields)} fields")
    *clock, dom, month, dow = fields
    for name, items, is_item, max_step in (
        ("second", clock[0], _is_number_item, 59),
        ("minute", clock[1], _is_number_item, 59),
        ("hour", clock[2], _is_number_item, 23),
        ("month", month, _is_month_item, 12),
    ):
        for item in items.split(","):
            if not is_item(item):
                raise ValueError(f"its {name} cannot be '{item}'")
            _check_step(item, max_step, name)
    plain = [",".join(map(_plain, items.split(","))) for items in (*clock, month)]
    kinds = _calendars_by_kind(" ".join(plain[:3]), dom, plain[3], dow)
    month_days = _max_days(plain[3])
    return _Calendar(tuple(kind for kind in kinds if kind.min_month_days <= month_days))


def _max_days(months: str) -> int:
    """Return the number of days of the longest of these months, in a leap year."""
    listed = croniter(f"0 0 1 {months} *").expanded[3]
    return max(31 if month == "*" else calendar.monthrange(2000, int(month))[1] for month in listed)


def _calendars_by_kind(clock: str, dom: str, month: str, dow: str) -> list[_KindCalendar]:
    """Return a calendar for each kind of day in the fields day of month and day of week.

    The spec joins the two fields by "or" if both are restricted, so no calendar combines them.
    """

    def kind(day: str, weekday: str, min_month_days: int = 0) -> _KindCalendar:
        cron = croniter(f"{clock} {day} {month} {weekday}", second_at_beginning=True)
        return _KindCalendar(cron, min_month_days)

    days, near = _days_of_month(dom)
    weekdays, special = _days_of_week(dow)
    # For croniter, 31w is the last weekday of any month.
    found = [
        kind("31w", "*") if day is None else kind(f"{day}w", "*", day)
        for day in dict.fromkeys(near)
    ]
    if special:
        found.append(kind("*", ",".join(special)))
    any_day, any_weekday = dom in _UNRESTRICTED, dow in _UNRESTRICTED
    if any_day and any_weekday:
        return [kind("*", "*")]
    if days and not any_day:
        found.append(kind(",".join(days), "*"))
    if weekdays and not any_weekday:
        found.append(kind("*", ",".join(weekdays)))
    return found


def _days_of_month(field: str) -> tuple[list[str], list[int | None]]:
    """Return the plain items, and the days of the items with ``W``.

    The day is None for ``LW``, the last weekday of a month.
    """
    plain: list[str] = []
    near: list[int | None] = []
    if field in _UNRESTRICTED:
        return ["*"], near
    for item in field.split(","):
        match = _near_weekday(item)
        if match and 1 <= int(match[1]) <= 31:
            near.append(int(match[1]))
        elif item == "lw":
            near.append(None)
        elif item == "l" or _is_number_item(item):
            _check_step(item, 31, "day of month")
            plain.append(_plain(item))
        else:
            raise ValueError(f"its day of month cannot be '{item}'")
    return plain, near


def _days_of_week(field: str) -> tuple[list[str], list[str]]:
    """Return the plain items, and the items with ``#`` or ``L`` as croniter writes them."""
    plain: list[str] = []
    special: list[str] = []
    if field in _UNRESTRICTED:
        return ["*"], special
    for item in field.split(","):
        if match := _nth_day(item):
            special.append(f"{_weekday(match[1])}#{match[2]}")
        elif match := _last_day(item):
            special.append(f"l{_weekday(match[1])}")
        elif _is_day_item(item):
            _check_step(item, 7, "day of week")
            plain.append(_plain(item))
        else:
            raise ValueError(f"its day of week cannot be '{item}'")
    return plain, special


def _weekday(text: str) -> int:
    return int(text) % 7 if text.isdigit() else _DAYS.split("|").index(text)


def _plain(item: str) -> str:
    """Return ``item`` with numbers instead of names.

    A range such as ``5-5`` becomes ``5``, because croniter reads it as the full range.
    """
    bounds, slash, step = item.partition("/")
    numbers = [_NUMBER_OF_NAME.get(bound, bound) for bound in bounds.split("-")]
    if len(numbers) == 2 and int(numbers[0]) == int(numbers[1]):
        return numbers[0]
    return "-".join(numbers) + slash + step


def _check_step(item: str, max_step: int, name: str) -> None:
    step = item.partition("/")[2]
    if step and not 1 <= int(step) <= max_step:
        raise ValueError(f"its {name} cannot have the step '{step}'")


# -- from local time to UTC -----------------------------------------------------------------------


def _next(wanted: _Calendar, zone: ZoneInfo, after_ms: int) -> Occurrence | None:
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
    last_year = local.year + _SEARCH_YEARS
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
