"""The cron jobs, and one cron job with its last occurrences."""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.cron.zones import find_zone
from ojs_cluster.ui import raw
from ojs_cluster.ui.drawings.runs_chart import runs_chart
from ojs_cluster.ui.formats import exact_time, number, zone_name
from ojs_cluster.ui.forms.form import confirmation, is_confirmed
from ojs_cluster.ui.json_view import show_values
from ojs_cluster.ui.languages.translate import _, ngettext
from ojs_cluster.ui.pages.shared.ordered import (
    Sorts,
    by_number,
    by_time,
    order_of,
    read_list,
)
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.visit import Answer, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_MAX_SORTED: Final = 1000
"""Maximum number of cron jobs that are read to sort or filter."""
_SORTS: Final[Sorts] = {
    **{name: itemgetter(name) for name in ("name", "type", "queue")},
    # The next one first; a cron job without a next occurrence is the last.
    "next_run_at": lambda each: (not each["next_run_at"], each["next_run_at"]),
    "last_run_at": by_time("last_run_at"),
    "runs": by_number("runs"),
}
_TEXTS: Final = (
    *("name", "expression", "timezone", "overlap_policy", "status", "type", "queue"),
    *("description", "next_run_at", "last_run_at", "created_at"),
)


async def show_all(visit: Visit) -> Answer:
    """List the cron jobs: first the enabled ones by name, or as the user has sorted them."""
    order = order_of(visit, "cron", _SORTS, ("find", "state"))
    page, most = visit.page, 0
    first = (page - 1) * _PER_PAGE
    if order.is_given:
        items, total = await read_list(visit, "cron", most=_MAX_SORTED)
        crons = [
            cron
            for cron in map(_cron, items)
            if order.filters["state"] in ("", cron["status"])
            and order.finds(cron["name"], cron["type"], cron["queue"])
        ]
        most = _MAX_SORTED if total > len(items) else 0
        total, has_more = len(crons), first + _PER_PAGE < len(crons)
        crons = order.sorted(crons)[first : first + _PER_PAGE]
    else:
        found = raw.members(await visit.get("cron", offset=first, limit=_PER_PAGE))
        crons = [_cron(members) for members in raw.objects(found, "items")]
        total = raw.integer(found, "total")
        has_more = first + _PER_PAGE < total
    return Page(
        "crons/list.html",
        {
            "crons": crons,
            "order": order,
            "total": total,
            "most": most,
            "page": page,
            "has_more": has_more,
            "may_write": visit.may_change(Scope.DATA_WRITE),
        },
    )


async def show_one(visit: Visit, name: str) -> Answer:
    """Show one cron job."""
    found = raw.members(await visit.get("cron", name))
    members = raw.members(found["cron"])
    history = orjson.loads(await visit.get("cron", name, "history", limit=50))["items"]
    shown = await visit.redaction.members(members, raw.text(members, "type"))
    return Page(
        "crons/cron.html",
        {
            "cron": _cron(members),
            "values": await show_values(
                {n: shown[n] for n in ("args", "meta", "options")},
                redacted=visit.redaction.active,
            ),
            "zones": _zones_of_times(visit, raw.text(members, "timezone")),
            "history": history,
            "chart": runs_chart(history),
            "may_write": visit.may_change(Scope.DATA_WRITE),
        },
    )


def _zones_of_times(visit: Visit, name: str) -> list[str]:
    """Return the time zones in which the form takes times: that of the cron job, that of pages."""
    zone, own = find_zone(name), zone_name(visit.zone)
    return [own] if zone is None or zone.key == own else [zone.key, own]


def _in_zones(text: str, zone: ZoneInfo | None, other: ZoneInfo | None) -> str:
    """Return a time in the time zone in which it was typed, and in that of the pages."""
    shown, also = exact_time(text, zone), exact_time(text, other)
    return shown if shown == also else f"{shown} ({also})"


async def trigger(visit: Visit, name: str) -> Answer:
    """Enqueue the job of a cron job now."""
    response = await visit.send("POST", "cron", name, "trigger", action="cron.trigger")
    job_id = raw.text(raw.members(response), "job_id")
    return SeeOther(visit.url("jobs", job_id), _("This is the job of %(name)s.", name=name))


async def backfill(visit: Visit, name: str) -> Answer:
    """Count the occurrences of a past interval, ask, and enqueue their jobs."""
    zone = find_zone(visit.form.get("zone", "")) or visit.zone
    body = {name: typed_time(visit.form.get(name, ""), zone) for name in ("from", "to")}
    confirmed = is_confirmed(visit)
    # The page that asks sends the same times, also if another time zone is chosen meanwhile.
    visit = replace(visit, form={**visit.form, **body})
    # A count changes nothing, so the audit records only what is confirmed.
    action = "cron.backfill" if confirmed else ""
    response = await visit.send(
        "POST", "cron", name, "backfill", body={**body, "confirm": confirmed}, action=action
    )
    found = orjson.loads(response)
    if not found["count"]:
        return visit.back(_("%(name)s has no occurrence in this time.", name=name), "cron")
    if not confirmed:
        count, jobs = found["count"], number(found["count"])
        return confirmation(
            visit,
            ngettext(
                "Enqueue %(number)s job of %(name)s?",
                "Enqueue %(number)s jobs of %(name)s?",
                count,
                number=jobs,
                name=name,
            ),
            _(
                "The first is of %(first)s, the last of %(last)s. An occurrence whose job exists "
                "is left out.",
                first=_in_zones(found["first"], zone, visit.zone),
                last=_in_zones(found["last"], zone, visit.zone),
            ),
            ngettext("Enqueue %(number)s job", "Enqueue %(number)s jobs", count, number=jobs),
            visit.url("cron", name),
        )
    note = ngettext(
        "%(number)s job enqueued, %(existing)s existed.",
        "%(number)s jobs enqueued, %(existing)s existed.",
        found["enqueued"],
        number=number(found["enqueued"]),
        existing=number(found["existing"]),
    )
    if found["failed"]:
        note += " " + ngettext(
            "%(number)s failed: %(error)s",
            "%(number)s failed: %(error)s",
            found["failed"],
            number=number(found["failed"]),
            error=found["errors"][0]["message"],
        )
    return visit.back(note, "cron")


async def pause(visit: Visit, name: str) -> Answer:
    """Disable a cron job."""
    await visit.send("POST", "cron", name, "pause", action="cron.pause")
    return visit.back(_("The cron job %(name)s is paused.", name=name), "cron")


async def resume(visit: Visit, name: str) -> Answer:
    """Enable a cron job."""
    await visit.send("POST", "cron", name, "resume", action="cron.resume")
    return visit.back(_("The cron job %(name)s runs again.", name=name), "cron")


async def delete(visit: Visit, name: str) -> Answer:
    """Delete a cron job."""
    await visit.send("DELETE", "cron", name, action="cron.delete")
    return SeeOther(visit.url("cron"), _("The cron job %(name)s is deleted.", name=name))


def _cron(members: raw.Members) -> dict[str, Any]:
    return {
        **{name: raw.text(members, name) for name in _TEXTS},
        "runs": raw.integer(members, "run_count"),
    }
