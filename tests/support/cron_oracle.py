"""Evaluate cron expressions by brute force, as an oracle for the tests.

It is independent of croniter and of how the server finds clock changes. It walks UTC minute by
minute, converts to local time, and skips local times that the clock shows for the second time.
Local times that do not exist never occur.
"""

from __future__ import annotations

import calendar
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
ZONES = (
    "UTC",
    "America/New_York",
    "America/Santiago",
    "America/St_Johns",
    "Europe/Berlin",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
)
_MINUTE = timedelta(minutes=1)

OnDay = Callable[[date], bool]


@dataclass(frozen=True, slots=True)
class Named:
    """A cron expression of five fields and the values that each field selects."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    months: frozenset[int]
    on_day: OnDay

    def occurrences(self, zone: str, start: datetime, end: datetime) -> Iterator[int]:
        """Yield all occurrences in [start, end) in milliseconds; both ends are UTC and on the
        minute.
        """
        local_zone = ZoneInfo(zone)
        at = start
        while at < end:
            local = at.astimezone(local_zone)
            if not self._could(local.date()) and not self._could((local + 2 * _HOUR).date()):
                at += _HOUR
                continue
            for _ in range(60):
                local = at.astimezone(local_zone)
                if at < end and not local.fold and self._names(local):
                    yield int(at.timestamp()) * 1000
                at += _MINUTE

    def _could(self, day: date) -> bool:
        return day.month in self.months and self.on_day(day)

    def _names(self, local: datetime) -> bool:
        return (
            local.minute in self.minutes
            and local.hour in self.hours
            and local.second == 0
            and self._could(local.date())
        )


_HOUR = timedelta(hours=1)


def random_expression(random: Random, *, sparse: bool = False) -> Named:
    """Return a random expression; a ``sparse`` one has only a few occurrences a day."""
    minute, minutes = _numbers(random, 0, 59, most=2 if sparse else 60)
    hour, hours = _numbers(random, 0, 23, most=3 if sparse else 24)
    month, months = _numbers(random, 1, 12, names=MONTHS)
    dom, day_of_month = _days_of_month(random)
    dow, day_of_week = _days_of_week(random)
    if dom == "*" or dow == "*":

        def on_day(day: date) -> bool:
            return day_of_month(day) and day_of_week(day)
    else:

        def on_day(day: date) -> bool:
            return day_of_month(day) or day_of_week(day)

    return Named(f"{minute} {hour} {dom} {month} {dow}", minutes, hours, months, on_day)


def _numbers(
    random: Random, low: int, high: int, *, most: int = 1000, names: list[str] | None = None
) -> tuple[str, frozenset[int]]:
    def show(value: int) -> str:
        return names[value - low] if names and random.random() < 0.5 else str(value)

    while True:
        texts, values = [], set[int]()
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            kind = random.choice(["*", "value", "value", "range", "range", "step", "from"])
            step = random.randint(1, 7)
            first, last = sorted(random.sample(range(low, high + 1), 2))
            if kind == "*":
                texts.append("*")
                values.update(range(low, high + 1))
            elif kind == "value":
                texts.append(show(first))
                values.add(first)
            elif kind == "range":
                texts.append(f"{show(first)}-{show(last)}")
                values.update(range(first, last + 1))
            elif kind == "step":
                texts.append(f"{show(first)}-{show(last)}/{step}")
                values.update(range(first, last + 1, step))
            else:
                texts.append(f"*/{step}")
                values.update(range(low, high + 1, step))
        if len(values) <= most:
            return ",".join(texts), frozenset(values)


def _days_of_month(random: Random) -> tuple[str, OnDay]:
    if random.random() < 0.4:
        return "*", lambda _: True
    items: list[tuple[str, OnDay]] = []
    for _ in range(random.choice([1, 1, 2])):
        kind = random.choice(["plain", "plain", "L", "W", "LW"])
        day = random.randint(1, 31)
        if kind == "L":
            items.append(("L", lambda d: d.day == _length(d)))
        elif kind == "LW":
            items.append(("LW", lambda d: d == _nearest_weekday(d, _length(d))))
        elif kind == "W":
            items.append((f"{day}W", _near(day)))
        else:
            text, values = _numbers(random, 1, 31)
            items.append((text, _one_of(values)))
    return ",".join(text for text, _ in items), lambda d: any(on(d) for _, on in items)


def _days_of_week(random: Random) -> tuple[str, OnDay]:
    if random.random() < 0.4:
        return "*", lambda _: True
    items: list[tuple[str, OnDay]] = []
    for _ in range(random.choice([1, 1, 2])):
        kind = random.choice(["plain", "range", "#", "L", "seven"])
        day = random.randint(0, 6)
        text = random.choice([str(day), DAYS[day], DAYS[day].lower()])
        if kind == "plain":
            items.append((text, _weekdays({day})))
        elif kind == "range":
            last = random.randint(day, 6)
            items.append((f"{text}-{last}", _weekdays(set(range(day, last + 1)))))
        elif kind == "seven":
            items.append(("7", _weekdays({0})))
        elif kind == "#":
            nth = random.randint(1, 5)
            items.append((f"{text}#{nth}", _nth(day, nth)))
        else:
            items.append((f"{text}L", _last(day)))
    return ",".join(text for text, _ in items), lambda d: any(on(d) for _, on in items)


def _length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _one_of(days: frozenset[int]) -> OnDay:
    return lambda d: d.day in days


def _near(day: int) -> OnDay:
    return lambda d: day <= _length(d) and d == _nearest_weekday(d, day)


def _nearest_weekday(of: date, day: int) -> date:
    """Return the weekday of the month of ``of`` that is nearest to day ``day``."""
    wanted = of.replace(day=day)
    in_month = [of.replace(day=n) for n in range(1, _length(of) + 1)]
    weekdays = [d for d in in_month if d.weekday() < 5]
    return min(weekdays, key=lambda d: (abs((d - wanted).days), d))


def _weekdays(days: set[int]) -> OnDay:
    return lambda d: d.isoweekday() % 7 in days


def _nth(weekday: int, nth: int) -> OnDay:
    return lambda d: d.isoweekday() % 7 == weekday and (d.day - 1) // 7 + 1 == nth


def _last(weekday: int) -> OnDay:
    return lambda d: d.isoweekday() % 7 == weekday and d.day > _length(d) - 7


def utc(text: str) -> datetime:
    """Return a UTC time from ISO text without an offset."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
