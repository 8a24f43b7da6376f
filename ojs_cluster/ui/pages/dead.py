"""The dead letters: discarded jobs that are kept until an operator retries or deletes them."""

from __future__ import annotations

from typing import Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.formats import rfc3339
from ojs_cluster.ui.forms.form import confirmation
from ojs_cluster.ui.json_view import short_json
from ojs_cluster.ui.languages.translate import _, later
from ojs_cluster.ui.pages.job import note_of_retry
from ojs_cluster.ui.pages.jobs import PER_PAGE, decode_jobs, hide_in_rows
from ojs_cluster.ui.raw import members, text
from ojs_cluster.ui.visit import Answer, ApiError, Page, Visit, local_target

AGES: Final = {
    "1h": (later("1 hour"), 3600),
    "1d": (later("1 day"), 86_400),
    "7d": (later("7 days"), 7 * 86_400),
    "30d": (later("30 days"), 30 * 86_400),
}
"""The ages of the filter: in words, and in seconds."""


async def show_all(visit: Visit) -> Answer:
    """List dead letters, newest first."""
    filters = {name: visit.query.get(name, "").strip() for name in ("queue", "type", "older_than")}
    age_s = AGES.get(filters["older_than"], ("", 0))[1]
    if not age_s:
        filters["older_than"] = ""
    cursor = visit.query.get("cursor", "")
    raw = await visit.get(
        *("admin", "dead-letter"),
        queue=filters["queue"],
        type=filters["type"],
        until=rfc3339(visit.clock.now_s() - age_s) if age_s else "",
        cursor=cursor,
        per_page=PER_PAGE,
    )
    listed = decode_jobs(raw)
    by_queue: dict[str, int] = {}
    try:
        stats = orjson.loads(await visit.shared("admin", "dead-letter", "stats"))
        by_queue = stats.get("by_queue") or {}
    except ApiError:
        pass  # only the summary is missing
    await hide_in_rows(visit, listed.items)
    return Page(
        "dead.html",
        {
            "jobs": listed.items,
            "args_of": lambda job: short_json(bytes(job.args)),
            "pagination": listed.pagination,
            "filters": filters,
            "ages": {name: _(age[0]) for name, age in AGES.items()},
            "cursor": cursor,
            "by_queue": by_queue if isinstance(by_queue, dict) else {},
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
            "may_purge": visit.may_change(Scope.ADMIN_PURGE),
        },
    )


async def retry(visit: Visit, job_id: str) -> Answer:
    """Make the job of a dead letter available again."""
    response = members(await visit.send("POST", "admin", "dead-letter", job_id, "retry"))
    return visit.back(note_of_retry(response), "dead")


async def ask_to_delete(visit: Visit, job_id: str) -> Answer:
    """Ask before a dead letter is deleted."""
    job = members(await visit.get("admin", "jobs", job_id))
    kind = text(job, "type")
    back = local_target(visit.query.get("back", "dead"))
    return confirmation(
        visit,
        _("Delete the dead letter %(type)s %(id)s?", type=kind, id=job_id),
        _("The job is removed with its args and its errors. It cannot be restored or retried."),
        _("Delete this dead letter"),
        visit.root + back,
        [("back", back)],
    )


async def delete(visit: Visit, job_id: str) -> Answer:
    """Delete a dead letter."""
    await visit.send("DELETE", "admin", "dead-letter", job_id)
    return visit.back(_("The dead letter is deleted."), "dead")
