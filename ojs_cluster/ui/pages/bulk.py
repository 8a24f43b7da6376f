"""Bulk operations: count the jobs that match, confirm, and follow the progress.

An action on all matching jobs is first counted by a dry run, whose page asks for a confirmation.
The operation itself survives the process that has started it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.formats import counted, exact_time
from ojs_cluster.ui.forms.form import confirmation, is_confirmed
from ojs_cluster.ui.redaction.redaction import ERROR_MESSAGE, ERROR_TYPE
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_MAX_STATES: Final = 2
"""Maximum number of states that a summary names."""
TYPED_ABOVE: Final = 100
"""Number of jobs above which the user has to type it as a confirmation."""
_FILTERS: Final = ("queue", "type", "state", "query")
ACTIONS: Final = {"retry": "Retry", "cancel": "Cancel", "delete": "Delete"}
SCOPES: Final = {
    "retry": Scope.ADMIN_WRITE,
    "cancel": Scope.ADMIN_WRITE,
    "delete": Scope.ADMIN_PURGE,
}
"""The scope that each action needs."""
_LASTING: Final = {
    "cancel": "Cancelled jobs do not run, and cannot be retried.",
    "delete": "Deleted jobs cannot be restored.",
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
            "started_by": {
                each["id"]: each.get("followed_by")
                for each in listed["items"]
                if _is_counted(each) and not _names_jobs(each)
            },
            "title_of": lambda operation: (
                f"Count to {operation['action']}"
                if operation["dry_run"]
                else operation["action"].capitalize()
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
            "summary": summary(shown),
            "title": _title(shown),
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
            "may_stop": running and visit.may_change(Scope.ADMIN_WRITE),
        },
    )


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
                why = "The operator hides this error (OJS_UI_REDACT), so no filter has it."
                return SeeOther(visit.back("").target, why, failed=True)
            chosen["error"] = error
        body |= {"filter": chosen, "dry_run": True}
    elif visit.chosen:
        if action in _LASTING and not is_confirmed(visit):
            return _ask_for_chosen(visit, action)
        body["ids"] = list(visit.chosen)
    else:
        back = visit.back("")
        return SeeOther(back.target, "Choose at least one job first.", failed=True)
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
    what = f"{ACTIONS.get(action, action)} {counted(len(visit.chosen), 'chosen job')}"
    return confirmation(visit, f"{what}?", _LASTING[action], what, visit.back("").target)


async def run(visit: Visit, operation_id: str) -> Answer:
    """Start the operation that a dry run has counted. Only one may follow it."""
    count = orjson.loads(await visit.get("admin", "bulk", operation_id))
    here = visit.url("bulk", operation_id)
    typed = visit.form.get("typed", "").replace(",", "").strip()
    if count["matched"] > TYPED_ABOVE and typed != str(count["matched"]):
        return SeeOther(here, f"Type {count['matched']} to confirm.", failed=True)
    body = {"action": count["action"], "follows": operation_id, "confirm": True}
    try:
        started = orjson.loads(await visit.send("POST", "admin", "bulk", body=body))
    except ApiError as error:
        return SeeOther(here, error.sentence, failed=True)
    return SeeOther(visit.url("bulk", started["id"]), "The operation has started.")


async def stop(visit: Visit, operation_id: str) -> Answer:
    """Stop an operation after the jobs that it is changing now."""
    await visit.send("POST", "admin", "bulk", operation_id, "stop")
    return SeeOther(visit.url("bulk", operation_id), "The operation stops.")


def _title(operation: dict[str, Any]) -> str:
    """Return what an operation does, or that it has only counted."""
    matched = operation["matched"]
    if _is_counted(operation):
        if "followed_by" in operation:
            return f"Counted: {counted(matched, 'job')} matched"
        verb = "matches" if matched == 1 else "match"
        unstarted = "" if _names_jobs(operation) else ". Not started yet"
        return f"Counted: {counted(matched, 'job')} {verb}{unstarted}"
    doing = "Counting jobs: " if operation["dry_run"] else ""
    return f"{doing}{operation['action'].capitalize()} {summary(operation)}"


def _words_of(states: list[str]) -> list[str]:
    """Return the states in words; no state if there are more than ``_MAX_STATES``."""
    return ["jobs"] if len(states) > _MAX_STATES else [" or ".join(states), "jobs"]


def summary(operation: dict[str, Any]) -> str:
    """Return which jobs an operation chooses, in words."""
    chosen = operation["filter"]
    is_named = _names_jobs(operation)
    if is_named and not chosen.get("query"):
        return counted(operation["ids"], "chosen job")
    words = [counted(operation["ids"], "chosen job") + ":"] if is_named else []
    words += ["dead letters"] if chosen.get("dead") else _words_of(chosen["states"])
    if chosen.get("queues"):
        words += ["in", " or ".join(chosen["queues"])]
    for name, before in (("queue", "in"), ("type", "of type")):
        if chosen.get(name):
            words += [before, chosen[name]]
    if chosen.get("error"):
        error = chosen["error"]
        if "type" in error:
            words += ["with the error", error["type"] or "without a type", error.get("message", "")]
        if "since" in error:
            words += ["that failed since", exact_time(error["since"])]
    if chosen.get("query"):
        words += ["that match", chosen["query"]]
    for name in ("since", "until", "older_than"):
        if chosen.get(name):
            words += [name.replace("_", " "), exact_time(chosen[name])]
    return " ".join(word for word in words if word)
