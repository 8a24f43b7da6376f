"""The tenants: how many jobs each has, and its limits."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.store.tenants.admission import WAITING
from ojs_cluster.ui.forms.limits import period_in_words
from ojs_cluster.ui.pages.shared.searches import quoted
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50


async def show_all(visit: Visit) -> Answer:
    """List the known tenants, the most recently active first."""
    page = visit.page
    raw = await visit.shared("admin", "tenants", page=page, per_page=_PER_PAGE)
    listed = orjson.loads(raw)
    return Page(
        "limits/tenants.html",
        {
            "tenants": [_tenant(visit, each) for each in listed["items"]],
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
        },
    )


def _tenant(visit: Visit, members: dict[str, Any]) -> dict[str, Any]:
    jobs, limits = members["jobs"], members["limits"]
    search = f"meta.tenant_id:{quoted(members['tenant_id'])}"
    rate = limits.get("max_enqueue_rate")
    return {
        "name": members["tenant_id"],
        # Nothing to link to where the operator hides this part of the meta.
        "search": "" if why_not_searched(search, visit.redaction) else search,
        "jobs": jobs,
        "waiting": sum(jobs[state] for state in WAITING),
        "most_waiting": limits.get("max_queue_depth"),
        "most_scheduled": limits.get("max_scheduled"),
        "most_new": rate and rate["limit"],
        "period": rate and period_in_words(rate["period"]),
        "reason": members.get("reason", ""),
        "seen_at": members.get("last_seen_at"),
    }
