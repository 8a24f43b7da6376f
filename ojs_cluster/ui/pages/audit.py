"""The audit: who has changed what, and which requests were refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.jobs.ids import is_job_id
from ojs_cluster.core.jobs.options import is_queue
from ojs_cluster.core.jobs.tenant import is_tenant
from ojs_cluster.ui.formats import time_ago
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.visit import Answer, Page, Visit

_PER_PAGE: Final = 50
_SEARCHED: Final = 500
"""Number of entries among which one page searches a text: the maximum of one call of the API."""
_MAX_TYPED: Final = 200  # characters
PERIODS: Final = {
    "1h": (3600, "the last hour"),
    "1d": (86_400, "the last 24 hours"),
    "7d": (604_800, "the last 7 days"),
}
"""The periods of the filter: their length in seconds, and in words."""
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
_OTHERS: Final = (
    *("bulk.stop", "cron.change", "cron.delete", "cron.pause", "cron.register", "cron.resume"),
    *("cron.trigger", "dead_letter.delete", "dead_letter.retry", "job.cancel", "job.enqueue"),
    *("job.retry", "queue.configure", "queue.create", "queue.delete", "queue.drain"),
    *("queue.pause", "queue.resume", "schema.configure", "schema.delete", "schema.register"),
    *("tenant.delete", "webhook.change", "webhook.create", "webhook.delete", "webhook.test"),
    *("worker.deregister", "worker.quiet", "workflow.cancel", "workflow.copy"),
)
"""Actions whose name says in words what was done."""
ACTIONS: Final = (*_VERBS, *_OTHERS)
"""The actions that the filter offers."""
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
_PLACES: Final = {"cron": "cron", "pool": "pools", "queue": "queues", "tenant": "tenants"}
_OUTCOMES: Final = {
    "ok": "done",
    "not_found": "it does not exist",
    "permission_denied": "not allowed",
    "unauthenticated": "no valid key",
}
"""The outcomes in words. The others are codes of errors."""
_MANY: Final = frozenset(
    {
        *("bulk.cancel", "bulk.create", "bulk.delete", "bulk.retry", "dead_letter.purge"),
        *("dead_letter.retry_many", "job.retry_many"),
    }
)
"""Actions that change many jobs."""
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
    since = query.get("since", "")
    since = since if since in PERIODS else ""
    listed = orjson.loads(
        await visit.get(
            *("admin", "audit"),
            principal=user,
            action=action,
            since=time_ago(PERIODS[since][0]) if since else "",
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
    if visit.redaction.hides_tenants:
        for entry in entries:
            if str(entry.get("action") or "").startswith("tenant."):
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
            "actions": sorted(
                ((name, action_of({"action": name})) for name in {*ACTIONS, action} - {""}),
                key=lambda pair: pair[1],
            ),
            "filters": {"user": user, "action": action, "text": text, "since": since},
            "periods": PERIODS,
            "next_cursor": listed["pagination"].get("next_cursor"),
            "cursor": cursor,
            "searched_to": searched_to,
        },
    )


def _has(entry: Mapping[str, Any], text: str, visit: Visit) -> bool:
    """Return whether the shown object of an entry contains a text, in any case of letters."""
    given = str(entry.get("object") or "")
    wanted = text[:_MAX_TYPED].casefold()
    return any(
        wanted in visit.redaction.rules.text(each).casefold() for each in (given, object_of(entry))
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


def object_of(entry: Mapping[str, Any]) -> str:
    """Return in words what an audit entry is about, such as ``jobs in the queue email``."""
    action, given = str(entry.get("action") or ""), str(entry.get("object") or "")
    if action == "keys.reload":
        return "the file of the API keys"
    if action == "queue.delete" and (deleted := _read_deletion(given)):
        name, discarded, target = deleted.groups()
        return f"{name}, its jobs {'discarded' if discarded else 'moved to ' + target}"
    found = _read_selection(given) if action in _MANY and not is_job_id(given) else None
    if not given or found is None:
        return given
    part = found.groupdict()
    named = part["ids"]
    words = ["1 named job" if named == "1" else f"{named} named jobs" if named else "jobs"]
    if part["action"]:
        words.insert(0, part["action"].strip())
    if part["count"]:
        words.insert(0, "count, to")
    if part["queue"] or part["accessible"]:
        words.append(f"in the queue {part['queue']}" if part["queue"] else "in the user's queues")
    for name, before in (("type", "of the type"), ("error", "with the error")):
        if part[name]:
            words.append(f"{before} {part[name]}")
    if part["query"]:
        words.append(f"found by {part['query'].replace(',', ', ')}")
    return " ".join(words)


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
