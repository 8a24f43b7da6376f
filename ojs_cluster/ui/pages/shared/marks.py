"""Marks on the charts, such as deployments: what the pages with charts show, set and delete."""

from __future__ import annotations

from typing import Any

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.visit import Answer, Visit


async def read_marks(visit: Visit, chosen: str) -> list[dict[str, Any]] | None:
    """Return the marks of a time span, the oldest first; None if they cannot be read.

    A user who may see some queues only sees none, because marks are about all of them.

    Args:
        visit: the request.
        chosen: the age of the oldest mark, such as ``24h``.
    """
    if not visit.sees_cluster:
        return []
    known = await visit.shared_or_last("admin", "marks", since=chosen)
    if known is None:
        return None
    found: list[dict[str, Any]] = orjson.loads(known.value)["items"]
    return found


def may_mark(visit: Visit) -> bool:
    """Return whether to offer the forms that set and delete marks."""
    return visit.sees_cluster and visit.may_change(Scope.ADMIN_WRITE)


async def add(visit: Visit) -> Answer:
    """Set a mark."""
    body = {"label": visit.form.get("label", "").strip()}
    if at := typed_time(visit.form.get("at", ""), visit.zone):
        body["at"] = at
    await visit.send("POST", "admin", "marks", body=body)
    return visit.back(_("The mark is on the charts."))


async def delete(visit: Visit, mark_id: str) -> Answer:
    """Delete a mark."""
    await visit.send("DELETE", "admin", "marks", mark_id)
    return visit.back(_("The mark is deleted."))
