"""The error responses of operations, from the table of errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from ojs_cluster.http.errors import INTERNAL, TABLE
from ojs_cluster.http.routing.described import MEDIA_TYPE
from ojs_cluster.http.routing.router import Route

EVERYWHERE: Final = frozenset({400, 413, 422, 429, 431, 500, 503})
"""Statuses of errors that every operation may return, whatever its handler does."""
_WITH_KEY: Final = frozenset({401, 403})
_WITH_BODY: Final = frozenset({408})
_RETRY_AFTER: Final = frozenset({429, 503})
_NEW_PHRASES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}
"""Phrases that Python has had since 3.13. Nodes with different versions serve one document."""


def phrase(status: int) -> str:
    """Return the reason phrase of a status."""
    return _NEW_PHRASES.get(status) or HTTPStatus(status).phrase


def error_statuses(route: Route) -> list[int]:
    """Return the statuses of the errors that an operation may return.

    A status that the operation also uses for a successful response is left out.
    """
    statuses = set(EVERYWHERE) | set(route.errors)
    if not route.open:
        statuses |= _WITH_KEY
    if route.method in ("POST", "PUT", "PATCH", "DELETE"):
        statuses |= _WITH_BODY
    if "{" in route.template:
        statuses.add(404)
    return sorted(statuses - set(route.answers))


def error_reference(status: int) -> dict[str, Any]:
    """Return a reference to the shared response for a status."""
    return {"$ref": f"#/components/responses/{_name(status)}"}


def error_components() -> dict[str, Any]:
    """Return the shared responses by name, one for each status in the table of errors."""
    entries = [*TABLE.values(), INTERNAL]
    return {_name(status): _response(status) for status in sorted({e.status for e in entries})}


def _name(status: int) -> str:
    return "".join(word.capitalize() for word in phrase(status).replace("-", " ").split())


def _response(status: int) -> dict[str, Any]:
    hints: dict[str, str] = {}
    for entry in TABLE.values():
        if entry.status == status:
            hints.setdefault(entry.code, entry.hint)
    lines = "\n".join(f"* `{code}`: {hint}" for code, hint in hints.items())
    response: dict[str, Any] = {
        "description": f"{phrase(status)}. `error.code` is one of:\n\n{lines}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status in _RETRY_AFTER:
        response["headers"] = {
            "Retry-After": {
                "description": "The number of seconds after which the client may try again.",
                "schema": {"type": "integer", "minimum": 1},
            }
        }
    return response
