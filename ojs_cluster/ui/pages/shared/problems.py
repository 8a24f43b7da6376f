"""The actions that mute problems, on the overview."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.visit import Answer, Visit

MUTE_HOURS: Final = {
    1: later("1 hour"),
    8: later("8 hours"),
    24: later("1 day"),
    168: later("7 days"),
}
"""For how long a problem can be muted, with labels."""


def may_mute(visit: Visit) -> bool:
    """Return whether to offer the forms that mute problems."""
    return visit.sees_cluster and visit.may_change(Scope.ADMIN_WRITE)


async def mute(visit: Visit) -> Answer:
    """Mute a problem for some hours, or acknowledge it."""
    hours = visit.form.get("hours", "")
    body = {"duration": f"PT{hours}H"} if hours else {}
    await visit.send("PUT", "admin", "problems", visit.form.get("id", ""), "mute", body=body)
    return visit.back(
        _("The problem is muted.") if hours else _("The problem is muted until it ends.")
    )


async def unmute(visit: Visit) -> Answer:
    """End the mute of a problem."""
    await visit.send("DELETE", "admin", "problems", visit.form.get("id", ""), "mute")
    return visit.back(_("The problem is open again."))
