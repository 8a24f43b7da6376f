"""The workers, and one worker with its jobs."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui import raw
from ojs_cluster.ui.json_view import show_json
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_SERVER: Final = frozenset(
    {
        *("id", "worker_id", "state", "directive", "active_jobs", "last_heartbeat", "queues"),
        *("last_heartbeat_at", "started_at", "stale", "jobs", "jobs_complete"),
    }
)
"""Members that the server adds; the worker has reported all others."""
_DIRECTIVES: Final = {
    "quiet": "The worker gets no new jobs, and finishes those that it has.",
    "resume": "The worker gets jobs again.",
    "terminate": "The worker finishes its jobs and ends.",
}


async def show_all(visit: Visit) -> Answer:
    """List the workers, the most recently seen first."""
    page = visit.page
    found = raw.members(await visit.get("admin", "workers", page=page, per_page=_PER_PAGE))
    summary = orjson.loads(bytes(found["summary"]))
    return Page(
        "workers.html",
        {
            "workers": [_worker(members) for members in raw.objects(found, "items")],
            "summary": summary,
            "page": page,
            "has_more": page * _PER_PAGE < summary["total"],
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def show_one(visit: Visit, worker_id: str) -> Answer:
    """Show one worker with the jobs that it holds."""
    members = raw.members(await visit.get("admin", "workers", worker_id))
    reported = {
        name: show_json(bytes(value), visit.settings.redact)
        for name, value in members.items()
        if name not in _SERVER
    }
    return Page(
        "worker.html",
        {
            "worker": _worker(members),
            "reported": reported,
            "jobs": [
                {name: raw.text(job, name) for name in ("id", "type", "queue", "started_at")}
                for job in raw.objects(members, "jobs")
            ],
            "complete": bytes(members["jobs_complete"]) == b"true",
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def direct(visit: Visit, worker_id: str, directive: str) -> Answer:
    """Send a directive to a worker."""
    body = {"directive": directive, "worker_ids": [worker_id]}
    reply = orjson.loads(await visit.send("POST", "admin", "workers", "directive", body=body))
    if not reply["affected_workers"]:
        return visit.back("The worker is not known any more.", "workers")
    return visit.back(_DIRECTIVES.get(directive, "The directive is sent."), "workers")


async def deregister(visit: Visit, worker_id: str) -> Answer:
    """Remove a worker that has missed its heartbeats."""
    await visit.send("DELETE", "admin", "workers", worker_id)
    return visit.back("The worker is removed. Its jobs are available again.", "workers")


def _worker(members: raw.Members) -> dict[str, Any]:
    return {
        **{name: raw.text(members, name) for name in ("id", "state", "directive")},
        "active_jobs": raw.integer(members, "active_jobs"),
        "seen_at": raw.text(members, "last_heartbeat"),
        "started_at": raw.text(members, "started_at"),
        "queues": raw.texts(members, "queues"),
        "host": raw.text(members, "hostname") or raw.text(members, "host"),
    }
