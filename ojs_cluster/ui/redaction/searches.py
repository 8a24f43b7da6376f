"""Refuse searches for values that the operator hides: their hits would reveal them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.search import Term, parse_search
from ojs_cluster.core.search_fields import FIELDS
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.redaction.redaction import ERROR, Redaction, path_of
from ojs_cluster.ui.redaction.rules import ANY, Path

_SHOWN: Final = frozenset({"id", "queue", "type", "state", "priority", "attempt", "worker"})
"""Fields whose values are not hidden by any setting."""
_ERROR_PATHS: Final[list[Path]] = [(*ERROR, name) for name in ("type", "code", "message")]


def why_not_searched(query: str, redaction: Redaction) -> str:
    """Return why the dashboard refuses a search; empty if it reads no hidden value.

    Args:
        query: the search. The API explains one that is not valid.
        redaction: what the operator hides.
    """
    if not redaction.active:
        return ""
    try:
        terms = parse_search(query, now_ms=0).terms
    except InvalidRequest:
        terms = ()
    rules = redaction.rules
    texts = [query, *(each.text for term in terms for each in term.texts)]  # also without quotes
    if any(rules.text(text) != text for text in texts):
        return _("The operator hides a text that this search has (OJS_UI_REDACT).")
    for term in terms:
        paths = _paths_of(term)
        if paths is None:
            return _hidden(term.name)
        if redaction.by_value and any(path[0] != ERROR[0] for path in paths):
            return _(
                "The operator hides some values of args, meta and tags, so no search reads them."
            )
        for path in paths:
            hidden = _name_in(path, rules.names)
            if not hidden and any(_hides(rule.path, path) for rule in rules.paths):
                hidden = ".".join(path)
            if hidden:
                why = _hidden(hidden)
                if term.name != "word":
                    return why
                more = _("A word is also searched in errors.")
                return f"{why} {more}"
    return ""


def _hidden(name: str) -> str:
    return _("The operator hides the values of %(name)s (OJS_UI_REDACT).", name=name)


def _paths_of(term: Term) -> list[Path] | None:
    """Return where a term reads values that the operator may hide; None if that is not known.

    A name of a path may itself contain dots. Such a name is several names here.
    """
    if term.name in _SHOWN:
        return []
    member = "errors" if term.name == "word" else FIELDS[term.name].content
    names = tuple(name.lower() for name in term.path)
    match member:
        case "errors":
            return _ERROR_PATHS
        case "args":  # a member of each argument
            named = [("args", ANY, *names)]
            return [*named, ("args", *names)] if names[0].isdigit() else named
    path = path_of(member)
    return None if path is None else [(*path, *names)]


def _name_in(path: Path, names: frozenset[str]) -> str:
    """Return the first name on a path that the operator hides; empty if there is none."""
    for start in range(len(path)):
        for end in range(start + 1, len(path) + 1):
            name = ".".join(path[start:end])
            if name in names:
                return name
    return ""


def _hides(rule: Sequence[str], path: Sequence[str]) -> bool:
    """Return whether a rule hides what a search reads at a path: the value, or items of an array.

    Each ``*`` of the rule stands for a name, and so for several ones of the path.
    """
    if not rule:
        return True
    if not path:
        return len(rule) == 1 and (rule[0] == ANY or rule[0].isdigit())
    if rule[0] == ANY:
        return any(_hides(rule[1:], path[size:]) for size in range(1, len(path) + 1))
    return path[0] in (ANY, rule[0]) and _hides(rule[1:], path[1:])
