"""Refuse searches for values that ``OJS_UI_REDACT`` hides: their hits would reveal them."""

from __future__ import annotations

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.search import parse_search


def why_not_searched(query: str, redact: frozenset[str]) -> str:
    """Return why the dashboard refuses a search; empty if it reads no hidden value.

    Args:
        query: the search. The API explains one that is not valid.
        redact: lower-case names of members whose values are hidden.
    """
    if not redact:
        return ""
    try:
        terms = parse_search(query, now_ms=0).terms
    except InvalidRequest:
        return ""
    for term in terms:
        names = [name.lower() for name in term.path]
        for start in range(len(names)):
            for end in range(start + 1, len(names) + 1):
                name = ".".join(names[start:end])  # a name may itself contain dots
                if name in redact:
                    return f"The operator hides the values of {name} (OJS_UI_REDACT)."
    return ""
