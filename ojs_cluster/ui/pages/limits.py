"""The rate limit keys, with their usage and overrides, and the form of an override."""

from __future__ import annotations

from typing import Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, confirmation, is_confirmed, refused
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50


async def show_all(visit: Visit) -> Answer:
    """List the rate limit keys."""
    page = visit.page
    listed = orjson.loads(await visit.get("rate-limits", page=page, per_page=_PER_PAGE))
    return Page(
        "limits/list.html",
        {
            "limits": listed["items"],
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def show_one(visit: Visit, key: str) -> Answer:
    """Show one rate limit key, with the form of its override."""
    return await _page(visit, key)


async def override(visit: Visit, key: str) -> Answer:
    """Set limits that apply instead of those that the jobs of a key declare."""
    body = limit_form.body_of(visit.form)
    if body.get("concurrency") == 0 and not is_confirmed(visit):
        return confirmation(
            visit,
            _("Let no job of %(name)s start?", name=key),
            _(
                "With 0 jobs at the same time no job with this key starts, in any queue. What "
                "their on_limit says happens to them: they wait, are scheduled again, or are "
                "dropped. Active jobs run to their end. Clear the override to let jobs start again."
            ),
            _("Stop all jobs of this key"),
            visit.url("limits", key),
        )
    if visit.form.get("expires_at", "").strip():
        body["expires_at"] = visit.form["expires_at"].strip()
    try:
        await visit.send(
            "PUT", "rate-limits", key, "override", body=body, action="rate_limit.override"
        )
    except ApiError as error:
        return await _page(visit, key, refused(visit, error, limit_form.FIELDS), error.status)
    words = ", ".join(limit_form.limits_in_words(body))
    note = _("The override of %(name)s: %(limits)s.", name=key, limits=words)
    return SeeOther(visit.url("limits", key), note)


async def clear(visit: Visit, key: str) -> Answer:
    """Remove the override of a key."""
    await visit.send("DELETE", "rate-limits", key, "override", action="rate_limit.end_override")
    note = _("The limits of %(name)s are those of its jobs again.", name=key)
    return visit.back(note, "limits")


async def _page(visit: Visit, key: str, form: Form | None = None, status: int = 200) -> Page:
    """Return the page of a key.

    Args:
        visit: the request.
        key: the key.
        form: the form that was sent and refused; None to show the present override.
        status: the status of the response.
    """
    limit = orjson.loads(await visit.get("rate-limits", key))
    present = limit.get("override") or {}
    values = limit_form.values_of(present) | {"expires_at": present.get("expires_at", "")}
    return Page(
        "limits/limit.html",
        {
            "limit": limit,
            "form": form or Form(values),
            "refused": form is not None,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
        status,
    )
