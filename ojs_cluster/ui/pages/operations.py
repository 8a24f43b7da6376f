"""Maintenance mode, the outbox dead letters, and the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.jobs.tenant import is_tenant
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.visit import Answer, Page, Visit

_AUDIT: Final = 50
_MAX_OUTBOX: Final = 20
_VERBS: Final = {
    "authenticate": "log in or send a key",
    "bulk.cancel": "cancel named jobs",
    "bulk.create": "start a bulk operation",
    "bulk.delete": "delete named jobs",
    "bulk.retry": "retry named jobs",
    "data.reset": "delete all data",
    "cron.backfill": "enqueue past occurrences of a cron job",
    "dead_letter.purge": "delete dead letters",
    "dead_letter.retry_many": "retry dead letters",
    "job.activate": "activate a job",
    "job.copy": "enqueue a copy of a job",
    "job.delete_history": "delete the history of a job",
    "job.edit": "edit a job",
    "job.retry_many": "retry jobs",
    "keys.reload": "reload the API keys",
    "mark.add": "set a mark on the charts",
    "mark.delete": "delete a mark on the charts",
    "outbox.retry": "deliver outbox dead letters again",
    "pool.delete": "delete a worker pool",
    "pool.set": "set up a worker pool",
    "queue.end_limit": "end the limits of a queue",
    "queue.limit": "set the limits of a queue",
    "queue.purge": "delete the waiting jobs of a queue",
    "queue.purge_states": "delete jobs of a queue by state",
    "rate_limit.end_override": "clear the override of a rate limit",
    "rate_limit.override": "override a rate limit",
    "search.delete": "delete a saved search",
    "search.save": "save a search",
    "system.maintenance": "switch maintenance mode",
    "tenant.set": "set up a tenant",
    "tenant.set_limits": "set the limits of a tenant",
    "ui.login": "log in to the dashboard",
    "webhook.retry_delivery": "retry a webhook delivery",
    "webhook.rotate_secret": "change the secret of a webhook",
    "worker.direct": "direct a worker",
}
"""Actions whose name does not say in words what was done."""
_NOUNS: Final = {
    "bulk": "a bulk operation",
    "cron": "a cron job",
    "dead_letter": "a dead letter",
    "rate_limit": "a rate limit",
}
_PLACES_BY_ID: Final = {
    "bulk": "bulk",
    "dead_letter": "jobs",
    "job": "jobs",
    "workflow": "workflows",
}
_PLACES: Final = {"cron": "cron", "queue": "queues", "tenant": "tenants"}
_OUTCOMES: Final = {
    "ok": "done",
    "not_found": "it does not exist",
    "permission_denied": "not allowed",
    "unauthenticated": "no valid key",
}
"""The outcomes in words. The others are codes of errors."""


async def show(visit: Visit) -> Answer:
    """Show the state of all three."""
    maintenance = orjson.loads(await visit.get("admin", "maintenance"))
    outbox = orjson.loads(await visit.get("admin", "outbox", limit=_MAX_OUTBOX))
    cursor = visit.query.get("cursor", "")
    audit = orjson.loads(await visit.get("admin", "audit", limit=_AUDIT, cursor=cursor))
    # The audit of a bulk operation names the type and the message of the error of its filter.
    bulk = [entry for entry in audit["entries"] if entry.get("action") == "bulk.create"]
    shown = [str(entry.get("object") or "") for entry in bulk]
    for path in (ERROR_TYPE, ERROR_MESSAGE):
        shown = await visit.redaction.texts(shown, path)
    for entry, text in zip(bulk, shown, strict=True):
        entry["object"] = text
    return Page(
        "operations.html",
        {
            "maintenance": maintenance,
            "outbox": outbox["entries"],
            "outbox_total": outbox["total"],
            "audit": audit["entries"],
            "action_of": action_of,
            "outcome_of": outcome_of,
            "place_of": place_of,
            "next_cursor": audit["pagination"].get("next_cursor"),
            "cursor": cursor,
            "may_write": visit.may_change(Scope.ADMIN_WRITE),
        },
    )


def action_of(entry: Mapping[str, Any]) -> str:
    """Return in words what an audit entry reports, such as ``pause a queue``.

    An action without words of its own is a noun and a verb, as in ``queue.pause``. A refused
    request for a route without an action has its method and path.
    """
    action = str(entry.get("action") or "")
    noun, dot, verb = action.partition(".")
    if action in _VERBS or not dot or " " in action:
        words = _VERBS.get(action, action)
    else:
        words = f"{verb.replace('_', ' ')} {_NOUNS.get(noun, 'a ' + noun.replace('_', ' '))}"
    return words[:1].upper() + words[1:]


def outcome_of(entry: Mapping[str, Any]) -> str:
    """Return in words how the action of an audit entry has ended."""
    outcome = str(entry.get("outcome") or "")
    words = _OUTCOMES.get(outcome, outcome.replace("_", " "))
    if entry.get("missing_scope"):
        words += f": the key lacks {entry['missing_scope']}"
    times = entry.get("count")
    return f"{words}, {times} times" if isinstance(times, int) and times > 1 else words


def place_of(entry: Mapping[str, Any]) -> str:
    """Return the page that shows the object of an audit entry; empty if there is none.

    The object of a change of many jobs is a text that describes them.
    """
    noun, name = str(entry.get("action") or "").partition(".")[0], str(entry.get("object") or "")
    is_name = is_tenant if noun == "tenant" else is_queue
    is_known = is_job_id(name) if noun in _PLACES_BY_ID else noun in _PLACES and is_name(name)
    return {**_PLACES_BY_ID, **_PLACES}[noun] if is_known else ""


async def set_maintenance(visit: Visit) -> Answer:
    """Switch maintenance mode on or off."""
    enabled = visit.form.get("enabled") == "1"
    body: dict[str, Any] = {"enabled": enabled}
    if enabled:
        refused = [name for name in ("enqueue", "fetch") if visit.form.get(name)]
        body |= {"reason": visit.form.get("reason", "")[:500], "refuse": refused or ["fetch"]}
    await visit.send("POST", "admin", "maintenance", body=body)
    return visit.back(f"Maintenance mode is {'on' if enabled else 'off'}.", "operations")


async def retry_outbox(visit: Visit) -> Answer:
    """Deliver the outbox dead letters again."""
    await visit.send("POST", "admin", "outbox", "retry", body={"all": True})
    return visit.back("The effects are delivered again.", "operations")
