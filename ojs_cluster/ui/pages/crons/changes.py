"""The form that creates or changes a cron job."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.raw_json import Raw, join, members, object_members
from ojs_cluster.ui import raw
from ojs_cluster.ui.forms.form import MAX_EDITED, Form, refused
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.pages.crons.preview import Preview, preview_of
from ojs_cluster.ui.redaction.redaction import hides_any
from ojs_cluster.ui.visit import Answer, ApiError, Page, SeeOther, Visit

_FIELDS: Final = {
    **dict.fromkeys(("expression", "cron", "schedule"), "expression"),
    **{name: name for name in ("name", "timezone", "overlap_policy", "description", "type")},
    **{name: name for name in ("args", "options", "queue")},
    "options.queue": "queue",
}
"""The field of the form by the path that the API names in an error."""
_DEFAULT_QUEUE: Final = "default"
"""The queue of an empty field. It is sent, because a change keeps what it leaves out."""
_VALUES: Final = ("args", "options")
"""The fields with JSON."""
_NOT_EDITED: Final = "keep"
"""The value of a hidden field that says that the form does not show a value, so it stays."""
_EMPTY: Final = Form({"timezone": "UTC", "overlap_policy": "skip", "args": "[]"})


async def show_new(visit: Visit) -> Answer:
    """Show an empty form."""
    return _page(visit, _EMPTY, None)


async def show_edit(visit: Visit, name: str) -> Answer:
    """Show the form with the present definition of a cron job."""
    cron = await _read(visit, name)
    shown = await visit.redaction.members(cron, raw.text(cron, "type"))
    hidden = [each for each in _VALUES if hides_any(cron, shown, [each])]
    if visit.redaction.rules.text(description := raw.text(cron, "description")) != description:
        hidden.append("description")
    form = Form(_values(cron, hidden))
    return _page(visit, form, await preview_of(form.values, visit.clock.now_ms()), name)


async def create(visit: Visit) -> Answer:
    """Create a cron job, or only preview its schedule."""
    name = visit.form.get("name", "").strip()
    try:
        exists = await _exists(visit, name)
    except ApiError as error:
        form = Form(visit.form, refusal=error.sentence)
        return _page(
            visit, form, await preview_of(visit.form, visit.clock.now_ms()), status=error.status
        )
    if exists:
        taken = Form(visit.form, {"name": _("A cron job of this name exists. Edit it instead.")})
        return _page(visit, taken, await preview_of(visit.form, visit.clock.now_ms()), status=409)
    return await _save(visit, {"name": Raw(orjson.dumps(name))}, {}, "")


async def edit(visit: Visit, name: str) -> Answer:
    """Change a cron job, or only preview its schedule."""
    return await _save(visit, {}, await _read(visit, name), name)


async def _save(visit: Visit, body: raw.Members, old: raw.Members, name: str) -> Answer:
    """Send the form to the API, and return to the cron job or to the form.

    Args:
        visit: the request.
        body: the members of the body that the form does not have.
        old: the present definition; empty for a new cron job.
        name: the name of the cron job to change; empty for a new one.
    """
    preview = await preview_of(visit.form, visit.clock.now_ms())
    if visit.form.get("do") == "preview":
        return _page(visit, Form(visit.form), preview, name)
    wrong = {each: text for each in _VALUES if (text := _fault(visit.form.get(each, "")))}
    if wrong:
        return _page(visit, Form(visit.form, wrong), preview, name, 400)
    sent = b"{%b}" % join({**body, **_body(visit.form, old)})
    try:
        if name:
            await visit.send("PATCH", "cron", name, body=sent, action="cron.change")
        else:
            await visit.send("POST", "cron", body=sent, action="cron.register")
    except ApiError as error:
        form = refused(visit, error, _FIELDS)
        return _page(visit, form, preview, name, error.status)
    saved = name or visit.form.get("name", "").strip()
    if name:
        note = _("The cron job %(name)s is changed.", name=saved)
    else:
        note = _("The cron job %(name)s is created.", name=saved)
    return SeeOther(visit.url("cron", saved), note)


async def _exists(visit: Visit, name: str) -> bool:
    """Return whether there is a cron job of this name. The API would replace it.

    Raises:
        ApiError: it is not known, as when Redis does not answer.
    """
    if not name:
        return False
    try:
        await visit.get("cron", name)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


async def _read(visit: Visit, name: str) -> raw.Members:
    return raw.members(raw.members(await visit.get("cron", name))["cron"])


def _page(
    visit: Visit, form: Form, preview: Preview | None, name: str = "", status: int = 200
) -> Page:
    context: dict[str, Any] = {"form": form, "preview": preview, "name": name}
    context["hidden"] = [
        each
        for each in (*_VALUES, "description")
        if form.values.get(f"{each}_shown") == _NOT_EDITED
    ]
    return Page("crons/form.html", context, status)


def _values(cron: raw.Members, hidden: Collection[str]) -> dict[str, str]:
    """Return the texts of the fields for a definition. Values to hide are not in the form."""
    texts = ("expression", "timezone", "overlap_policy", "type", "queue", "description")
    values = {name: raw.text(cron, name) for name in texts}
    options = {n: v for n, v in raw.members(cron["options"]).items() if n != "queue"}
    for name, value in (("args", bytes(cron["args"])), ("options", b"{%b}" % join(options))):
        if len(value) > MAX_EDITED or name in hidden:
            values[f"{name}_shown"] = _NOT_EDITED
        else:
            values[name] = value.decode(errors="replace")
    if "description" in hidden:
        values |= {"description": "", "description_shown": _NOT_EDITED}
    return values


def _body(form: Mapping[str, str], old: raw.Members) -> raw.Members:
    """Return the members that a form sets; its JSON is valid."""

    def text(name: str) -> Raw:
        return Raw(orjson.dumps(form.get(name, "").strip()))

    body = {name: text(name) for name in ("expression", "overlap_policy", "type")}
    body["timezone"] = Raw(orjson.dumps(form.get("timezone", "").strip() or "UTC"))
    description = form.get("description", "").strip()
    if description or form.get("description_shown") != _NOT_EDITED:
        body["description"] = Raw(orjson.dumps(description or None))
    if form.get("args", "").strip():
        body["args"] = Raw(form["args"].strip().encode())
    elif form.get("args_shown") != _NOT_EDITED:
        body["args"] = Raw(b"[]")
    given = form.get("options", "").strip()
    kept = old.get("options", Raw(b"{}")) if form.get("options_shown") == _NOT_EDITED else b"{}"
    options = object_members(given.encode() if given else kept)
    if options is None:
        body["options"] = Raw(given.encode())  # the API says that it must be an object
        return body
    queue = Raw(orjson.dumps(form.get("queue", "").strip() or _DEFAULT_QUEUE))
    options["queue"] = queue
    body["options"] = Raw(b"{%b}" % join(options))
    if "queue" in raw.members(old.get("job_template", Raw(b"{}"))):
        body["queue"] = queue
    return body


def _fault(text: str) -> str:
    """Return what is wrong with a JSON text; empty if nothing is."""
    if not text.strip():
        return ""
    try:
        found = members(b'{"":%b}' % text.encode(errors="replace"))
    except OJSError as error:
        reason = error.message.rpartition(": ")[2]
        return _("This is not valid JSON: %(reason)s", reason=reason)
    is_one = bytes(found.get("", b"")) == text.strip().encode(errors="replace")
    return "" if is_one else _("This is more than one JSON value")
