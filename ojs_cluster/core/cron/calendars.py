"""The calendar of a cron expression: its occurrences in local time, without a zone.

croniter computes the calendar, and this module does the rest:

* It accepts only what the spec allows: no years, no hashed or random fields.
* A plain list of days, each ``15W``, and the list of all ``5#3`` and ``5L`` become separate
  calendars, and the earliest time of all calendars counts. croniter does not allow these kinds in
  one list. The spec joins two restricted day fields by "or", but croniter does not do so for ``W``.
* croniter reads ``31W`` as the last weekday of a shorter month. This module skips such months.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from croniter import croniter

MAX_EXPRESSION_CHARACTERS: Final = 255
SEARCH_YEARS: Final = 50
"""Number of years after which the search for an occurrence ends, as in croniter."""
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
_NUMBER_OF_NAME: Final = {
    **{name: str(number) for number, name in enumerate(_DAYS.split("|"))},
    **{name: str(number) for number, name in enumerate(_MONTHS.split("|"), 1)},
}
_UNRESTRICTED: Final = frozenset({"*", "?", "*/1"})


@dataclass(frozen=True, slots=True)
class _KindCalendar:
    """The calendar of one kind of day.

    Args:
        cron: croniter's calendar for this kind. Threads share it, and a search changes it, so every
            search uses a copy.
        min_month_days: number of days that a month must have at least, such as 31 for ``31W``.
    """

    cron: croniter
    min_month_days: int = 0

    def after(self, start: datetime) -> datetime | None:
        """Return the first local time later than ``start``, in whole seconds; None for none."""
        cron, found = copy(self.cron), start
        while found.year <= start.year + SEARCH_YEARS:
            try:
                found = cron.get_next(datetime, start_time=found)
            except ValueError:  # CroniterBadDateError: not within fifty years
                return None
            month_days = calendar.monthrange(found.year, found.month)[1]
            if self.min_month_days <= month_days:
                return found
            # Skip the whole month: one day may have an occurrence in every second.
            found = found.replace(day=month_days, hour=23, minute=59, second=59)
        return None


@dataclass(frozen=True, slots=True)
class Calendar:
    """The occurrences of an expression in local time."""

    kinds: Sequence[_KindCalendar]

    def after(self, start: datetime) -> datetime | None:
        """Return the first local time later than ``start``, in whole seconds; None for none."""
        found = [time for kind in self.kinds if (time := kind.after(start)) is not None]
        return min(found, default=None)


@lru_cache(maxsize=4096)
def calendar_of(expression: str) -> Calendar:
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
    return Calendar(tuple(kind for kind in kinds if kind.min_month_days <= month_days))


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
    # A field without plain items, such as 15W, has an empty list here.
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
            numbers = _plain(item)
            # Sunday has two numbers, and croniter reads 7-0 as the full range.
            plain.append("0" if numbers.partition("/")[0] == "7-0" else numbers)
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
