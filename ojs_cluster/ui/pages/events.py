"""The newest events, and further ones as they happen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.events import NAMES
from ojs_cluster.core.raw_json import join
from ojs_cluster.http.messages import BodyStream, DirectOutput, task_output
from ojs_cluster.ui import raw
from ojs_cluster.ui.visit import Answer, Download, Page, Stream, Visit

SCOPES: Final = (Scope.DATA_READ,)
_SHOWN: Final = 100
_STREAMED: Final = (
    *("job_id", "workflow_id", "job_type", "cron_name", "name", "key", "queue", "timestamp"),
)
"""Members of an event that the page shows."""
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
            "sees_audit": visit.sees_cluster,
        },
    )


async def stream(visit: Visit) -> Answer:
    """Stream new events to the page."""
    if visit.head.method == "HEAD":
        return Download("events.txt", "text/event-stream", b"")  # a stream would never end
    kind, queue = _filters(visit)
    body = await visit.stream("events", "stream", types=kind, queue=queue)
    return Stream(ShownEvents(body) if visit.redaction.active else body)


class ShownEvents:
    """A stream of events with what the page shows of them: no results, errors or progress.

    Args:
        body: the stream of the API.
    """

    def __init__(self, body: BodyStream) -> None:
        self._body = body

    async def run(
        self, send: Callable[[bytes], Awaitable[None]], direct: DirectOutput | None = None
    ) -> None:
        """Send the events; see ``BodyStream``."""
        kept = b""

        async def send_lines(piece: bytes) -> None:
            nonlocal kept
            *lines, kept = (kept + piece).split(b"\n")
            if lines:
                await send(b"".join(_shown(line) + b"\n" for line in lines))

        await self._body.run(send_lines, task_output(direct))

    def close(self) -> None:
        """Release the stream."""
        self._body.close()


def _shown(line: bytes) -> bytes:
    """Return a line of a stream without the members that the page does not show."""
    if not line.startswith(b"data:"):
        return line
    members = raw.members(line.removeprefix(b"data:").strip())
    return b"data: {%b}" % join({n: members[n] for n in _STREAMED if n in members})


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
