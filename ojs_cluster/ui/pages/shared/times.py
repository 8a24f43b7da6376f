"""Choose how pages show times: relative to now, or in UTC."""

from __future__ import annotations

from typing import Final

from ojs_cluster.ui.visit import Answer, SeeOther, Visit, local_target

COOKIE: Final = "ojs_ui_times"
UTC: Final = "utc"
"""The value of the cookie and of the field. Without a value the times are relative."""


async def choose(visit: Visit) -> Answer:
    """Keep the choice in a cookie of this browser, and return to the page."""
    chosen = UTC if visit.form.get("times") == UTC else ""
    target = visit.root + local_target(visit.form.get("back", ""))
    return SeeOther(target, cookie=(COOKIE, chosen))
