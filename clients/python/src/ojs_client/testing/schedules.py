"""The schedules of cron jobs in the fake server (spec: ojs-cron, 3 to 5).

croniter computes their calendars. It knows less than a server in one point: ``31W`` means the last
weekday of shorter months, too, and days such as ``15W`` cannot be in a list.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, available_timezones

from ojs_client.testing.refusals import invalid

_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LAST: Final = re.compile(r"\b([0-7]|sun|mon|tue|wed|thu|fri|sat)l\b")
_EVERY: Final = re.compile(r"@every\s+((?:\d+(?:\.\d+)?(?:ms|s|m|h))+)")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_MIN_EVERY_MS: Final = 1000
_MAX_EVERY_MS: Final = 366 * 24 * 3_600_000


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
        fields = expression.lower().replace("lw", "31w").split()  # as croniter calls it
        if len(fields) == 5:
            fields.insert(0, "0")
        if len(fields) not in (1, 6):  # one, such as @daily
            raise ValueError(f"it has {len(fields)} fields")
        fields[-1] = _LAST.sub(_last, fields[-1])
        try:
            from croniter import croniter  # only cron jobs need this package
        except ImportError as error:
            raise RuntimeError("cron jobs need ojs-client[testing]") from error
        self._cron = croniter(" ".join(fields), second_at_beginning=True)
        if self._first_after(datetime(2000, 1, 1)) is None:
            raise ValueError("no such date ever comes")

    def _first_after(self, local: datetime) -> datetime | None:
        """Return the first local time of the calendar that is later; None for none."""
        try:
            return self._cron.get_next(datetime, start_time=local)
        except ValueError:  # not within fifty years
            return None


def _last(day: re.Match[str]) -> str:
    """Return the last day of a kind in a month as croniter writes it."""
    return f"l{_DAYS.index(day[1]) if day[1] in _DAYS else day[1]}"


def _interval_ms(expression: str) -> int:
    match = _EVERY.fullmatch(expression.strip())
    if match is None:
        raise ValueError("@every needs a duration such as 90s, 5m or 1h30m")
    ms = round(sum(float(n) * _UNIT_MS[unit] for n, unit in _PART.findall(match[1])))
    if not _MIN_EVERY_MS <= ms <= _MAX_EVERY_MS:
        raise ValueError("@every needs between 1 s and 366 days")
    return ms
