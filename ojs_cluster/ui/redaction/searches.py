"""Refuse searches for values that the operator hides: their hits would reveal them."""

from __future__ import annotations

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.search import parse_search
from ojs_cluster.ui.redaction.redaction import Redaction


def why_not_searched(query: str, redaction: Redaction) -> str:
    """Return why the dashboard refuses a search; empty if it reads no hidden value.

    Args:
        query: the search. The API explains one that is not valid.
        redaction: what the operator hides.
    """
    if not redaction.active:
        return ""
    if redaction.rules.text(query) != query:
        return "The operator hides a text that this search has (OJS_UI_REDACT)."
    try:
        terms = parse_search(query, now_ms=0).terms
    except InvalidRequest:
        return ""
    rules = redaction.rules
    for term in terms:
        names = [name.lower() for name in term.path]
        if not names:
            continue
        if redaction.by_value:
            return "The operator hides some values of args and meta, so no search reads them."
        for start in range(len(names)):
            for end in range(start + 1, len(names) + 1):
                name = ".".join(names[start:end])  # a name may itself contain dots
                if name in rules.names:
                    return f"The operator hides the values of {name} (OJS_UI_REDACT)."
        path = (term.name.rstrip("."), *names)
        if any(rule.covers(path) or rule.covers(tuple(names)) for rule in rules.paths):
            return f"The operator hides the values of {'.'.join(path)} (OJS_UI_REDACT)."
    return ""
