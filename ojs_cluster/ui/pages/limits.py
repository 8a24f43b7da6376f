"""The rate limit keys, with their usage and overrides, and the form of an override."""

from __future__ import annotations

from typing import Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, confirmation, is_confirmed, refused
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.shared.ordered import Sorts, by_number, order_of, read_list
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_MAX_SORTED: Final = 200
"""Maximum number of keys that are read to sort or filter: each takes a call per shard."""
_SORTS: Final[Sorts] = {
    "key": lambda each: each["key"],
    **{name: by_number(name) for name in ("active", "waiting")},
}


async def show_all(visit: Visit) -> Answer:
    """List the rate limit keys.

    To sort or filter takes the numbers of all keys, so it is done with the first ones only.
    """
    page, order = visit.page, order_of(visit, "limits", _SORTS)
    first, most = (page - 1) * _PER_PAGE, 0
    if order.is_given:
        items, total = await read_list(visit, "rate-limits", most=_MAX_SORTED)
        keys = [{name: orjson.loads(bytes(part)) for name, part in each.items()} for each in items]
        keys = order.sorted(each for each in keys if order.finds(each["key"]))
        most = _MAX_SORTED if total > len(items) else 0
        total, has_more = len(keys), first + _PER_PAGE < len(keys)
        keys = keys[first : first + _PER_PAGE]
    else:
        listed = orjson.loads(await visit.get("rate-limits", page=page, per_page=_PER_PAGE))
        keys, pagination = listed["items"], listed["pagination"]
        total, has_more = pagination["total"], pagination["has_more"]
    return Page(
        "limits/list.html",
        {
            "limits": keys,
            "total": total,
            "order": order,
            "most": most,
            "page": page,
            "has_more": has_more,
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
