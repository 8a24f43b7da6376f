"""The requests that the fast lane serves: those for routes marked ``fast`` in the route table."""

from __future__ import annotations

import re
from typing import Final

from ojs_cluster.http.routes.all_routes import ROUTES

_FAST: Final = [(route.method, route.template) for route in ROUTES if route.fast]
_EXACT: Final = frozenset(pair for pair in _FAST if "{" not in pair[1])
_PATTERN: Final = re.compile(
    "|".join(
        f"{method} " + re.sub(r"\{[^}]*\}", "[^/]+", template)
        for method, template in _FAST
        if "{" in template
    )
)


def is_fast(method: str, path: str) -> bool:
    """Return whether the fast lane serves a request for this raw path."""
    return (method, path) in _EXACT or _PATTERN.fullmatch(f"{method} {path}") is not None
