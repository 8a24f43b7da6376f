"""The form that enqueues a job, empty or filled with the data of another job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.raw_json import Raw, array_items, check_text, join, object_members
from ojs_cluster.ui.formats import size
from ojs_cluster.ui.forms.form import MAX_EDITED
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.shared.times import typed_time
from ojs_cluster.ui.raw import Members, number, text, texts
from ojs_cluster.ui.redaction.redaction import SENT, hides_any
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_FIELDS: Final = (
    *("type", "queue", "args", "meta", "tags", "priority", "max_attempts", "scheduled_at"),
)
_unusual: Final = re.compile(r"[^ -~\r\n\t]")
_EMPTY: Final = {**dict.fromkeys(_FIELDS, ""), "queue": "default", "args": "[]"}


class Mistake(Exception):
    """A field of the form cannot be read; the message says which one and what it needs."""


async def show(visit: Visit) -> Answer:
    """Show the form. The parameter ``from`` names a job whose data it is filled with."""
    source = visit.query.get("from", "")
    if not source:
        given = {name: visit.query.get(name) or value for name, value in _EMPTY.items()}
        return _form(given)
    members = object_members(await visit.get("admin", "jobs", source)) or {}
    # The form would show the hidden values, or enqueue their stand-ins.
    if hides_any(members, await visit.redaction.members(members, text(members, "type")), SENT):
        hint = _("The operator hides some values of the job. Use 'Enqueue a copy' instead.")
        return Page("error.html", {"what": _("There is no form"), "why": "", "hint": hint}, 403)
    if any(len(bytes(members.get(name, b""))) > MAX_EDITED for name in ("args", "meta")):
        why = _("A form shows args and meta of %(size)s at most.", size=size(MAX_EDITED))
        hint = _("Use 'Enqueue a copy', or enqueue the job by the API.")
        context = {"what": _("The job is too large"), "why": why, "hint": hint}
        return Page("error.html", context, 413)
    return _form(_given(members))


def _given(members: Members) -> dict[str, str]:
    """Return the texts of the fields for a job."""
    retry = object_members(members.get("retry", Raw(b"{}"))) or {}
    return {
        "type": text(members, "type"),
        "queue": text(members, "queue") or "default",
        "args": raw_of(members, "args", "[]"),
        "meta": raw_of(members, "meta", ""),
        "tags": ", ".join(texts(members, "tags")),
        "priority": number(members, "priority"),
        "max_attempts": number(retry, "max_attempts") or number(members, "max_attempts"),
        "scheduled_at": "",
    }


async def create(visit: Visit) -> Answer:
    """Enqueue the job of the form. A mistake shows the form again, with what is wrong.

    A form with ``json`` only fills the fields with a job that was saved as JSON.
    """
    pasted = visit.form.get("json", "").strip()
    if pasted:
        return _filled(pasted)
    given = {name: visit.form.get(name, "").strip() for name in _FIELDS}
    try:
        due = typed_time(given["scheduled_at"], visit.zone)
        body = _body({**given, "scheduled_at": due})
        response = await visit.send("POST", "jobs", body=body, action="job.enqueue")
    except Mistake as mistake:
        return _form(given, str(mistake))
    except ApiError as error:
        if error.status not in (400, 413, 422):
            raise
        return _form(given, error.sentence)
    new_id = text(object_members(response) or {}, "id")
    return SeeOther(visit.url("jobs", new_id), _("The job is enqueued."))


def _filled(pasted: str) -> Page:
    """Return the form with a job as the API returns it, or as a client enqueues it."""
    raw = json_of(pasted)
    members = {} if raw is None else object_members(raw) or {}
    members = object_members(members.get("job", Raw(b"null"))) or members
    if not text(members, "type"):
        why = _("Paste one job, a JSON object with a type, such as the file of a job.")
        return _form(_EMPTY, why, pasted)
    if any(len(bytes(members.get(name, b""))) > MAX_EDITED for name in ("args", "meta")):
        why = _("A form shows args and meta of %(size)s at most.", size=size(MAX_EDITED))
        return _form(_EMPTY, why)
    options = object_members(members.get("options", Raw(b"null"))) or {}
    return _form(_given({**options, **members}))


def _form(given: Mapping[str, str], mistake: str = "", pasted: str = "") -> Page:
    context = {"given": given, "mistake": mistake, "pasted": pasted}
    return Page("new_job.html", context, 400 if mistake else 200)


def _body(given: Mapping[str, str]) -> bytes:
    """Return the request. Args and meta are copied, so that numbers of any size stay exact."""
    args, meta = args_of(given["args"]), meta_of(given["meta"])
    options = {"queue": text_of(given["queue"] or "default")}
    for name in ("priority", "max_attempts"):
        check_number(name, given[name])
    if given["priority"]:
        options["priority"] = number_of(given["priority"])
    if given["max_attempts"]:
        options["retry"] = Raw(b'{"max_attempts":%b}' % number_of(given["max_attempts"]))
    if given["scheduled_at"]:
        options["delay_until"] = text_of(given["scheduled_at"])
    tags = words_of(given["tags"])
    if tags:
        options["tags"] = Raw(msgspec.json.encode(tags))
    members = {
        "type": text_of(given["type"]),
        "args": args,
        "options": Raw(b"{%b}" % join(options)),
    }
    if given["meta"]:
        members["meta"] = meta
    return b"{%b}" % join(members)


def args_of(given: str) -> Raw:
    """Return the args that were typed.

    Raises:
        Mistake: they are no JSON array.
    """
    args = json_of(given or "[]")
    if args is None or array_items(args) is None:
        raise Mistake(_('Args must be a JSON array, such as ["user@example.com", 42].'))
    return args


def meta_of(given: str) -> Raw:
    """Return the meta that was typed.

    Raises:
        Mistake: it is no JSON object.
    """
    meta = json_of(given or "{}")
    if meta is None or object_members(meta) is None:
        raise Mistake(_('Meta must be a JSON object, such as {"customer": 7}, or empty.'))
    return meta


def check_number(name: str, digits: str) -> None:
    """Check a field that is empty or a whole number.

    Raises:
        Mistake: it is not.
    """
    if digits and not (digits.isascii() and digits.removeprefix("-").isdigit()):
        field = name.replace("_", " ").capitalize()
        raise Mistake(_("%(field)s must be a whole number.", field=field))


def words_of(given: str) -> list[str]:
    """Return the words of a list with commas."""
    return [word.strip() for word in given.split(",") if word.strip()]


def json_of(given: str) -> Raw | None:
    """Return the JSON that was typed, None if it is none."""
    sent = given.encode(errors="replace")
    try:
        check_text(sent)  # msgspec itself fails at a thousand nested arrays
        return msgspec.json.decode(sent, type=Raw)
    except (OJSError, msgspec.DecodeError):
        return None


def text_of(given: str) -> Raw:
    """Return a text as JSON."""
    return Raw(msgspec.json.encode(given.encode(errors="replace").decode()))


def number_of(digits: str) -> Raw:
    """Return a whole number as JSON, of any size."""
    sign = "-" if digits.startswith("-") else ""
    return Raw(f"{sign}{digits.lstrip('-').lstrip('0') or '0'}".encode())


def raw_of(members: Mapping[str, Raw], name: str, default: str) -> str:
    """Return the JSON of a member for a field of a form; ``default`` if it is empty."""
    raw = bytes(members.get(name, b""))
    return _visible(raw.decode(errors="replace")) if raw not in (b"", b"{}", b"null") else default


def _visible(json: str) -> str:
    """Return JSON whose invisible characters are escapes, such as those that turn text around."""
    return _unusual.sub(lambda found: _escape(found[0]), json)


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
