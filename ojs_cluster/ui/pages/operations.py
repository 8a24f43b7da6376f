"""Maintenance mode and the outbox dead letters."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import Answer, Page, Visit

_MAX_OUTBOX: Final = 20


async def show(visit: Visit) -> Answer:
    """Show the state of both."""
    maintenance = orjson.loads(await visit.get("admin", "maintenance"))
    outbox = orjson.loads(await visit.get("admin", "outbox", limit=_MAX_OUTBOX))
    return Page(
        "operations.html",
        {
            "maintenance": maintenance,
            "outbox": outbox["entries"],
            "outbox_total": outbox["total"],
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def set_maintenance(visit: Visit) -> Answer:
    """Switch maintenance mode on or off."""
    enabled = visit.form.get("enabled") == "1"
    body: dict[str, Any] = {"enabled": enabled}
    if enabled:
        refused = [name for name in ("enqueue", "fetch") if visit.form.get(name)]
        body |= {"reason": visit.form.get("reason", "")[:500], "refuse": refused or ["fetch"]}
    await visit.send("POST", "admin", "maintenance", body=body)
    note = _("Maintenance mode is on.") if enabled else _("Maintenance mode is off.")
    return visit.back(note, "operations")


async def retry_outbox(visit: Visit) -> Answer:
    """Deliver the outbox dead letters again."""
    await visit.send("POST", "admin", "outbox", "retry", body={"all": True})
    return visit.back(_("The effects are delivered again."), "operations")
