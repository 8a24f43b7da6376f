"""One job: what happened to it, its data, and what can be done with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.jobs.options import SHOWN
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.core.raw_json import Raw, array_items, join, object_members, string
from ojs_cluster.ui.forms.form import MAX_EDITED
from ojs_cluster.ui.json_view import readable, show_values
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.edit_job import WAITING
from ojs_cluster.ui.pages.timelines.job_history import JobHistory, TimelineEntry, read_history
from ojs_cluster.ui.pages.timelines.type_runs import read_runs
from ojs_cluster.ui.pages.timelines.workflow_waits import wait_of_job
from ojs_cluster.ui.raw import number, text
from ojs_cluster.ui.redaction.redaction import SENT, hides_any
from ojs_cluster.ui.visit import Answer, ApiError, Download, Page, SeeOther, Visit

_VALUES: Final = ("args", "meta", "result", "progress_data", "parent_results")
_OWN: Final = frozenset(
    {"id", "unique", "scheduled_at", "expires_at", "workflow_id", "workflow_step"}
)
"""Members that a copy does not have: it gets an id, may run at once, and is in no workflow."""
_SETTINGS: Final = (
    *("queue", "priority", "max_attempts", "timeout_ms", "visibility_timeout_ms"),
    *SHOWN,
    *("scheduled_at", "expires_at"),
)
_EMPTY: Final = Raw(b"{}")
_ORDER: Final = ("scheduled", "available", "active", "failed", "retryable")
"""The order of entries with the same time; the end of the job comes last."""
_RUNS_OR_ENDED: Final = frozenset({State.ACTIVE, *TERMINAL})
_MAX_BACKTRACE: Final = 20_000  # characters
_trace_parent: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}").match
_is_number: Final = re.compile(r"-?[0-9]{1,9}").fullmatch
_is_id: Final = re.compile(r"[0-9A-Za-z._:-]{1,128}").fullmatch


@dataclass(frozen=True, slots=True)
class Failure:
    """The error of one attempt."""

    at: str
    attempt: str
    type: str
    message: str
    backtrace: str


async def show(visit: Visit, job_id: str) -> Answer:
    """Show a job."""
    raw = await visit.get("admin", "jobs", job_id)
    stored = object_members(raw) or {}
    job_type = text(stored, "type")
    members = await visit.redaction.members(stored, job_type)
    redacted = visit.redaction.active
    sends_hidden = hides_any(stored, members, SENT)
    job = {name: text(members, name) for name in ("id", "type", "state", "queue", "worker_id")}
    state = job["state"]
    may_write = visit.may_change(Scope.ADMIN_WRITE)
    history = await read_history(visit, job_id, job_type) if visit.may(Scope.DATA_READ) else None
    is_large = any(len(bytes(members.get(name, _EMPTY))) > MAX_EDITED for name in ("args", "meta"))
    context = {
        "job": job,
        **await _lease(visit, job),
        "wait": None if state in _RUNS_OR_ENDED else await wait_of_job(visit, job_id, job_type),
        "attempt": number(members, "attempt"),
        "max_attempts": number(members, "max_attempts"),
        "priority": number(members, "priority"),
        "progress": _progress(members),
        "workflow": text(members, "workflow_id"),
        "retries": number(members, "replay_count"),
        "trace_url": _trace_url(visit, stored),
        "timeline": _timeline(members, history),
        "history": history,
        "type_runs": await read_runs(visit, job["queue"], job["type"]),
        "failures": _errors(members),
        "values": await show_values(
            {
                name: members[name]
                for name in _VALUES
                if bytes(members.get(name, _EMPTY)) not in (b"{}", b"null")
            },
            redacted=redacted,
        ),
        "settings": await show_values(
            {n: members[n] for n in _SETTINGS if n in members}, redacted=redacted
        ),
        "curl": "" if sends_hidden else _curl(visit, members),
        "may_retry": state == "discarded" and may_write,
        "may_cancel": state not in ("completed", "cancelled", "discarded") and may_write,
        "may_cancel_run": state == "active" and may_write,
        "may_activate": state == "pending" and visit.may_change(Scope.DATA_WRITE),
        "may_place": state in WAITING and may_write,
        "may_edit": state in WAITING and may_write and not is_large,
        "may_copy": visit.may_change(Scope.DATA_WRITE),
        "may_edit_copy": visit.may_change(Scope.DATA_WRITE) and not sends_hidden and not is_large,
        "may_download": not (
            hides_any(stored, members) or await visit.redaction.hides_attributes(stored, job_type)
        ),
    }
    return Page("job.html", context)


async def download(visit: Visit, job_id: str) -> Answer:
    """Return the job as the API does, to save it."""
    raw = await visit.get("admin", "jobs", job_id)
    members = object_members(raw) or {}
    redaction, job_type = visit.redaction, text(members, "type")
    hides = hides_any(members, await redaction.members(members, job_type))
    if hides or await redaction.hides_attributes(members, job_type):
        hint = _("The operator hides some values of the job, so the dashboard offers no file.")
        return Page("error.html", {"what": _("There is no file"), "why": "", "hint": hint}, 403)
    name = job_id if _is_id(job_id) else "job"
    return Download(f"{name}.json", "application/json", raw)


async def retry(visit: Visit, job_id: str) -> Answer:
    """Make a discarded job available again."""
    response = await visit.send("POST", "admin", "jobs", job_id, "retry")
    return visit.back(note_of_retry(object_members(response) or {}))


def note_of_retry(members: Mapping[str, Raw]) -> str:
    """Return what to tell the user after a manual retry.

    Args:
        members: the job as the API has returned it; empty if it is not known.
    """
    if "workflow_id" in members:
        return _(
            "The job is available again. Its workflow does not continue: enqueue a copy of the "
            "workflow to run all steps."
        )
    return _("The job is available again.")


async def cancel(visit: Visit, job_id: str) -> Answer:
    """Cancel a job."""
    await visit.send("POST", "admin", "jobs", job_id, "cancel")
    return visit.back(_("The job is cancelled. Its worker learns it from its next heartbeat."))


async def cancel_run(visit: Visit, job_id: str) -> Answer:
    """Cancel the current run of a job."""
    await visit.send("POST", "admin", "jobs", job_id, "cancel-run")
    return visit.back(_("The run is cancelled, and its worker is told."))


async def activate(visit: Visit, job_id: str) -> Answer:
    """Make a pending job available."""
    await visit.send("POST", "jobs", job_id, "activate", action="job.activate")
    return visit.back(_("The job is available."))


async def change_priority(visit: Visit, job_id: str) -> Answer:
    """Change the priority of a waiting job."""
    given = visit.form.get("priority", "").strip()
    if not _is_number(given):
        why = _("The priority must be a whole number.")
        return SeeOther(visit.back("").target, why, failed=True)
    await visit.send("PATCH", "admin", "jobs", job_id, body={"priority": int(given)})
    return visit.back(_("The priority is %(priority)s now.", priority=int(given)))


async def move(visit: Visit, job_id: str) -> Answer:
    """Move a waiting job to another queue."""
    queue = visit.form.get("queue", "").strip()
    await visit.send("POST", "admin", "jobs", job_id, "move", body={"queue": queue})
    return visit.back(_("The job is in queue %(queue)s now.", queue=queue))


async def copy(visit: Visit, job_id: str) -> Answer:
    """Enqueue a job with the same type, args and options."""
    members = object_members(await visit.get("admin", "jobs", job_id)) or {}
    response = await visit.send("POST", "jobs", body=_new_job(members), action="job.copy")
    new_id = text(object_members(response) or {}, "id")
    return SeeOther(visit.url("jobs", new_id), _("This is the copy. It has a new id."))


async def _lease(visit: Visit, job: Mapping[str, str]) -> dict[str, str]:
    """Return the worker of the last attempt, and when the lease of an active job ends."""
    try:
        trace = object_members(await visit.get("admin", "jobs", job["id"], "trace")) or {}
    except ApiError:  # the job has ended and was removed in between
        trace = {}
    worker = text(trace, "worker_id") or job["worker_id"]
    return {"worker": worker, "lease_expires_at": text(trace, "lease_expires_at")}


def _trace_url(visit: Visit, members: dict[str, Raw]) -> str:
    """Return the address of the trace that the job belongs to, empty for none."""
    meta = object_members(members.get("meta", _EMPTY)) or {}
    match = _trace_parent(text(meta, "traceparent"))
    template = visit.settings.trace_url
    return template.replace("{trace_id}", match[1]) if match and template else ""


def _new_job(members: dict[str, Raw]) -> bytes:
    kept = {name: raw for name, raw in members.items() if name not in _OWN}
    return b"{%b}" % join(kept)


def _curl(visit: Visit, members: dict[str, Raw]) -> str:
    """Return the command that enqueues the job again; empty for a large job."""
    names = [name for name in ("type", "args", "meta", *_SETTINGS) if name not in _OWN]
    body = b"{%b}" % join({name: members[name] for name in names if name in members})
    if len(body) > MAX_EDITED:
        return ""
    quoted = readable(body.decode(errors="replace")).replace("'", "'\\''")
    return (
        f"curl -s {visit.origin}/ojs/v1/jobs \\\n"
        '  -H "Authorization: Bearer $OJS_API_KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        f"  -d '{quoted}'"
    )


def _progress(members: dict[str, Raw]) -> float | None:
    try:
        return min(1.0, max(0.0, float(bytes(members["progress"]))))
    except (KeyError, ValueError):
        return None


def _errors(members: dict[str, Raw]) -> list[Failure]:
    """Return the errors of the failed attempts, the newest first."""
    found = []
    for raw in array_items(members.get("errors", Raw(b"[]"))) or []:
        error = object_members(raw)
        if error is not None:
            found.append(
                Failure(
                    text(error, "occurred_at"),
                    number(error, "attempt"),
                    text(error, "type") or text(error, "code"),
                    text(error, "message"),
                    _backtrace(error),
                )
            )
    return found[::-1]


def _backtrace(error: dict[str, Raw]) -> str:
    """Return the lines of an error's backtrace, which clients send as a text or as an array."""
    for name in ("backtrace", "stack_trace", "stacktrace"):
        raw = error.get(name)
        if raw is not None:
            lines = array_items(raw) or [raw]
            return "\n".join(string(line) or "" for line in lines)[:_MAX_BACKTRACE]
    return ""


