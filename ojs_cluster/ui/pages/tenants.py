"""The tenants: how many jobs each has, and its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.search import quoted
from ojs_cluster.store.engine.tenants.admission import WAITING
from ojs_cluster.ui.forms.form import Form, confirmation, is_confirmed, number_or_text, refused
from ojs_cluster.ui.forms.limits import per_period, period_in_words, period_of
from ojs_cluster.ui.json_view import HIDDEN
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.overview import TILES
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_NUMBERS: Final = ("max_queue_depth", "max_scheduled")
_RATE: Final = ("rate", "rate_period")
_FIELDS: Final = {
    **{path: name for name in _NUMBERS for path in (name, f"$.{name}")},
    "max_enqueue_rate": "rate",
    "max_enqueue_rate.limit": "rate",
    "$.max_enqueue_rate.limit": "rate",
    "max_enqueue_rate.period": "rate_period",
    "reason": "reason",
}
"""The field of the form by the path that the API names in an error."""


async def show_all(visit: Visit) -> Answer:
    """List the known tenants, the most recently active first.

    A tenant whose name a pattern hides has its numbers only: its page and its jobs have the name.
    """
    if visit.redaction.hides_tenants:
        return _hidden()
    page = visit.page
    raw = await visit.shared("admin", "tenants", page=page, per_page=_PER_PAGE)
    listed = orjson.loads(raw)
    return Page(
        "limits/tenants.html",
        {
            "tenants": await _tenants(visit, listed["items"]),
            "total": listed["pagination"]["total"],
            "page": page,
            "has_more": listed["pagination"]["has_more"],
        },
    )


async def show_one(visit: Visit, tenant: str) -> Answer:
    """Show one tenant, with the form of its limits."""
    return _hidden() if visit.redaction.hides_tenant(tenant) else await _page(visit, tenant)


async def set_limits(visit: Visit, tenant: str) -> Answer:
    """Change the limits of a tenant; an empty field removes one."""
    if visit.redaction.hides_tenant(tenant):
        return _hidden()
    here = visit.url("tenants", tenant)
    body = _changes(visit.form)
    if not body:
        return SeeOther(here, _("Nothing was changed."))
    if body.get("max_queue_depth") == 0 and not is_confirmed(visit):
        return confirmation(
            visit,
            _("Refuse all new jobs of %(name)s?", name=tenant),
            _(
                "With 0 waiting jobs every new job of this tenant is refused, in all queues, until "
                "the limit is changed. Its stored jobs run."
            ),
            _("Refuse its new jobs"),
            here,
        )
    body["reason"] = visit.form.get("reason", "").strip()
    try:
        await visit.send("PUT", "admin", "tenants", tenant, "limits", body=body)
    except ApiError as error:
        return await _page(visit, tenant, refused(visit, error, _FIELDS), error.status)
    return SeeOther(here, _("The limits of %(name)s are changed.", name=tenant))


def _hidden() -> Page:
    """Return the page that says that the operator hides whose a job is."""
    return Page(
        "error.html",
        {
            "what": _("The operator hides the tenants"),
            "why": _("OJS_UI_REDACT hides meta.tenant_id, which tells whose a job is."),
            "hint": _("The API shows tenants to keys with the scope ojs:admin:read."),
        },
        403,
    )


async def _page(visit: Visit, tenant: str, form: Form | None = None, status: int = 200) -> Page:
    """Return the page of a tenant.

    Args:
        visit: the request.
        tenant: the tenant.
        form: the form that was sent and refused; None to show the present limits.
        status: the status of the response.
    """
    found = orjson.loads(await visit.get("admin", "tenants", tenant))
    [shown] = await _tenants(visit, [found])
    return Page(
        "limits/tenant.html",
        {
            "tenant": shown,
            "tiles": [state.value for state in TILES],
            "form": form or Form(_values(shown)),
            "refused": form is not None,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
        status,
    )


async def _tenants(visit: Visit, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the pages show of tenants as the API returns them."""
    shown = [_tenant(visit, members) for members in found]
    reasons = await visit.redaction.texts([each["reason"] for each in shown], ERROR_MESSAGE)
    return [{**each, "reason": reason} for each, reason in zip(shown, reasons, strict=True)]


def _tenant(visit: Visit, members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of one tenant; its reason may have values to hide."""
    jobs, limits = members["jobs"], members["limits"]
    search = f"meta.tenant_id:{quoted(members['tenant_id'])}"
    is_hidden = visit.redaction.hides_tenant(members["tenant_id"])
    rate = limits.get("max_enqueue_rate")
    return {
        "name": HIDDEN if is_hidden else members["tenant_id"],
        "is_hidden": is_hidden,
        # Nothing to link to where the operator hides this part of the meta.
        "search": "" if is_hidden or why_not_searched(search, visit.redaction) else search,
        "jobs": jobs,
        "waiting": sum(jobs[state] for state in WAITING),
        "max_queue_depth": limits.get("max_queue_depth"),
        "max_scheduled": limits.get("max_scheduled"),
        "rate": rate and rate["limit"],
        "rate_period": rate and period_in_words(rate["period"]),
        "per": rate and per_period(rate["period"]),
        "reason": members.get("reason", ""),
        "seen_at": members.get("last_seen_at"),
    }


def _values(tenant: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the fields, and again as hidden fields that tell what has changed."""
    names = (*_NUMBERS, *_RATE)
    values = {name: "" if tenant[name] is None else str(tenant[name]) for name in names}
    return {**values, **{f"was_{name}": text for name, text in values.items()}}


def _changes(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the limits that the user has changed; None removes one."""
    texts = {name: form.get(name, "").strip() for name in (*_NUMBERS, *_RATE)}
    changed = {name for name, text in texts.items() if text != form.get(f"was_{name}", "")}
    body: dict[str, Any] = {
        name: number_or_text(texts[name]) if texts[name] else None
        for name in _NUMBERS
        if name in changed
    }
    if changed.intersection(_RATE):
        period = period_of(texts["rate_period"] or "second")
        rate = {"limit": number_or_text(texts["rate"]), "period": period}
        body["max_enqueue_rate"] = rate if texts["rate"] else None
    return body
