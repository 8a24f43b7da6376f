"""The form that changes a waiting job.

The form remembers what it has shown, so only the fields that the user has changed are sent. What
another user or producer has changed meanwhile stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from ojs_cluster.core.raw_json import Raw, join, object_members
from ojs_cluster.ui.formats import size
from ojs_cluster.ui.forms.form import MAX_EDITED
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.new_job import (
    Mistake,
    args_of,
    check_number,
    meta_of,
    number_of,
    raw_of,
    text_of,
    words_of,
)
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.raw import number, text, texts
from ojs_cluster.ui.redaction.redaction import hides_any
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

WAITING: Final = ("pending", "available", "scheduled", "retryable")
"""The states of jobs that can be edited."""
_NUMBERS: Final = ("priority", "max_attempts", "timeout_ms")
_TIMES: Final = ("scheduled_at", "expires_at")
_FIELDS: Final = ("args", "meta", "tags", *_NUMBERS, *_TIMES)
_KEPT: Final = ("state", "type", "unique", "hidden")
"""What the form remembers of the job, to show itself again."""
_REMOVABLE: Final = ("timeout_ms", "expires_at")
_NULL: Final = Raw(b"null")


async def show(visit: Visit, job_id: str) -> Answer:
    """Show the form with the present values of the job."""
    members = object_members(await visit.get("admin", "jobs", job_id)) or {}
    if any(len(bytes(members.get(name, b""))) > MAX_EDITED for name in ("args", "meta")):
        why = _("A form shows args and meta of %(size)s at most.", size=size(MAX_EDITED))
        context = {"what": _("The job is too large"), "why": why, "hint": _("Edit it by the API.")}
        return Page("error.html", context, 413)
    state = text(members, "state")
    if state not in WAITING:
        what = _("The job is %(state)s", state=state)
        context = {"what": what, "why": "", "hint": _("Only waiting jobs change.")}
        return Page("error.html", context, 409)
    given = {
        "args": raw_of(members, "args", "[]"),
        "meta": raw_of(members, "meta", ""),
        "tags": ", ".join(texts(members, "tags")),
        **{name: number(members, name) for name in _NUMBERS},
        **{name: text(members, name) for name in _TIMES},
    }
    stored = await visit.redaction.members(members, text(members, "type"))
    hidden = [name for name in ("args", "meta", "tags") if hides_any(members, stored, [name])]
    given |= dict.fromkeys(hidden, "")  # a field that stays empty changes nothing
    shown = {f"was_{name}": _digest(value) for name, value in given.items()}
    kept = {"state": state, "type": text(members, "type"), "unique": str("unique" in members)}
    kept["hidden"] = " ".join(hidden)
    return _form(job_id, {**given, **shown, **kept})


async def save(visit: Visit, job_id: str) -> Answer:
    """Change what the user has changed. A mistake shows the form again, with what is wrong."""
    given = {name: visit.form.get(name, "").strip() for name in _FIELDS}
    for name in (*(f"was_{name}" for name in _FIELDS), *_KEPT):
        given[name] = visit.form.get(name, "")
    try:
        changed = {n: given[n] for n in _FIELDS if _digest(given[n]) != given[f"was_{n}"]}
        changed |= {n: typed_time(changed[n], visit.zone) for n in _TIMES if n in changed}
        changes = _changes(changed)
        if not changes:
            return SeeOther(visit.url("jobs", job_id), _("Nothing was changed."))
        await visit.send("PATCH", "admin", "jobs", job_id, body=b"{%b}" % join(changes))
    except Mistake as mistake:
        return _form(job_id, given, str(mistake))
    except ApiError as error:
        if error.status not in (400, 409, 413, 422):
            raise
        return _form(job_id, given, error.sentence)
    names = ", ".join(name.replace("_", " ") for name in changes)
    return SeeOther(visit.url("jobs", job_id), _("Changed: %(names)s.", names=names))


def _form(job_id: str, given: Mapping[str, str], mistake: str = "") -> Page:
    context = {"job_id": job_id, "given": given, "mistake": mistake}
    context |= {"fields": _FIELDS, "kept": _KEPT, "hidden": given["hidden"].split()}
    return Page("edit_job.html", context, 400 if mistake else 200)


def _digest(shown: str) -> str:
    """Return what stands for the text of a field. Browsers change the ends of its lines."""
    lines = shown.replace("\r\n", "\n").strip()
    return blake2b(lines.encode(errors="replace"), digest_size=12).hexdigest()


def _changes(given: Mapping[str, str]) -> dict[str, Raw]:
    """Return the members of the request. Args and meta are copied, so that numbers stay exact."""
    found: dict[str, Raw] = {}
    for name, value in given.items():
        if name == "args":
            found[name] = args_of(value)
        elif name == "meta":
            found[name] = meta_of(value)
        elif name == "tags":
            tags = words_of(value)
            found[name] = Raw(msgspec.json.encode(tags)) if tags else _NULL
        elif not value and name in _REMOVABLE:
            found[name] = _NULL
        elif not value:
            raise Mistake(f"{name.replace('_', ' ').capitalize()} must not be empty.")
        elif name in _NUMBERS:
            check_number(name, value)
            found[name] = number_of(value)
        else:
            found[name] = text_of(value)
    return found
