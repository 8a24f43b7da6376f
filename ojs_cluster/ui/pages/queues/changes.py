"""Change a queue: its limits, its configuration and the defaults of its jobs; or delete it."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.ui.formats import counted
from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, confirmation, is_confirmed, refused
from ojs_cluster.ui.pages.queues.lists import queue_page
from ojs_cluster.ui.pages.queues.settings import (
    CONFIG_FIELDS,
    DEFAULT_FIELDS,
    DELETE_FIELDS,
    changed_config,
    changed_defaults,
)
from ojs_cluster.ui.visit import Answer, ApiError, SeeOther, Visit

_WAITING: Final = ("available", "scheduled", "retryable", "pending")


async def set_limits(visit: Visit, name: str) -> Answer:
    """Replace the limits of a queue; a form without limits removes them."""
    body = limit_form.body_of(visit.form)
    if body.get("concurrency") == 0 and not is_confirmed(visit):
        return confirmation(
            visit,
            f"Let no job of {name} start?",
            "With 0 jobs at the same time no worker gets a job of this queue. Jobs wait until the "
            "limit is changed. To stop a queue for some time, pause it instead.",
            "Stop the queue",
            visit.url("queues", name),
        )
    try:
        if body:
            await visit.send("PUT", "admin", "queues", name, "rate-limit", body=body)
        else:
            await visit.send("DELETE", "admin", "queues", name, "rate-limit")
    except ApiError as error:
        forms = {"limits": refused(visit, error, limit_form.FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    words = ", ".join(limit_form.limits_in_words(body))
    note = f"The limits of {name}: {words}." if words else f"The queue {name} has no limits now."
    return SeeOther(visit.url("queues", name), note)


async def configure(visit: Visit, name: str) -> Answer:
    """Change the partitions, the depth bound, what follows the last attempt, or the fair share."""
    body = changed_config(visit.form)
    here = visit.url("queues", name)
    if not body:
        return SeeOther(here, "Nothing was changed.")
    bound = body.get("backpressure") or {}
    if bound and "max_depth" not in bound:
        words = "Set a maximum, because only a queue with a maximum can be full"
        return await queue_page(
            visit, name, {"config": Form(visit.form, {"max_depth": words})}, 400
        )
    if bound.get("strategy") == "drop_oldest" and not is_confirmed(visit):
        return confirmation(
            visit,
            f"Let {name} discard its oldest jobs when it is full?",
            "Each new job of the full queue then discards the oldest available one. No worker "
            "runs a discarded job, and it does not become a dead letter.",
            "Discard the oldest jobs",
            here,
        )
    try:
        if bound:
            # The API replaces this member as a whole. The form shows only a part of it.
            present = (await _config(visit, name)).get("backpressure", {})
            body["backpressure"] = {**present, **bound}
        await visit.send("PUT", "admin", "queues", name, "config", body=body)
    except ApiError as error:
        forms = {"config": refused(visit, error, CONFIG_FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    return SeeOther(here, f"The configuration of {name} is changed.")


async def set_defaults(visit: Visit, name: str) -> Answer:
    """Change the defaults of new jobs: retry policy, timeout, lease and retention."""
    here = visit.url("queues", name)
    try:
        body = changed_defaults(visit.form, await _config(visit, name))
        if not body:
            return SeeOther(here, "Nothing was changed.")
        await visit.send("PUT", "admin", "queues", name, "config", body=body)
    except ApiError as error:
        forms = {"defaults": refused(visit, error, DEFAULT_FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    return SeeOther(here, f"New jobs of {name} have the changed defaults. Stored jobs keep theirs.")


async def _config(visit: Visit, name: str) -> dict[str, Any]:
    """Return the present configuration of a queue."""
    reply = orjson.loads(await visit.get("admin", "queues", name, "config"))
    config: dict[str, Any] = reply["config"]
    return config


async def purge(visit: Visit, name: str) -> Answer:
    """Delete the available jobs of a queue whose name the user has typed."""
    if visit.form.get("typed", "").strip() != name:
        form = Form(visit.form, {"typed": f"Type {name} to confirm."})
        return await queue_page(visit, name, {"purge": form}, 400)
    body = {"states": ["available"]}
    reply = orjson.loads(await visit.send("POST", "queues", name, "purge", body=body))
    count = reply["purged"]
    note = f"{'1 job was' if count == 1 else f'{count:,} jobs were'} deleted."
    if reply["left"]:
        note += f" {reply['left']:,} are left: send the form again."
    return SeeOther(visit.url("queues", name), note)


async def delete(visit: Visit, name: str) -> Answer:
    """Delete a queue after a question, with its jobs discarded or moved, or if it has none."""
    here = visit.url("queues", name)
    strategy = visit.form.get("strategy", "")
    target = visit.form.get("target_queue", "").strip()
    body = {"strategy": strategy}
    if strategy == "move":
        body["target_queue"] = target
        if not target or target == name:
            words = "Name another queue, which gets the jobs."
            return await queue_page(
                visit, name, {"delete": Form(visit.form, {"target_queue": words})}, 400
            )
    if not is_confirmed(visit):
        counts = orjson.loads(await visit.get("admin", "queues", name))["counts"]
        waiting = sum(counts.get(state, 0) for state in _WAITING)
        return confirmation(
            visit,
            f"Delete the queue {name}?",
            _consequence(strategy, target, waiting, counts["active"]),
            "Delete the queue",
            here,
        )
    try:
        done = orjson.loads(await visit.send("DELETE", "queues", name, body=body))
    except ApiError as error:
        forms = {"delete": refused(visit, error, DELETE_FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    changed = counted(done["jobs_affected"], "job")
    what = f"moved to {target}" if strategy == "move" else "discarded"
    if not done["deleted"]:
        note = f"{name} takes no new jobs, and is deleted at the end of this operation."
        return SeeOther(visit.url("bulk", done["operation_id"]), f"{changed} {what} so far. {note}")
    note = f"The queue {name} is deleted."
    if strategy in ("move", "discard"):
        note += f" {changed} {what}."
    return SeeOther(visit.url("queues"), note)


def _consequence(strategy: str, target: str, waiting: int, active: int) -> str:
    """Return what a deletion does to the jobs of a queue, with their numbers at the moment."""
    jobs, running = counted(waiting, "waiting job"), counted(active, "active job")
    kept = "Ended jobs stay readable for their retention. The settings of the queue are gone."
    if strategy == "discard":
        return (
            f"{jobs} and {running} are discarded, at the moment. They do not run and are no dead "
            f"letters, and their workflows fail. {kept}"
        )
    if strategy == "move":
        return (
            f"{jobs} go to {target}, at the moment. {running} end in this queue first, and what is "
            f"tried again goes to {target}. {kept}"
        )
    return (
        f"{jobs} and {running} are in it at the moment. The server refuses if any is left. {kept}"
    )
