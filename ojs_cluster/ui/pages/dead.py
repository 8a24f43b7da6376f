"""The dead letters: jobs that failed for good."""

from __future__ import annotations

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.json_view import short_json
from ojs_cluster.ui.pages.jobs import PER_PAGE, decode_jobs
from ojs_cluster.ui.visit import Answer, ApiError, Page, Visit


async def show_all(visit: Visit) -> Answer:
    """List dead letters, newest first."""
    filters = {name: visit.query.get(name, "").strip() for name in ("queue", "type")}
    cursor = visit.query.get("cursor", "")
    raw = await visit.get("admin", "dead-letter", **filters, cursor=cursor, per_page=PER_PAGE)
    listed = decode_jobs(raw)
    by_queue: dict[str, int] = {}
    try:
        stats = orjson.loads(await visit.shared("admin", "dead-letter", "stats"))
        by_queue = stats.get("by_queue") or {}
    except ApiError:
        pass  # only the summary is missing
    redact = visit.settings.redact
    return Page(
        "dead.html",
        {
            "jobs": listed.items,
            "args_of": lambda job: short_json(bytes(job.args), redact),
            "pagination": listed.pagination,
            "filters": filters,
            "cursor": cursor,
            "by_queue": by_queue if isinstance(by_queue, dict) else {},
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
            "may_purge": visit.may_change(Scope.ADMIN_PURGE),
        },
    )


async def retry(visit: Visit, job_id: str) -> Answer:
    """Make the job of a dead letter available again."""
    await visit.send("POST", "admin", "dead-letter", job_id, "retry")
    return visit.back("The job is available again.", "dead")


async def delete(visit: Visit, job_id: str) -> Answer:
    """Delete a dead letter."""
    await visit.send("DELETE", "admin", "dead-letter", job_id)
    return visit.back("The dead letter is deleted.", "dead")
