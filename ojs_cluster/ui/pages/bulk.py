"""Bulk operations: count the jobs that match, confirm, and follow the progress.

An action on all matching jobs is first counted by a dry run, whose page asks for a confirmation.
The operation itself survives the process that has started it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.formats import exact_time, number
from ojs_cluster.ui.forms.form import confirmation, is_confirmed
from ojs_cluster.ui.languages.translate import _, later, ngettext
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_MAX_STATES: Final = 2
"""Maximum number of states that a summary names."""
TYPED_ABOVE: Final = 100
"""Number of jobs above which the user has to type it as a confirmation."""
_FILTERS: Final = ("queue", "type", "state", "query")
ACTIONS: Final = {"retry": later("Retry"), "cancel": later("Cancel"), "delete": later("Delete")}
_TITLES: Final = {
    "retry": later("Retry %(jobs)s"),
    "cancel": later("Cancel %(jobs)s"),
    "delete": later("Delete %(jobs)s"),
}
_COUNTS: Final = {
    "retry": later("Count to retry"),
    "cancel": later("Count to cancel"),
    "delete": later("Count to delete"),
}
_TO_DO: Final = {
    "retry": later("To retry: %(jobs)s."),
    "cancel": later("To cancel: %(jobs)s."),
    "delete": later("To delete: %(jobs)s."),
}
_NOTHING: Final = {
    "retry": later("No job matches, so there is nothing to retry."),
    "cancel": later("No job matches, so there is nothing to cancel."),
    "delete": later("No job matches, so there is nothing to delete."),
}
SCOPES: Final = {
    "retry": Scope.ADMIN_WRITE,
    "cancel": Scope.ADMIN_WRITE,
    "delete": Scope.ADMIN_PURGE,
}
"""The scope that each action needs."""
_LASTING: Final = {
    "cancel": later("Cancelled jobs do not run, and cannot be retried."),
    "delete": later("Deleted jobs cannot be restored."),
}
"""The actions that cannot be taken back, with their consequences."""


async def show_all(visit: Visit) -> Answer:
    """List the operations: unfinished ones, then finished ones."""
    cursor = visit.query.get("cursor", "")
    listed = orjson.loads(await visit.get("admin", "bulk", cursor=cursor, limit=_PER_PAGE))
    summaries = {each["id"]: summary(await _shown(visit, each)) for each in listed["items"]}
    return Page(
        "bulks.html",
        {
            "operations": listed["items"],
            "next_cursor": listed["pagination"].get("next_cursor"),
            "cursor": cursor,
            "summary_of": lambda operation: summaries[operation["id"]],
            "may_stop": visit.may_change(Scope.ADMIN_WRITE),
            "started_by": {
                each["id"]: each.get("followed_by")
                for each in listed["items"]
                if _is_counted(each) and not _names_jobs(each)
            },
            "title_of": lambda operation: _label(
                operation["action"], _COUNTS if operation["dry_run"] else ACTIONS
            ),
        },
    )


async def show_one(visit: Visit, operation_id: str) -> Answer:
    """Show one operation. The page of a dry run offers to run it."""
    operation = orjson.loads(await visit.get("admin", "bulk", operation_id))
    action = operation["action"]
    running = operation["state"] in ("running", "stopping")
    is_counted = _is_counted(operation)
    started = await _follower_of(visit, operation)
    shown = await _shown(visit, operation)
    return Page(
        "bulk.html",
        {
            "operation": operation,
            "title": _title(shown),
            "action": _label(action, ACTIONS),
            "to_do": _sentence(action, _TO_DO, summary(shown)),
            "nothing": _(_NOTHING[action]) if action in _NOTHING else _("No job matches"),
            "doing": _doing(action, operation["matched"]),
            "counted": is_counted,
            "started": started,
            "running": running,
            "may_run": is_counted
            and operation["matched"]
            and "followed_by" not in operation
            and not _names_jobs(operation)
            and action in ACTIONS
            and visit.may_change(SCOPES[action]),
            "typed": operation["matched"] > TYPED_ABOVE,
            "may_stop": _may_stop(visit, operation),
            "may_stop_started": started is not None and _may_stop(visit, started),
        },
    )


def _may_stop(visit: Visit, operation: Mapping[str, Any]) -> bool:
    """Return whether to offer to stop an operation."""
    return operation["state"] == "running" and visit.may_change(Scope.ADMIN_WRITE)


async def _shown(visit: Visit, operation: dict[str, Any]) -> dict[str, Any]:
    """Return the operation without what the operator hides in the error of its filter."""
    chosen = operation["filter"]
    error = chosen.get("error")
    if not error or not visit.redaction.active:
        return operation
    shown = await _without_hidden(visit, error)
    return {**operation, "filter": {**chosen, "error": shown}}


async def _without_hidden(visit: Visit, error: dict[str, Any]) -> dict[str, Any]:
    """Return the error of a filter without what the operator hides in it."""
    shown = dict(error)
    for name, path in (("type", ERROR_TYPE), ("message", ERROR_MESSAGE)):
        if isinstance(error.get(name), str):
            [shown[name]] = await visit.redaction.texts([error[name]], path)
    return shown


def _is_counted(operation: Mapping[str, Any]) -> bool:
    """Return whether an operation is a dry run that has ended."""
    return bool(operation["dry_run"] and operation["state"] == "completed")


def _names_jobs(operation: Mapping[str, Any]) -> bool:
    """Return whether the request has named the jobs by ids, which are not known here."""
    return operation.get("ids") is not None and not operation.get("ids_searched")


async def _follower_of(visit: Visit, count: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the operation that follows a count; None if there is none, or it was removed.

    Another user may have started it.
    """
    follower = count.get("followed_by", {})
    if "state" not in follower:
        return None
    found: dict[str, Any] = orjson.loads(await visit.get("admin", "bulk", follower["id"]))
    return found


