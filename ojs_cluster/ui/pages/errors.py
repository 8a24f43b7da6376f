"""Errors of failed attempts, in groups."""

from __future__ import annotations

from typing import Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_MAX_PREFIX: Final = 200  # characters
PERIODS: Final = {
    "15m": later("the last 15 minutes"),
    "1h": later("the last hour"),
    "1d": later("the last 24 hours"),
}
"""The periods of the filter, in words."""


async def show_all(visit: Visit) -> Answer:
    """List the groups, the latest failure first."""
    queue, cursor = visit.query.get("queue", "").strip(), visit.query.get("cursor", "")
    since = visit.query.get("since", "")
    since = since if since in PERIODS else ""
    raw = await visit.get(
        "admin", "errors", queue=queue, since=since, cursor=cursor, limit=_PER_PAGE
    )
    listed = orjson.loads(raw)
    for name, path in (("type", ERROR_TYPE), ("message", ERROR_MESSAGE)):
        texts = [str(group[name]) for group in listed["items"]]
        shown = await visit.redaction.texts(texts, path)
        for group, new in zip(listed["items"], shown, strict=True):
            # The actions of a group name its error, so a group with a hidden one has none.
            group["hidden"] = group.get("hidden", False) or new != group[name]
            group[name] = new
    return Page(
        "errors.html",
        {
            "groups": listed["items"],
            "total": listed["total"],
            "next_cursor": listed["pagination"].get("next_cursor"),
            "cursor": cursor,
            "queue": queue,
            "since": since,
            "periods": {name: _(label) for name, label in PERIODS.items()},
            "search_for": _search,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


def _search(type_name: str) -> str:
    """Return the search for the jobs whose last error has this type."""
    quoted = type_name[:_MAX_PREFIX].replace("\\", "\\\\").replace('"', '\\"')
    return f'error:"{quoted}"'