def _timeline(members: dict[str, Raw], history: JobHistory | None) -> list[TimelineEntry]:
    """Return what happened to the job, the oldest first, and what comes next.

    Args:
        members: the job.
        history: its history; None if the user may not read it.
    """
    coming = (
        ("scheduled_at", _("Scheduled for"), "scheduled"),
        ("next_attempt_at", _("Next attempt"), "retryable"),
        ("expires_at", _("Expires"), "cancelled"),
    )
    known = (
        ("created_at", _("Created"), "scheduled"),
        ("enqueued_at", _("Available in its queue"), "available"),
        ("started_at", _("Attempt started"), "active"),
        ("completed_at", _("Completed"), "completed"),
        ("cancelled_at", _("Cancelled"), "cancelled"),
        ("discarded_at", _("Discarded"), "discarded"),
    )
    discarded = "discarded_at" in members
    found = [
        TimelineEntry(text(members, name), what, kind)
        for name, what, kind in (*(known if history is None else ()), *coming)
        if text(members, name) and not (name == "completed_at" and discarded)
    ]
    if history is not None:
        return sorted([*history.timeline, *found], key=lambda entry: entry.at)
    for error in _errors(members):
        what = _("Attempt %(number)s failed", number=error.attempt)
        found.append(TimelineEntry(error.at, what, "failed", error.message[:200]))

    def order(entry: TimelineEntry) -> tuple[str, int]:
        rank = _ORDER.index(entry.kind) if entry.kind in _ORDER else len(_ORDER)
        return entry.at, rank

    return sorted(found, key=order)
