"""Build the OpenAPI 3.1 document, with an operation object per route, from the route tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster import __version__
from ojs_cluster.http.openapi import docstrings
from ojs_cluster.http.openapi.parameters import TENANT, of_path
from ojs_cluster.http.openapi.responses import (
    error_components,
    error_reference,
    error_statuses,
    phrase,
)
from ojs_cluster.http.openapi.schemas import Schemas
from ojs_cluster.http.routing.described import MEDIA_TYPE, Answer, Parameter
from ojs_cluster.http.routing.router import V1, Route, TenantAccess
from ojs_cluster.http.shapes.common import Error

_DESCRIPTION: Final = """\
The API of ojs-cluster, a job server for [OpenJobSpec](https://openjobspec.org).

Every error response has the body `Error`. Clients compare `error.code`, and people read
`error.message` and `error.hint`. The `X-Request-Id` of a response also stands in the server's log.

An API key needs the scope that an operation names. The scopes of the operations are in
`x-ojs-scope`. `x-ojs-queue-access` names what an API key that is restricted to some queues is
checked against. A server that runs without API keys serves all operations without a key.

A client may ignore members that it does not know. A parameter of the query that the operation does
not know changes nothing, and `X-OJS-Unknown-Parameters` of the response names it. A request that
changes the jobs which its query selects is refused instead.

The GET operations also serve HEAD, and every
path serves OPTIONS.
"""
_BODY_TYPES: Final = (MEDIA_TYPE, "application/json")
_SECURITY_SCHEMES: Final[Mapping[str, Any]] = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key with the scope of the operation, as a bearer token.",
    },
    "clientCertificate": {
        "type": "mutualTLS",
        "description": "A client certificate whose subject belongs to an API key.",
    },
}


@dataclass(frozen=True, slots=True)
class Family:
    """The routes of one table, and what they are about."""

    description: str
    routes: Sequence[Route]


class Undescribed(LookupError):
    """A route does not say what it answers."""


def build_document(families: Mapping[str, Family]) -> dict[str, Any]:
    """Return the document.

    Args:
        families: the families of routes by name. The routes of test hooks are left out.

    Raises:
        Undescribed: a route has no answers.
        UnknownParameter: a parameter of a path is not described.
    """
    served = [
        (name, route)
        for name, family in families.items()
        for route in family.routes
        if not route.test_hook
    ]
    schemas = Schemas(_types(route for _, route in served))
    paths: dict[str, dict[str, Any]] = {}
    for name, route in served:
        path = paths.setdefault(route.template, {})
        path[route.method.lower()] = _operation_object(route, schemas, name)
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
            "securitySchemes": dict(_SECURITY_SCHEMES),
        },
    }


def _types(routes: Iterable[Route]) -> list[Any]:
    types: list[Any] = [Error]
    for route in routes:
        if not route.answers:
            raise Undescribed(f"{route.path}: add the types of its answers and its body")
        for answer in route.answers.values():
            types += _answer_of(answer).shapes
        types += filter(None, (route.body, route.optional_body))
    return types


def _answer_of(shape: Any) -> Answer:
    """Return the answer that a table describes by ``shape``, a type or an ``Answer``."""
    return shape if isinstance(shape, Answer) else Answer(shape)


def _operation_id(route: Route) -> str:
    """Return the id of an operation: its method and the words of its path.

    ``GET /ojs/v1/jobs/{id}/result`` is ``getJobsByIdResult``. ``GET /health``, which is not below
    ``/ojs``, is ``getRootHealth``.
    """
    path = route.template
    for prefix, name in ((V1, ""), ("/ojs", ""), ("", "/root")):
        if path.startswith(f"{prefix}/"):
            path = name + path.removeprefix(prefix)
            break
    words = re.split("[/.-]", path.replace("{", "by-").replace("}", ""))
    return route.method.lower() + "".join(word.capitalize() for word in words)


def _operation_object(route: Route, schemas: Schemas, tag: str) -> dict[str, Any]:
    """Return the operation object of a route.

    Args:
        route: the route.
        schemas: the schemas of all bodies.
        tag: the name of the family of routes.
    """
    handler = route.handler
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": docstrings.summary(handler),
        "tags": [tag],
    }
    description = docstrings.description(handler)
    if description:
        operation["description"] = description
    section = docstrings.spec(handler)
    if section:
        operation["x-ojs-spec"] = section
    parameters = [*of_path(route.template), *route.parameters]
    if not route.open and route.access_of_tenants is not TenantAccess.REFUSED:
        parameters.append(TENANT)
    if parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in parameters]
    body = route.body or route.optional_body
    if body is not None:
        schema = schemas[body]
        operation["requestBody"] = {
            "required": route.optional_body is None,
            "content": {media_type: {"schema": schema} for media_type in _BODY_TYPES},
        }
    operation["responses"] = _responses(route, schemas)
    if route.open:
        operation["security"] = []
    elif route.scope is not None:
        operation["security"] = [{scheme: [route.scope.value]} for scheme in _SECURITY_SCHEMES]
        operation["x-ojs-scope"] = route.scope.value
    operation["x-ojs-queue-access"] = route.queue_access.value
    if not route.open:
        operation["x-ojs-tenant-access"] = route.access_of_tenants.value
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "description": parameter.description,
        "required": parameter.required,
        "schema": dict(parameter.schema),
    }


def _responses(route: Route, schemas: Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, shape in route.answers.items():
        answer = _answer_of(shape)
        text = answer.description or _first_sentence(answer.shape) or phrase(status)
        response: dict[str, Any] = {"description": text}
        if answer.shape is not None:
            bodies = [schemas[shape] for shape in answer.shapes]
            schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
            response["content"] = {answer.media_type: {"schema": schema}}
            for media_type in answer.also:
                response["content"][media_type] = {"schema": {"type": "string"}}
        if answer.headers:
            response["headers"] = {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in answer.headers.items()
            }
        responses[str(status)] = response
    for status in error_statuses(route):
        responses[str(status)] = error_reference(status)
    return dict(sorted(responses.items()))


def _first_sentence(shape: Any) -> str:
    if not isinstance(shape, type) or shape.__module__ == "builtins":
        return ""
    found = docstrings.paragraphs(shape)
    return docstrings.markdown(found[0]) if found else ""