async def create(visit: Visit) -> Answer:
    """Start an operation on the chosen jobs, or count all jobs that match the filter."""
    form = visit.form
    action = form.get("action", "")
    body: dict[str, Any] = {"action": action, "confirm": True}
    if form.get("scope") == "all":
        if why := why_not_searched(form.get("query", ""), visit.redaction):
            return SeeOther(visit.back("").target, why, failed=True)
        chosen: dict[str, Any] = {name: form[name] for name in _FILTERS if form.get(name)}
        if form.get("dead"):
            chosen["dead"] = True
        if form.get("older_than"):
            chosen["older_than"] = form["older_than"]
        if error := _error_of(form):
            if await _without_hidden(visit, error) != error:
                why = _("The operator hides this error (OJS_UI_REDACT), so no filter has it.")
                return SeeOther(visit.back("").target, why, failed=True)
            chosen["error"] = error
        body |= {"filter": chosen, "dry_run": True}
    elif visit.chosen:
        if action in _LASTING and not is_confirmed(visit):
            return _ask_for_chosen(visit, action)
        body["ids"] = list(visit.chosen)
    else:
        back = visit.back("")
        return SeeOther(back.target, _("Choose at least one job first."), failed=True)
    created = orjson.loads(await visit.send("POST", "admin", "bulk", body=body))
    return SeeOther(visit.url("bulk", created["id"]))


def _error_of(form: Mapping[str, str]) -> dict[str, Any]:
    """Return the last error that jobs must have; none if the form does not ask for one."""
    error: dict[str, Any] = {}
    if form.get("error_group"):  # the type of a group may be empty
        error = {name: form.get(f"error_{name}", "") for name in ("type", "message")}
    if form.get("error_since"):
        error["since"] = form["error_since"]
    return error


def _ask_for_chosen(visit: Visit, action: str) -> Answer:
    """Ask before chosen jobs are changed for good."""
    count = len(visit.chosen)
    shown = number(count)
    what = (
        ngettext(
            "Cancel %(number)s chosen job", "Cancel %(number)s chosen jobs", count, number=shown
        )
        if action == "cancel"
        else ngettext(
            "Delete %(number)s chosen job", "Delete %(number)s chosen jobs", count, number=shown
        )
    )
    question = _("%(what)s?", what=what)
    return confirmation(visit, question, _(_LASTING[action]), what, visit.back("").target)


async def run(visit: Visit, operation_id: str) -> Answer:
    """Start the operation that a dry run has counted. Only one may follow it."""
    count = orjson.loads(await visit.get("admin", "bulk", operation_id))
    here = visit.url("bulk", operation_id)
    typed = "".join(filter(str.isdecimal, visit.form.get("typed", "")))
    if count["matched"] > TYPED_ABOVE and typed != str(count["matched"]):
        note = _("Type %(number)s to confirm.", number=count["matched"])
        return SeeOther(here, note, failed=True)
    body = {"action": count["action"], "follows": operation_id, "confirm": True}
    try:
        started = orjson.loads(await visit.send("POST", "admin", "bulk", body=body))
    except ApiError as error:
        return SeeOther(here, error.sentence, failed=True)
    return SeeOther(visit.url("bulk", started["id"]), _("The operation has started."))


async def stop(visit: Visit, operation_id: str) -> Answer:
    """Stop an operation after the jobs that it is changing now."""
    await visit.send("POST", "admin", "bulk", operation_id, "stop")
    return visit.back(_("The operation stops."), f"bulk/{operation_id}")


