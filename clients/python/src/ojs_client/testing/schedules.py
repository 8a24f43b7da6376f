"""The schedules of cron jobs in the fake server (spec: ojs-cron, 3 to 5)."""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from ojs_client.testing.refusals import invalid

_SEARCH_DAYS: Final = 50 * 366
_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MONTHS: Final = (
    *("jan", "feb", "mar", "apr", "may", "jun"),
    *("jul", "aug", "sep", "oct", "nov", "dec"),
)
_ANY: Final = ("*", "?", "*/1")
_EVERY: Final = re.compile(r"@every\s+((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_MIN_EVERY_MS: Final = 1000
_MAX_EVERY_MS: Final = 366 * 24 * 3_600_000
_ITEM: Final = re.compile(r"(\*|\w+)(?:-(\w+))?(?:/(\d{1,2}))?")

_OnDay = Callable[[date], bool]


class Schedule:
    """When a cron job is due.

    Args:
        expression: the cron expression.
        timezone: the name of its time zone.

    Raises:
        Refusal: the expression or the time zone is invalid.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        self.expression = expression
        self.timezone = timezone
        if timezone != "UTC" and ("/" not in timezone or timezone not in available_timezones()):
            raise invalid(f"timezone must be an IANA name, not {timezone!r}", "timezone")
        self._zone = ZoneInfo(timezone)
        self._every_ms: int | None = None
        try:
            if expression.startswith("@every"):
                self._every_ms = _interval_ms(expression)
            else:
                self._read(expression)
        except ValueError as error:
            message = f"expression is not a cron expression: {error}; given {expression!r}"
            raise invalid(message, "expression") from None

    def following(self, after_ms: int, anchor_ms: int) -> int | None:
        """Return the first time later than ``after_ms``, as Unix time in ms; None for never.

        Args:
            after_ms: Unix time in ms.
            anchor_ms: Unix time in ms from which the intervals of ``@every`` count.
        """
        if self._every_ms is not None:
            steps = max(0, after_ms - anchor_ms) // self._every_ms + 1
            return anchor_ms + steps * self._every_ms
        after = datetime.fromtimestamp(after_ms // 1000, UTC)
        local: datetime | None = after.astimezone(self._zone).replace(tzinfo=None, fold=0)
        while local is not None and (local := self._first_after(local)) is not None:
            due = local.replace(tzinfo=self._zone).astimezone(UTC)
            # A local time that the clock skips has no occurrence. Of a local time that the clock
            # shows twice, the first counts.
            exists = due.astimezone(self._zone).replace(tzinfo=None, fold=0) == local
            if exists and due > after:
                return int(due.timestamp()) * 1000
        return None

    def _read(self, expression: str) -> None:
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
        second, minute, hour, day, month, weekday = fields
        self._seconds = sorted(_numbers(second, 0, 59))
        self._minutes = sorted(_numbers(minute, 0, 59))
        self._hours = sorted(_numbers(hour, 0, 23))
        self._months = _numbers(month, 1, 12, _MONTHS)
        restricted = [
            check
            for field, read in ((day, _day_of_month), (weekday, _day_of_week))
            if field not in _ANY
            for check in map(read, field.split(","))
        ]
        self._days: list[_OnDay] = restricted or [lambda day: True]
        if self._first_after(datetime(2000, 1, 1)) is None:
            raise ValueError("no such date ever comes")

    def _first_after(self, local: datetime) -> datetime | None:
        """Return the first local time of the calendar that is later; None for none."""
        day = local.date()
        for _ in range(_SEARCH_DAYS):
            if day.month in self._months and any(check(day) for check in self._days):
                for hour in self._hours:
                    if day == local.date() and hour < local.hour:
                        continue
                    for minute in self._minutes:
                        for second in self._seconds:
                            found = datetime(day.year, day.month, day.day, hour, minute, second)
                            if found > local:
                                return found
            day += timedelta(days=1)
        return None


def _interval_ms(expression: str) -> int:
    match = _EVERY.fullmatch(expression.strip())
    if match is None:
        raise ValueError("@every needs a duration such as 90s, 5m or 1h30m")
    ms = round(sum(float(n) * _UNIT_MS[unit] for n, unit in _PART.findall(match[1])))
    if not _MIN_EVERY_MS <= ms <= _MAX_EVERY_MS:
        raise ValueError("@every needs between 1 s and 366 days")
    return ms


def _numbers(field: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """Return the numbers of a field: lists, ranges and steps of numbers or names."""
    found: set[int] = set()
    for item in field.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is no item")
        first, last, step = match.groups()
        if first == "*":
            start, end = low, high
        else:
            start = _number(first, low, high, names)
            end = _number(last, low, high, names) if last else (high if step else start)
        if (first == "*" and last) or (step and not 1 <= int(step) <= high):
            raise ValueError(f"{item!r} is no item")
        if start > end:  # around the end, such as 22-2
            end += high - low + 1
        found.update(
            low + (number - low) % (high - low + 1)
            for number in range(start, end + 1, int(step or 1))
        )
    return found


def _number(text: str, low: int, high: int, names: tuple[str, ...]) -> int:
    if text in names:
        return names.index(text) + low
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is not from {low} to {high}")
    return int(text)


def _day_of_month(item: str) -> _OnDay:
    """Return the check of one item: days, ``L`` (last), ``LW`` and ``15W`` (nearest weekday)."""
    if item == "l":
        return lambda day: day.day == _month_days(day)
    if item == "lw":
        return lambda day: day == _nearest_weekday(day, _month_days(day))
    if item.endswith("w") and item[:-1].isdecimal():
        number = _number(item[:-1], 1, 31, ())
        return lambda day: number <= _month_days(day) and day == _nearest_weekday(day, number)
    days = _numbers(item, 1, 31)
    return lambda day: day.day in days


def _day_of_week(item: str) -> _OnDay:
    """Return the check of one item: days, ``5#3`` (the third one) and ``5L`` (the last one)."""
    name, nth, number = item.partition("#")
    if nth:
        if number not in ("1", "2", "3", "4", "5"):
            raise ValueError(f"{item!r} is no item")
        wanted = _number(name, 0, 7, _DAYS) % 7
        return lambda day: _weekday(day) == wanted and (day.day - 1) // 7 == int(number) - 1
    if item.endswith("l"):
        wanted = _number(item[:-1], 0, 7, _DAYS) % 7
        return lambda day: _weekday(day) == wanted and day.day + 7 > _month_days(day)
    # 7 is Sunday, too, so a range such as 5-7 ends there.
    days = {number % 7 for number in _numbers(item, 0, 7 if "7" in item else 6, _DAYS)}
    return lambda day: _weekday(day) in days


def _weekday(day: date) -> int:
    return day.isoweekday() % 7


def _month_days(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _nearest_weekday(day: date, number: int) -> date:
    """Return the weekday that is nearest to a day of the month, within the month."""
    found = day.replace(day=number)
    if found.isoweekday() == 6:
        return found - timedelta(days=1) if number > 1 else found + timedelta(days=2)
    if found.isoweekday() == 7:
        last = number == _month_days(day)
        return found - timedelta(days=2) if last else found + timedelta(days=1)
    return found
