"""The audit: who has changed what, and which requests were refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.jobs.tenant import is_tenant
from ojs_cluster.ui.formats import rfc3339
from ojs_cluster.ui.json_view import readable
from ojs_cluster.ui.languages.translate import _, later, ngettext
from ojs_cluster.ui.pages.shared.audited_changes import changes_of
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_SEARCHED: Final = 500
"""Number of entries among which one page searches a text: the maximum of one call of the API."""
_MAX_TYPED: Final = 200  # characters
PERIODS: Final = {
    "1h": (3600, later("the last hour")),
    "1d": (86_400, later("the last 24 hours")),
    "7d": (604_800, later("the last 7 days")),
}
"""The periods of the filter: their length in seconds, and in words."""
ACTIONS: Final = {
    "authenticate": later("Log in or send a key"),
    "bulk.cancel": later("Cancel named jobs"),
    "bulk.create": later("Start a bulk operation"),
    "bulk.delete": later("Delete named jobs"),
    "bulk.retry": later("Retry named jobs"),
    "bulk.stop": later("Stop a bulk operation"),
    "cron.backfill": later("Enqueue past occurrences of a cron job"),
    "cron.change": later("Change a cron job"),
    "cron.delete": later("Delete a cron job"),
    "cron.pause": later("Pause a cron job"),
    "cron.register": later("Register a cron job"),
    "cron.resume": later("Resume a cron job"),
    "cron.trigger": later("Trigger a cron job"),
    "data.reset": later("Delete all data"),
    "dead_letter.delete": later("Delete a dead letter"),
    "dead_letter.purge": later("Delete dead letters"),
    "dead_letter.retry": later("Retry a dead letter"),
    "dead_letter.retry_many": later("Retry dead letters"),
    "job.activate": later("Activate a job"),
    "job.cancel": later("Cancel a job"),
    "job.cancel_run": later("Cancel the run of a job"),
    "job.copy": later("Enqueue a copy of a job"),
    "job.delete_history": later("Delete the history of a job"),
    "job.edit": later("Edit a job"),
    "job.enqueue": later("Enqueue a job"),
    "job.move": later("Move a job to another queue"),
    "job.retry": later("Retry a job"),
    "job.retry_many": later("Retry jobs"),
    "keys.reload": later("Reload the API keys"),
    "mark.add": later("Set a mark on the charts"),
    "mark.delete": later("Delete a mark on the charts"),
    "problem.mute": later("Mute a problem"),
    "problem.unmute": later("End the mute of a problem"),
    "outbox.retry": later("Deliver outbox dead letters again"),
    "pool.delete": later("Delete a worker pool"),
    "pool.set": later("Set up a worker pool"),
    "queue.configure": later("Configure a queue"),
    "queue.create": later("Create a queue"),
    "queue.delete": later("Delete a queue"),
    "queue.drain": later("Drain a queue"),
    "queue.end_limit": later("End the limits of a queue"),
    "queue.limit": later("Set the limits of a queue"),
    "queue.pause": later("Pause a queue"),
    "queue.purge": later("Delete the waiting jobs of a queue"),
    "queue.purge_states": later("Delete jobs of a queue by state"),
    "queue.resume": later("Resume a queue"),
    "rate_limit.end_override": later("Clear the override of a rate limit"),
    "rate_limit.override": later("Override a rate limit"),
    "schema.configure": later("Configure a schema"),
    "schema.delete": later("Delete a schema"),
    "schema.register": later("Register a schema"),
    "system.maintenance": later("Switch maintenance mode"),
    "tenant.delete": later("Delete a tenant"),
    "tenant.set": later("Set up a tenant"),
    "tenant.set_limits": later("Set the limits of a tenant"),
    "ui.login": later("Log in to the dashboard"),
    "webhook.change": later("Change a webhook"),
    "webhook.create": later("Create a webhook"),
    "webhook.delete": later("Delete a webhook"),
    "webhook.retry_delivery": later("Retry a webhook delivery"),
    "webhook.rotate_secret": later("Change the secret of a webhook"),
    "webhook.test": later("Test a webhook"),
    "worker.deregister": later("Deregister a worker"),
    "worker.direct": later("Direct a worker"),
    "worker.quiet": later("Quiet a worker"),
    "workflow.cancel": later("Cancel a workflow"),
    "workflow.copy": later("Copy a workflow"),
}
"""The actions that the filter offers, in words."""
_PLACES_BY_ID: Final = {
    "bulk": "bulk",
    "dead_letter": "jobs",
    "job": "jobs",
    "workflow": "workflows",
}
_PLACES: Final = {"cron": "cron", "pool": "pools", "queue": "queues", "tenant": "tenants"}
_OUTCOMES: Final = {
    "ok": later("done"),
    "not_found": later("it does not exist"),
    "permission_denied": later("not allowed"),
    "unauthenticated": later("no valid key"),
}
"""The outcomes in words. The others are codes of errors."""
_MANY: Final = frozenset(
    {
        *("bulk.cancel", "bulk.create", "bulk.delete", "bulk.retry", "dead_letter.purge"),
        *("dead_letter.retry_many", "job.retry_many"),
    }
)
"""Actions that change many jobs."""
_COUNTED: Final = {
    "cancel": later("count, to cancel %(jobs)s"),
    "delete": later("count, to delete %(jobs)s"),
    "retry": later("count, to retry %(jobs)s"),
}
_STARTED: Final = {
    "cancel": later("cancel %(jobs)s"),
    "delete": later("delete %(jobs)s"),
    "retry": later("retry %(jobs)s"),
}
_read_selection: Final = re.compile(
    r"(?P<count>count )?(?P<action>[a-z]+ ?)??(?:(?P<ids>[0-9]+) ids ?)?"
    r"(?:queue=(?P<queue>\S++) ?|(?P<accessible>all accessible queues) ?)?"
    r"(?:type=(?P<type>\S++) ?)?(?:error=(?P<error>.*?) ?)??(?:query of (?P<query>\S*))?"
).fullmatch
"""The object of a change of many jobs, as the audit has it."""
_read_deletion: Final = re.compile(r"(\S+) (?:(discard)|move (\S+))").fullmatch
"""The object of a deletion of a queue with jobs: the name, and what became of the jobs."""


async def show(visit: Visit) -> Answer:
    """List the entries that the filter admits, the newest first.

    A text is searched in what the page shows, so that it finds nothing that the operator hides.
    """
    query = visit.query
    user, action, text, cursor = (
        query.get(name, "").strip() for name in ("user", "action", "text", "cursor")
    )
    since, until = (query.get(name, "").strip() for name in ("since", "until"))
    listed = orjson.loads(
        await visit.get(
            *("admin", "audit"),
            principal=user,
            action=action,
            since=rfc3339(visit.clock.now_s() - PERIODS[since][0])
            if since in PERIODS
            else typed_time(since, visit.zone),
            until=typed_time(until, visit.zone),
            cursor=cursor,
            limit=_SEARCHED if text else _PER_PAGE,
        )
    )
    entries = listed["entries"]
    # The audit of a bulk operation names the type and the message of the error of its filter.
    bulk = [entry for entry in entries if entry.get("action") == "bulk.create"]
    shown = [str(entry.get("object") or "") for entry in bulk]
    for path in (ERROR_TYPE, ERROR_MESSAGE):
        shown = await visit.redaction.texts(shown, path)
    for entry, new in zip(bulk, shown, strict=True):
        entry["object"] = new
    await _hide_reasons(visit, entries)
    for entry in entries:
        action_of_entry = str(entry.get("action") or "")
        # A refused request has its route as its action.
        is_of_tenant = action_of_entry.startswith("tenant.") or "/tenants/{" in action_of_entry
        if is_of_tenant and visit.redaction.hides_tenant(str(entry.get("object") or "")):
            entry["object"] = ""
    searched_to = entries[-1].get("time") if entries else None
    if text:
        entries = [entry for entry in entries if _has(entry, text, visit)]
    return Page(
        "audit.html",
        {
            "entries": entries,
            "action_of": action_of,
            "object_of": object_of,
            "outcome_of": outcome_of,
            "place_of": place_of,
            "changes_of": lambda entry: changes_of(entry, visit.zone),
            "members_of": lambda entry: _members_of(entry, visit),
            "actions": sorted(
                ((name, action_of({"action": name})) for name in {*ACTIONS, action} - {""}),
                key=lambda pair: pair[1],
            ),
            "filters": {"user": user, "action": action, "text": text}
            | {"since": since, "until": until},
            "periods": PERIODS,
            "next_cursor": listed["pagination"].get("next_cursor"),
            "cursor": cursor,
            "searched_to": searched_to,
        },
    )


async def _hide_reasons(visit: Visit, entries: Iterable[Mapping[str, Any]]) -> None:
    """Replace what the operator hides in the reasons of changes, as the page of a tenant does."""
    told = [each for entry in entries for each in _reasons_in(entry.get("details"))]
    texts = [str(values[when]) for values, when in told]
    shown = await visit.redaction.texts(texts, ERROR_MESSAGE)
    for (values, when), text in zip(told, shown, strict=True):
        values[when] = text


def _reasons_in(value: Any, name: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects and the names of members that are, or are in, a ``reason``."""
    if not isinstance(value, dict):
        return
    for member, each in value.items():
        inside = "reason" if "reason" in (name, member) else ""
        if inside and not isinstance(each, dict):
            yield value, member
        else:
            yield from _reasons_in(each, inside)


