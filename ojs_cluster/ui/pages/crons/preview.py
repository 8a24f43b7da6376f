"""Preview a schedule: when a cron job would be due next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import trio

from ojs_cluster.core.cron.schedule import parse_schedule
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.visit import Answer, Page, Visit

_SHOWN: Final = 5
"""Number of occurrences that a preview shows."""
_DAYS: Final = (
    later("Mon"),
    later("Tue"),
    later("Wed"),
    later("Thu"),
    later("Fri"),
    later("Sat"),
    later("Sun"),
)


@dataclass(frozen=True, slots=True)
class NextRun:
    """One occurrence.

    Attributes:
        at: the time in UTC, as RFC 3339.
        local: the time in the time zone of the cron job, for people.
        skipped: whether a clock change skips an occurrence before this one.
    """

    at: str
    local: str
    skipped: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """The next occurrences of a schedule, or why there are none.

    Attributes:
        runs: the occurrences, the next one first.
        error: why the schedule is not valid.
    """

    runs: tuple[NextRun, ...] = ()
    error: str = ""


async def show(visit: Visit) -> Answer:
    """Return the preview of the schedule in the parameters, for the form of a cron job."""
    visit.app.access.count_request(visit.principal)
    return Page(
        "crons/preview.html", {"preview": await preview_of(visit.query, visit.clock.now_ms())}
    )


async def preview_of(fields: Mapping[str, str], now_ms: int) -> Preview | None:
    """Return the preview of the expression and the time zone in a form; None without expression.

    A search for a rare date takes milliseconds, so a thread makes it.
    """
    expression = fields.get("expression", "").strip()
    if not expression:
        return None
    zone = fields.get("timezone", "").strip() or "UTC"
    return await trio.to_thread.run_sync(_preview, expression, zone, now_ms)


def _preview(expression: str, zone: str, now_ms: int) -> Preview:
    after_ms = now_ms
    runs: list[NextRun] = []
    try:
        schedule = parse_schedule(expression, zone)
        while len(runs) < _SHOWN:
            found = schedule.following(after_ms, now_ms)
            if found is None:
                break
            after_ms = found.ms
            local = datetime.fromtimestamp(found.ms / 1000, UTC).astimezone(ZoneInfo(zone))
            text = f"{_(_DAYS[local.weekday()])} {local:%Y-%m-%d %H:%M:%S %Z}"
            runs.append(NextRun(format_ms(found.ms).decode(), text, found.gap_ms is not None))
    except InvalidRequest as error:
        return Preview(error=error.message[:1].upper() + error.message[1:])
    return Preview(tuple(runs))
