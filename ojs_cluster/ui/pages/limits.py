"""The rate limit keys, with their usage and overrides."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_MAX_DIGITS: Final = 18  # a larger number has more than 64 bits


async def show_all(visit: Visit) -> Answer:
    """List the rate limit keys."""
    page = visit.page
    listed = orjson.loads(await visit.get("rate-limits", page=page, per_page=_PER_PAGE))
    return Page(
        "limits.html",
        {
            "limits": listed["items"],
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
            "words_of": _words,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def override(visit: Visit, key: str) -> Answer:
    """Set how many jobs of a key may run at the same time, instead of what its jobs declare."""
    text = visit.form.get("concurrency", "").strip()
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    body = {"concurrency": int(text) if is_number else text[:_MAX_DIGITS]}
    await visit.send("PUT", "rate-limits", key, "override", body=body, action="rate_limit.override")
    return visit.back(f"At most {text} jobs of {key} run at the same time now.", "limits")


async def clear(visit: Visit, key: str) -> Answer:
    """Remove the override of a key."""
    await visit.send("DELETE", "rate-limits", key, "override", action="rate_limit.end_override")
    return visit.back(f"The limits of {key} are those of its jobs again.", "limits")


def _words(limit: dict[str, Any]) -> list[str]:
    """Return the limits of a key in words."""
    words = []
    if "concurrency" in limit:
        most = limit["concurrency"]  # a number in an override, an object in the usage
        words.append(f"{most['limit'] if isinstance(most, dict) else most} at the same time")
    for name, before in (("rate", ""), ("throttle", "evenly ")):
        if name in limit:
            words.append(f"{before}{limit[name]['limit']} per {limit[name]['period']}")
    return words
