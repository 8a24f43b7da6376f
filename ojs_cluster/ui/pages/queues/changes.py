"""Change a queue: its limits, its configuration and the defaults of its jobs; or delete it."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.ui.formats import number
from ojs_cluster.ui.forms import limits as limit_form
from ojs_cluster.ui.forms.form import Form, confirmation, is_confirmed, refused
from ojs_cluster.ui.languages.translate import _, ngettext
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
            _("Let no job of %(name)s start?", name=name),
            _(
                "With 0 jobs at the same time no worker gets a job of this queue. Jobs wait until "
                "the limit is changed. To stop a queue for some time, pause it instead."
            ),
            _("Stop the queue"),
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
    if words := ", ".join(limit_form.limits_in_words(body)):
        note = _("The limits of %(name)s: %(limits)s.", name=name, limits=words)
    else:
        note = _("The queue %(name)s has no limits now.", name=name)
    return SeeOther(visit.url("queues", name, tab="settings"), note)


async def configure(visit: Visit, name: str) -> Answer:
    """Change the partitions, the depth bound, what follows the last attempt, or the fair share."""
    body = changed_config(visit.form)
    here = visit.url("queues", name, tab="settings")
    if not body:
        return SeeOther(here, _("Nothing was changed."))
    bound = body.get("backpressure") or {}
    if bound and "max_depth" not in bound:
        words = _("Set a maximum, because only a queue with a maximum can be full")
        return await queue_page(
            visit, name, {"config": Form(visit.form, {"max_depth": words})}, 400
        )
    if bound.get("strategy") == "drop_oldest" and not is_confirmed(visit):
        return confirmation(
            visit,
            _("Let %(name)s discard its oldest jobs when it is full?", name=name),
            _(
                "Each new job of the full queue then discards the oldest available one. No worker "
                "runs a discarded job, and it does not become a dead letter."
            ),
            _("Discard the oldest jobs"),
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
    return SeeOther(here, _("The configuration of %(name)s is changed.", name=name))


async def set_defaults(visit: Visit, name: str) -> Answer:
    """Change the defaults of new jobs: retry policy, timeout, lease and retention."""
    here = visit.url("queues", name, tab="settings")
    try:
        body = changed_defaults(visit.form, await _config(visit, name))
        if not body:
            return SeeOther(here, _("Nothing was changed."))
        await visit.send("PUT", "admin", "queues", name, "config", body=body)
    except ApiError as error:
        forms = {"defaults": refused(visit, error, DEFAULT_FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    note = _("New jobs of %(name)s have the changed defaults. Stored jobs keep theirs.", name=name)
    return SeeOther(here, note)


async def _config(visit: Visit, name: str) -> dict[str, Any]:
    """Return the present configuration of a queue."""
    reply = orjson.loads(await visit.get("admin", "queues", name, "config"))
    config: dict[str, Any] = reply["config"]
    return config


async def purge(visit: Visit, name: str) -> Answer:
    """Delete the available jobs of a queue whose name the user has typed."""
    if visit.form.get("typed", "").strip() != name:
        form = Form(visit.form, {"typed": _("Type %(name)s to confirm.", name=name)})
        return await queue_page(visit, name, {"purge": form}, 400)
    body = {"states": ["available"]}
    reply = orjson.loads(await visit.send("POST", "queues", name, "purge", body=body))
    count, left = reply["purged"], reply["left"]
    note = ngettext(
        "%(number)s job was deleted.", "%(number)s jobs were deleted.", count, number=number(count)
    )
    if left:
        note += " " + ngettext(
            "%(number)s is left: send the form again.",
            "%(number)s are left: send the form again.",
            left,
            number=number(left),
        )
    return SeeOther(visit.url("queues", name), note)


async def delete(visit: Visit, name: str) -> Answer:
    """Delete a queue after a question, with its jobs discarded or moved, or if it has none."""
    here = visit.url("queues", name, tab="settings")
    strategy = visit.form.get("strategy", "")
    target = visit.form.get("target_queue", "").strip()
    body = {"strategy": strategy}
    if strategy == "move":
        body["target_queue"] = target
        if not target or target == name:
            words = _("Name another queue, which gets the jobs.")
            return await queue_page(
                visit, name, {"delete": Form(visit.form, {"target_queue": words})}, 400
            )
    if not is_confirmed(visit):
        counts = orjson.loads(await visit.get("admin", "queues", name))["counts"]
        waiting = sum(counts.get(state, 0) for state in _WAITING)
        return confirmation(
            visit,
            _("Delete the queue %(name)s?", name=name),
            _consequence(strategy, target, waiting, counts["active"]),
            _("Delete the queue"),
            here,
        )
    try:
        done = orjson.loads(await visit.send("DELETE", "queues", name, body=body))
    except ApiError as error:
        forms = {"delete": refused(visit, error, DELETE_FIELDS)}
        return await queue_page(visit, name, forms, error.status)
    changed, moved_to = done["jobs_affected"], target if strategy == "move" else ""
    if not done["deleted"]:
        note = _(
            "%(name)s takes no new jobs, and is deleted at the end of this operation.", name=name
        )
        return SeeOther(
            visit.url("bulk", done["operation_id"]), f"{_changed_so_far(changed, moved_to)} {note}"
        )
    note = _("The queue %(name)s is deleted.", name=name)
    if strategy in ("move", "discard"):
        note += f" {_changed(changed, moved_to)}"
    return SeeOther(visit.url("queues"), note)


def _changed(jobs: int, moved_to: str) -> str:
    """Return how many jobs a deletion has moved to a queue, or discarded if this is empty."""
    if moved_to:
        return ngettext(
            "%(number)s job moved to %(queue)s.",
            "%(number)s jobs moved to %(queue)s.",
            jobs,
            number=number(jobs),
            queue=moved_to,
        )
    return ngettext(
        "%(number)s job discarded.", "%(number)s jobs discarded.", jobs, number=number(jobs)
    )


def _changed_so_far(jobs: int, moved_to: str) -> str:
    """Return the same of a deletion that goes on."""
    if moved_to:
        return ngettext(
            "%(number)s job moved to %(queue)s so far.",
            "%(number)s jobs moved to %(queue)s so far.",
            jobs,
            number=number(jobs),
            queue=moved_to,
        )
    return ngettext(
        "%(number)s job discarded so far.",
        "%(number)s jobs discarded so far.",
        jobs,
        number=number(jobs),
    )


def _consequence(strategy: str, target: str, waiting: int, active: int) -> str:
    """Return what a deletion does to the jobs of a queue, with their numbers at the moment."""
    kept = _("Ended jobs stay readable for their retention. The settings of the queue are gone.")
    if strategy == "move":
        first = ngettext(
            "%(number)s waiting job goes to %(queue)s, at the moment.",
            "%(number)s waiting jobs go to %(queue)s, at the moment.",
            waiting,
            number=number(waiting),
            queue=target,
        )
        then = ngettext(
            "%(number)s active job ends in this queue first, and what is tried again goes to "
            "%(queue)s.",
            "%(number)s active jobs end in this queue first, and what is tried again goes to "
            "%(queue)s.",
            active,
            number=number(active),
            queue=target,
        )
        return f"{first} {then} {kept}"
    jobs = ngettext(
        "%(number)s waiting job", "%(number)s waiting jobs", waiting, number=number(waiting)
    )
    running = ngettext(
        "%(number)s active job", "%(number)s active jobs", active, number=number(active)
    )
    if strategy == "discard":
        what = _(
            "%(waiting)s and %(active)s are discarded, at the moment. They do not run and are no "
            "dead letters, and their workflows fail.",
            waiting=jobs,
            active=running,
        )
    else:
        what = _(
            "%(waiting)s and %(active)s are in it at the moment. The server refuses if any is "
            "left.",
            waiting=jobs,
            active=running,
        )
    return f"{what} {kept}"
