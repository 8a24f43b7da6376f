"""The events of the fake server (spec: ojs-realtime)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from ojs_client.testing.changes import Changes
from ojs_client.testing.fake_jobs import ENDED, FakeJob
from ojs_client.testing.times import iso

_STATE_CHANGED: Final = "job.state_changed"
_NAMES: Final = {
    "available": "job.enqueued",
    "scheduled": "job.scheduled",
    "active": "job.started",
    "retryable": "job.retrying",
    "completed": "job.completed",
    "discarded": "job.discarded",
    "cancelled": "job.cancelled",
}


class EventLog:
    """The events of jobs and workflows, in their order.

    Args:
        changes: notified after each event.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._entries: list[dict[str, Any]] = []
        self._states: dict[str, str] = {}
        """The last known states of jobs."""

    def add_state(self, job: FakeJob, now_ms: int) -> None:
        """Record that a job has another state."""
        if (name := _NAMES.get(job.state)) is None:
            return
        before = self._states.get(job.id)
        self._states[job.id] = job.state
        states = {"from": before, "to": job.state}
        self.add("job.expired" if job.expired else name, now_ms, **of_job(job), **states)

    def add(self, name: str, now_ms: int, **members: Any) -> None:
        """Record an event."""
        self._entries.append({"event": name, "timestamp": iso(now_ms), **members})
        self._changes.notify()

    async def stream(
        self, query: Mapping[str, str], last_id: str, job: FakeJob | None
    ) -> AsyncGenerator[bytes]:
        """Yield the events that follow, as server-sent events.

        Args:
            query: the query.
            last_id: the id of the last event that the client has read; empty for none.
            job: the job, with whose end the stream ends; None for a queue or all.
        """
        _, _, queue = query.get("channel", "all").partition("queue:")
        types = [name for name in query.get("types", "").split(",") if name]
        position = int(last_id) if last_id else len(self._entries)
        yield b"retry: 3000\nid: %d\n\n" % position
        if job is not None and job.ended and not last_id:
            ended = {"event": _STATE_CHANGED, **of_job(job), "to": job.state}
            yield _frame(position, ended, ends=True)
            return
        while True:
            for entry in self._entries[position:]:
                position += 1
                if queue not in ("", entry.get("queue")):
                    continue
                if job is not None and entry.get("job_id") != job.id:
                    continue
                ends = job is not None and entry.get("to") in ENDED
                if entry.get("from") is not None and _wants(types, _STATE_CHANGED):
                    yield _frame(position, entry, _STATE_CHANGED)
                if _wants(types, entry["event"]):
                    yield _frame(position, entry, ends=ends)
                if ends:
                    return
            await self._changes.wait()


def of_job(job: FakeJob) -> dict[str, Any]:
    """Return the members of an event that describe its job."""
    return {"job_id": job.id, "type": job.type, "job_type": job.type, "queue": job.queue}


def _wants(types: list[str], name: str) -> bool:
    return not types or any(
        name == wanted or (wanted.endswith(".*") and name.startswith(wanted[:-1]))
        for wanted in types
    )


def _frame(
    position: int, entry: dict[str, Any], name: str | None = None, *, ends: bool = False
) -> bytes:
    """Return an event; the id of one that ends the stream says so."""
    id, name = f"{position}{'~' if ends else ''}", name or entry["event"]
    return f"id: {id}\nevent: {name}\ndata: {json.dumps(entry)}\n\n".encode()
