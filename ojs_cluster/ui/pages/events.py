"""The newest events, and further ones as they happen."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.events import NAMES
from ojs_cluster.ui import raw
from ojs_cluster.ui.visit import Answer, Download, Page, Stream, Visit

SCOPES: Final = (Scope.DATA_READ,)
_SHOWN: Final = 100
_KINDS: Final = tuple(sorted(NAMES))


async def show_all(visit: Visit) -> Answer:
    """List the newest events."""
    kind, queue = _filters(visit)
    body = await visit.get("events", types=kind, queues=queue, page=1, per_page=_SHOWN)
    return Page(
        "events.html",
        {
            "events": [_event(members) for members in raw.objects(raw.members(body), "items")],
            "kinds": _KINDS,
            "kind": kind,
            "queue": queue,
        },
    )


async def stream(visit: Visit) -> Answer:
    """Stream new events to the page."""
    if visit.head.method == "HEAD":
        return Download("events.txt", "text/event-stream", b"")  # a stream would never end
    kind, queue = _filters(visit)
    return Stream(await visit.stream("events", "stream", types=kind, queue=queue))


def _filters(visit: Visit) -> tuple[str, str]:
    kind = visit.query.get("type", "")
    return kind if kind in NAMES else "", visit.query.get("queue", "").strip()


def _event(members: raw.Members) -> dict[str, str]:
    data = raw.members(members.get("data", b"{}"))
    return {
        "kind": raw.text(members, "type"),
        "at": raw.text(members, "time"),
        "subject": raw.text(members, "subject"),
        **{name: raw.text(data, name) for name in ("job_id", "job_type", "queue")},
    }
