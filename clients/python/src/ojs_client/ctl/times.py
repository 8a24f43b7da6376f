"""Times and durations on the command line, and the period of a list."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import click

from ojs_client.ctl.output import Row
from ojs_client.ctl.text import moment, parse_duration


class Duration(click.ParamType[float]):
    """A duration such as ``2s`` on the command line; the value is in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION: Final = Duration()


class Moment(click.ParamType[str]):
    """A date, a time, or how long before now; the value is RFC 3339. Without a zone it is local.

    Args:
        ahead: whether a duration is the time from now on.
    """

    name = "time"

    def __init__(self, *, ahead: bool = False) -> None:
        self._sign = 1 if ahead else -1

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the time with its zone."""
        text = str(value)
        with suppress(ValueError, OverflowError, OSError):
            with suppress(ValueError):
                return datetime.fromisoformat(text).astimezone().isoformat()
            if not text.isdecimal():  # 2026 is more likely a year than a number of seconds
                span = timedelta(seconds=self._sign * parse_duration(text))
                return (datetime.now().astimezone() + span).isoformat(timespec="milliseconds")
        when = "from now" if self._sign > 0 else "ago"
        message = (
            f"{text!r} is no time: write 2026-01-31, 2026-01-31T09:00:00Z, or 2h for 2h {when}"
        )
        self.fail(message, param, ctx)


MOMENT: Final = Moment()
LATER: Final = Moment(ahead=True)


@dataclass(frozen=True, slots=True)
class Period:
    """The time by which a command line chooses the entries of a list.

    Args:
        member: the member of an entry that has the time.
        since: the first moment, as RFC 3339; None for any.
        until: the moment after the last one; None for any.
    """

    member: str = ""
    since: str | None = None
    until: str | None = None

    def __bool__(self) -> bool:
        """Whether it leaves out anything."""
        return bool(self.since or self.until)

    def terms(self) -> list[str]:
        """Return the period as terms of a search."""
        given = {"since": self.since, "until": self.until}
        return [f'{name}:"{text}"' for name, text in given.items() if text]

    def admits(self, row: Row) -> bool:
        """Return whether an entry is in the period. One without a time is in the unlimited one."""
        if not self:
            return True
        at, since, until = (moment(each) for each in (row.get(self.member), self.since, self.until))
        return at is not None and not (since and at < since) and not (until and at >= until)