def _has(entry: Mapping[str, Any], text: str, visit: Visit) -> bool:
    """Return whether the shown object of an entry contains a text, in any case of letters."""
    given = str(entry.get("object") or "")
    wanted = text[:_MAX_TYPED].casefold()
    return any(
        wanted in visit.redaction.rules.text(each).casefold() for each in (given, object_of(entry))
    )


def action_of(entry: Mapping[str, Any]) -> str:
    """Return in words what an audit entry reports, such as ``Pause a queue``.

    An action without words here is one of another version. A refused request for a route without
    an action has its method and path.
    """
    action = str(entry.get("action") or "")
    if action in ACTIONS:
        return _(ACTIONS[action])
    noun, dot, verb = action.partition(".")
    words = f"{verb} {noun}".replace("_", " ") if dot and " " not in action else action
    return words[:1].upper() + words[1:]


def object_of(entry: Mapping[str, Any]) -> str:
    """Return in words what an audit entry is about, such as ``jobs in the queue email``."""
    action, given = str(entry.get("action") or ""), str(entry.get("object") or "")
    if action == "keys.reload":
        return _("the file of the API keys")
    if action == "queue.delete" and (deleted := _read_deletion(given)):
        name, discarded, target = deleted.groups()
        if discarded:
            return _("%(name)s, its jobs discarded", name=name)
        return _("%(name)s, its jobs moved to %(queue)s", name=name, queue=target)
    found = _read_selection(given) if action in _MANY and not is_job_id(given) else None
    if not given or found is None:
        return given
    return _selected(found.groupdict())


