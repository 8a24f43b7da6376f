"""Saved searches for jobs: what the list of jobs offers, saves and deletes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.core.search import MAX_CHARACTERS
from ojs_cluster.ui.forms.form import confirmation, is_confirmed
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.redaction.searches import why_not_searched
from ojs_cluster.ui.visit import Answer, ApiError, SeeOther, Visit

_CHECKED_AT_ONCE: Final = 10
"""Number of searches after which other tasks run. To parse a long one takes almost 1 ms."""
_kept_refusal = lru_cache(maxsize=256)(why_not_searched)  # of saved searches: at most 100 at a time
_needs_quotes: Final = re.compile(r'[\s,"\\]').search


async def read_searches(visit: Visit) -> list[dict[str, Any]]:
    """Return the saved searches in the order of their names.

    There are none for a key that may access some queues only, nor while Redis does not answer. A
    search for values that the operator hides is left out.
    """
    if not visit.sees_cluster:
        return []
    known = await visit.shared_or_last("admin", "searches")
    found = [] if known is None else orjson.loads(known.value)["items"]
    redaction = visit.redaction
    if not redaction.active:
        return list(found)
    shown = []
    for number, each in enumerate(found):
        if number % _CHECKED_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        if not _kept_refusal(each["query"], redaction):
            shown.append(each)
    return shown


def may_save(visit: Visit) -> bool:
    """Return whether to offer the forms that save and delete searches."""
    return visit.sees_cluster and visit.may_change(Scope.ADMIN_WRITE)


def as_search(filters: Mapping[str, str]) -> str:
    """Return one search that stands for a state, a queue, a type and a search together.

    It is empty without any of them, and when it would be too long.
    """
    terms = [
        f"{name}:{_quoted(filters[name])}" for name in ("state", "queue", "type") if filters[name]
    ]
    text = " ".join([*terms, filters["query"]]).strip()
    return text if len(text) <= MAX_CHARACTERS else ""


def _quoted(value: str) -> str:
    """Return a value as a search spells it. An asterisk at its end stays outside the quotes."""
    if not _needs_quotes(value):
        return value
    start, star = (value[:-1], "*") if value.endswith("*") else (value, "")
    return f"{quoted(start)}{star}"


def quoted(text: str) -> str:
    """Return a text as a quoted value of a search, in which an asterisk has no meaning."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


async def save(visit: Visit) -> Answer:
    """Save a search for all users. Another search of the same name is replaced after a question."""
    name, query = visit.form.get("name", "").strip(), visit.form.get("query", "").strip()
    refusal = why_not_searched(query, visit.redaction)
    if refusal or not name:
        note = visit.back(refusal or _("A saved search needs a name."), "jobs")
        return SeeOther(note.target, note.note, failed=True)
    body = {"query": query, "replace": is_confirmed(visit)}
    try:
        await visit.send("PUT", "admin", "searches", name, body=body)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT or body["replace"]:
            raise
        return await _ask_to_replace(visit, name)
    return visit.back(_("The search %(name)s is saved for all users.", name=name), "jobs")


async def _ask_to_replace(visit: Visit, name: str) -> Answer:
    """Ask before a search that another user may have saved is replaced."""
    known = orjson.loads(await visit.get("admin", "searches"))["items"]
    savers = [each["saved_by"] for each in known if each["name"] == name]
    saver = savers[0] if savers else ""
    consequence = (
        _("It was saved by %(saver)s and is replaced for all users.", saver=saver)
        if saver
        else _("It was saved and is replaced for all users.")
    )
    return confirmation(
        visit,
        _("Replace the search %(name)s?", name=name),
        consequence,
        _("Replace the search"),
        visit.back("", "jobs").target,
    )


async def delete(visit: Visit) -> Answer:
    """Delete a saved search. One that is gone already is no error."""
    name = visit.form.get("name", "")
    try:
        await visit.send("DELETE", "admin", "searches", name)
    except ApiError as error:
        if error.code != "not_found":
            raise
    return visit.back(_("The search %(name)s is deleted.", name=name), "jobs")