def _label(action: str, labels: Mapping[str, str]) -> str:
    """Return the label of an action; of one that the dashboard does not offer, its name."""
    return _(labels[action]) if action in labels else action


def _sentence(action: str, sentences: Mapping[str, str], jobs: str) -> str:
    """Return the sentence of an action about jobs, as ``_label`` does."""
    return _(sentences[action], jobs=jobs) if action in sentences else f"{action}: {jobs}"


def _doing(action: str, count: int) -> str:
    """Return what an operation does with so many jobs."""
    shown = number(count)
    if action == "retry":
        return ngettext("Retry %(number)s job", "Retry %(number)s jobs", count, number=shown)
    if action == "cancel":
        return ngettext("Cancel %(number)s job", "Cancel %(number)s jobs", count, number=shown)
    return ngettext("Delete %(number)s job", "Delete %(number)s jobs", count, number=shown)


def _title(operation: dict[str, Any]) -> str:
    """Return what an operation does, or that it has only counted."""
    matched = operation["matched"]
    if not _is_counted(operation):
        what = _sentence(operation["action"], _TITLES, summary(operation))
        return _("Counting jobs: %(what)s", what=what) if operation["dry_run"] else what
    shown = number(matched)
    if "followed_by" in operation:
        return ngettext(
            "Counted: %(number)s job matched",
            "Counted: %(number)s jobs matched",
            matched,
            number=shown,
        )
    if _names_jobs(operation):
        return ngettext(
            "Counted: %(number)s job matches",
            "Counted: %(number)s jobs match",
            matched,
            number=shown,
        )
    return ngettext(
        "Counted: %(number)s job matches. Not started yet",
        "Counted: %(number)s jobs match. Not started yet",
        matched,
        number=shown,
    )


def _either(names: list[str]) -> str:
    """Return names of which one is meant."""
    words = names[0]
    for name in names[1:]:
        words = _("%(first)s or %(second)s", first=words, second=name)
    return words


def summary(operation: dict[str, Any]) -> str:
    """Return which jobs an operation chooses, in words."""
    chosen = operation["filter"]
    if not _names_jobs(operation):
        return _jobs_of(chosen)
    count, shown = operation["ids"], number(operation["ids"])
    if not chosen.get("query"):
        return ngettext("%(number)s chosen job", "%(number)s chosen jobs", count, number=shown)
    return ngettext(
        "%(number)s chosen job: %(jobs)s",
        "%(number)s chosen jobs: %(jobs)s",
        count,
        number=shown,
        jobs=_jobs_of(chosen),
    )


def _jobs_of(chosen: Mapping[str, Any]) -> str:
    """Return which jobs a filter chooses, in words. No state is named if there are too many."""
    states = chosen.get("states") or []
    if chosen.get("dead"):
        jobs = _("dead letters")
    elif 0 < len(states) <= _MAX_STATES:
        jobs = _("%(states)s jobs", states=_either(states))
    else:
        jobs = _("jobs")
    if chosen.get("queues"):
        jobs = _("%(jobs)s in %(queue)s", jobs=jobs, queue=_either(chosen["queues"]))
    if chosen.get("queue"):
        jobs = _("%(jobs)s in %(queue)s", jobs=jobs, queue=chosen["queue"])
    if chosen.get("type"):
        jobs = _("%(jobs)s of type %(type)s", jobs=jobs, type=chosen["type"])
    if chosen.get("error"):
        jobs = _with_error(jobs, chosen["error"])
    if chosen.get("query"):
        jobs = _("%(jobs)s that match %(query)s", jobs=jobs, query=chosen["query"])
    if chosen.get("since"):
        jobs = _("%(jobs)s since %(time)s", jobs=jobs, time=exact_time(chosen["since"]))
    if chosen.get("until"):
        jobs = _("%(jobs)s until %(time)s", jobs=jobs, time=exact_time(chosen["until"]))
    if chosen.get("older_than"):
        age = exact_time(chosen["older_than"])
        jobs = _("%(jobs)s older than %(time)s", jobs=jobs, time=age)
    return jobs


def _with_error(jobs: str, error: Mapping[str, Any]) -> str:
    """Return which jobs have an error: one of a type and message, a recent one, or both."""
    message = error.get("message", "")
    if error.get("type"):
        words = f"{error['type']} {message}".strip()
        jobs = _("%(jobs)s with the error %(error)s", jobs=jobs, error=words)
    elif "type" in error and message:
        jobs = _("%(jobs)s with the error without a type %(message)s", jobs=jobs, message=message)
    elif "type" in error:
        jobs = _("%(jobs)s with the error without a type", jobs=jobs)
    if "since" in error:
        time = exact_time(error["since"])
        jobs = _("%(jobs)s that failed since %(time)s", jobs=jobs, time=time)
    return jobs