def _selected(part: Mapping[str, str | None]) -> str:
    """Return in words which jobs were changed, and how, from what the audit has."""
    count = int(part["ids"] or 0)
    jobs = (
        ngettext("%(number)s named job", "%(number)s named jobs", count, number=count)
        if part["ids"]
        else _("jobs")
    )
    if part["queue"]:
        jobs = _("%(jobs)s in the queue %(queue)s", jobs=jobs, queue=part["queue"])
    elif part["accessible"]:
        jobs = _("%(jobs)s in the user's queues", jobs=jobs)
    if part["type"]:
        jobs = _("%(jobs)s of the type %(type)s", jobs=jobs, type=part["type"])
    if part["error"]:
        jobs = _("%(jobs)s with the error %(error)s", jobs=jobs, error=part["error"])
    if part["query"]:
        names = part["query"].replace(",", ", ")
        jobs = _("%(jobs)s found by %(names)s", jobs=jobs, names=names)
    action = (part["action"] or "").strip()
    words = (_COUNTED if part["count"] else _STARTED).get(action)
    return f"{action} {jobs}".strip() if words is None else _(words, jobs=jobs)


def outcome_of(entry: Mapping[str, Any]) -> str:
    """Return in words how the action of an audit entry has ended."""
    outcome = str(entry.get("outcome") or "")
    words = _(_OUTCOMES[outcome]) if outcome in _OUTCOMES else outcome.replace("_", " ")
    if entry.get("missing_scope"):
        scope = entry["missing_scope"]
        words = _("%(outcome)s: the key lacks %(scope)s", outcome=words, scope=scope)
    times = entry.get("count")
    if not isinstance(times, int) or times < 2:
        return words
    return ngettext(
        "%(outcome)s, %(number)s time",
        "%(outcome)s, %(number)s times",
        times,
        outcome=words,
        number=times,
    )


def _members_of(entry: Mapping[str, Any], visit: Visit) -> str:
    """Return the changed members of an entry with their values, as JSON; empty if it has none."""
    details = entry.get("details")
    if not isinstance(details, dict) or not any(details.values()):
        return ""
    text = orjson.dumps(details, option=orjson.OPT_INDENT_2).decode()
    return readable(visit.redaction.rules.text(text))


def place_of(entry: Mapping[str, Any]) -> str:
    """Return the page that shows the object of an audit entry; empty if there is none.

    The object of a change of many jobs is a text that describes them.
    """
    noun, name = str(entry.get("action") or "").partition(".")[0], str(entry.get("object") or "")
    is_name = is_tenant if noun == "tenant" else is_queue
    is_known = is_job_id(name) if noun in _PLACES_BY_ID else noun in _PLACES and is_name(name)
    return {**_PLACES_BY_ID, **_PLACES}[noun] if is_known else ""
