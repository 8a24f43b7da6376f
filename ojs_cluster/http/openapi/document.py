"""Build the OpenAPI 3.1 document from the route tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster import __version__
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.openapi.operation_objects import (
    SECURITY_SCHEMES,
    answer_of,
    operation_object,
)
from ojs_cluster.http.openapi.operations.all_operations import OPERATIONS
from ojs_cluster.http.openapi.responses import error_components
from ojs_cluster.http.openapi.schemas import Schemas
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.shapes.common import Error

_DESCRIPTION: Final = """\
The API of ojs-cluster, a job server for [OpenJobSpec](https://openjobspec.org).

Every error response has the body `Error`. Clients compare `error.code`, and people read
`error.message` and `error.hint`. The `X-Request-Id` of a response also stands in the server's log.

An API key needs the scope that an operation names. The scopes of the operations are in
`x-ojs-scope`. `x-ojs-queue-access` names what an API key that is restricted to some queues is
checked against. A server that runs without API keys serves all operations without a key.

A client may ignore members that it does not know. The GET operations also serve HEAD, and every
path serves OPTIONS.
"""


@dataclass(frozen=True, slots=True)
class Family:
    """The routes of one table, and what they are about."""

    description: str
    routes: Sequence[Route]


class Undescribed(LookupError):
    """A route has a handler that no table of ``openapi.operations`` describes."""


def details_of(route: Route) -> OperationDetails:
    """Return what the handler of a route reads and returns.

    Raises:
        Undescribed: no table describes the handler.
    """
    handler: Any = getattr(route.handler, "__func__", route.handler)
    details = OPERATIONS.get(handler)
    if details is None:
        raise Undescribed(
            f"{route.method} {route.template}: add a row for {handler.__module__}."
            f"{handler.__qualname__} to a table in ojs_cluster/http/openapi/operations/, with the "
            "types of its answers and its body, and its parameters"
        )
    return details


def build_document(families: Mapping[str, Family]) -> dict[str, Any]:
    """Return the document.

    Args:
        families: the families of routes by name. The routes of test hooks are left out.

    Raises:
        Undescribed: a handler is not described.
        UnknownParameter: a parameter of a path is not described.
    """
    described = [
        (name, route, details_of(route))
        for name, family in families.items()
        for route in family.routes
        if not route.test_hook
    ]
    schemas = Schemas(_types(details for _, _, details in described))
    paths: dict[str, dict[str, Any]] = {}
    for name, route, details in described:
        path = paths.setdefault(route.template, {})
        path[route.method.lower()] = operation_object(route, details, schemas, name)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ojs-cluster",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": name, "description": family.description} for name, family in families.items()
        ],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": error_components(),
            "securitySchemes": dict(SECURITY_SCHEMES),
        },
    }


def _types(described: Iterable[OperationDetails]) -> list[Any]:
    types: list[Any] = [Error]
    for details in described:
        for answer in details.answers.values():
            types += answer_of(answer).shapes
        if details.body is not None:
            types.append(details.body)
    return types
