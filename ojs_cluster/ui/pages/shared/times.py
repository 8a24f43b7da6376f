"""Choose how pages show times: relative to now, or in a time zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

from ojs_cluster.core.cron.zones import find_zone
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import Answer, SeeOther, Visit, local_target

COOKIE: Final = "ojs_ui_times"
"""The cookie with the name of the time zone. Without it the times are relative."""
_MAX_SHOWN: Final = 64  # characters
_without_zone: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[ T](\d\d:\d\d(?::\d\d)?))?", re.ASCII
).fullmatch


async def choose(visit: Visit) -> Answer:
    """Keep the choice in a cookie of this browser, and return to the page."""
    target = visit.root + local_target(visit.form.get("back", ""))
    name = visit.form.get("times", "").strip()
    zone = find_zone(name) if name else None
    if name and zone is None:
        note = _(
            "There is no time zone '%(name)s'. Give a name such as Europe/Berlin, or UTC.",
            name=name[:_MAX_SHOWN],
        )
        return SeeOther(target, note, failed=True)
    return SeeOther(target, cookie=(COOKIE, zone.key if zone else ""))


def typed_time(text: str, zone: ZoneInfo | None) -> str:
    """Return a time that a user has typed, as the API takes it.

    Args:
        text: a date, or a date and a time of the day, in the chosen time zone. Other text is
            returned as it is, and the API explains what is wrong with it.
        zone: the chosen time zone; None for UTC.
    """
    text = text.strip()
    found = _without_zone(text)
    if found is None:
        return text
    try:
        local = datetime.fromisoformat(f"{found[1]}T{found[2] or '00:00'}")
        at = local.replace(tzinfo=zone or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return at.isoformat().replace("+00:00", "Z")
