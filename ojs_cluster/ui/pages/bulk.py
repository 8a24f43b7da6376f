"""Bulk operations: count the jobs that match, confirm, and follow the progress.

An action on all matching jobs is first counted by a dry run, whose page asks for a confirmation.
The operation itself survives the process that has started it.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_PER_PAGE: Final = 50
_MAX_STATES: Final = 2
"""Maximum number of states that a summary names."""
TYPED_ABOVE: Final = 100
"""Number of jobs above which the user has to type it as a confirmation."""
_FILTERS: Final = ("queue", "type", "state")
_REPEATED: Final = (
    "states",
    "queue",
    "type",
    "priority",
    "dead",
    "since",
    "until",
    "older_than",
    "error",
)
"""Members of the filter of a dry run that the operation itself gets."""
ACTIONS: Final = {"retry": "Retry", "cancel": "Cancel", "delete": "Delete"}
SCOPES: Final = {
    "retry": Scope.ADMIN_WRITE,
    "cancel": Scope.ADMIN_WRITE,
    "delete": Scope.ADMIN_PURGE,
}
"""The scope that each action needs."""


async def show_all(visit: Visit) -> Answer:
    """List the operations: unfinished ones, then finished ones."""
    cursor = visit.query.get("cursor", "")
    listed = orjson.loads(await visit.get("admin", "bulk", cursor=cursor, limit=_PER_PAGE))
    return Page(
        "bulks.html",
        {
            "operations": listed["items"],
            "next_cursor": listed["pagination"].get("next_cursor"),
            "cursor": cursor,
            "summary_of": summary,
        },
    )


async def show_one(visit: Visit, operation_id: str) -> Answer:
    """Show one operation. The page of a dry run offers to run it."""
    operation = orjson.loads(await visit.get("admin", "bulk", operation_id))
    action = operation["action"]
    running = operation["state"] in ("running", "stopping")
    counted = operation["dry_run"] and operation["state"] == "completed" and operation["matched"]
    return Page(
        "bulk.html",
        {
            "operation": operation,
            "summary": summary(operation),
            "running": running,
            "may_run": counted and action in ACTIONS and visit.may_change(SCOPES[action]),
            "typed": operation["matched"] > TYPED_ABOVE,
            "may_stop": running and visit.may_change(Scope.ADMIN_WRITE),
        },
    )


async def create(visit: Visit) -> Answer:
    """Start an operation on the chosen jobs, or count all jobs that match the filter."""
    form = visit.form
    action = form.get("action", "")
    body: dict[str, Any] = {"action": action, "confirm": True}
    if form.get("scope") == "all":
        chosen: dict[str, Any] = {name: form[name] for name in _FILTERS if form.get(name)}
        if form.get("dead"):
            chosen["dead"] = True
        if form.get("error_type"):
            chosen["error"] = {"type": form["error_type"]}
            if form.get("error_message"):
                chosen["error"]["message"] = form["error_message"]
        body |= {"filter": chosen, "dry_run": True}
    elif visit.chosen:
        body["ids"] = list(visit.chosen)
    else:
        back = visit.back("")
        return SeeOther(back.target, "Choose at least one job first.", failed=True)
    created = orjson.loads(await visit.send("POST", "admin", "bulk", body=body))
    return SeeOther(visit.url("bulk", created["id"]))


async def run(visit: Visit, operation_id: str) -> Answer:
    """Start the operation that a dry run has counted."""
    counted = orjson.loads(await visit.get("admin", "bulk", operation_id))
    here = visit.url("bulk", operation_id)
    typed = visit.form.get("typed", "").replace(",", "").strip()
    if counted["matched"] > TYPED_ABOVE and typed != str(counted["matched"]):
        return SeeOther(here, f"Type {counted['matched']} to confirm.", failed=True)
    chosen = {name: counted["filter"][name] for name in _REPEATED if name in counted["filter"]}
    body = {"action": counted["action"], "filter": chosen, "confirm": True}
    try:
        started = orjson.loads(await visit.send("POST", "admin", "bulk", body=body))
    except ApiError as error:
        return SeeOther(here, error.sentence, failed=True)
    return SeeOther(visit.url("bulk", started["id"]), "The operation has started.")


async def stop(visit: Visit, operation_id: str) -> Answer:
    """Stop an operation after the jobs that it is changing now."""
    await visit.send("POST", "admin", "bulk", operation_id, "stop")
    return SeeOther(visit.url("bulk", operation_id), "The operation stops.")


def _words_of(states: list[str]) -> list[str]:
    """Return the states in words; no state if there are more than ``_MAX_STATES``."""
    return ["jobs"] if len(states) > _MAX_STATES else [" or ".join(states), "jobs"]


def summary(operation: dict[str, Any]) -> str:
    """Return which jobs an operation chooses, in words."""
    chosen = operation["filter"]
    if operation.get("ids"):
        return f"{operation['ids']} chosen jobs"
    words = ["dead letters"] if chosen.get("dead") else _words_of(chosen["states"])
    for name, before in (("queue", "in"), ("type", "of type")):
        if chosen.get(name):
            words += [before, chosen[name]]
    if chosen.get("error"):
        error = chosen["error"]
        words += ["with the error", error["type"], error.get("message", "")]
    for name in ("since", "until", "older_than"):
        if chosen.get(name):
            words += [name.replace("_", " "), chosen[name]]
    return " ".join(word for word in words if word)
