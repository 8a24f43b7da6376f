"""Build the operation object of a route (OpenAPI 3.1, 4.8.10)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ojs_cluster.http.openapi import docstrings
from ojs_cluster.http.openapi.described import MEDIA_TYPE, Answer, OperationDetails, Parameter
from ojs_cluster.http.openapi.parameters import TENANT, of_path
from ojs_cluster.http.openapi.responses import error_reference, error_statuses, phrase
from ojs_cluster.http.openapi.schemas import Schemas
from ojs_cluster.http.routing.router import V1, Route, TenantAccess

_BODY_TYPES: Final = (MEDIA_TYPE, "application/json")


def answer_of(shape: Any) -> Answer:
    """Return the answer that a table describes by ``shape``, a type or an ``Answer``."""
    return shape if isinstance(shape, Answer) else Answer(shape)


def operation_id(route: Route) -> str:
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


def operation_object(
    route: Route, details: OperationDetails, schemas: Schemas, tag: str
) -> dict[str, Any]:
    """Return the operation object of a route.

    Args:
        route: the route.
        details: what its handler reads and returns.
        schemas: the schemas of all bodies.
        tag: the name of the family of routes.
    """
    handler = route.handler
    operation: dict[str, Any] = {
        "operationId": operation_id(route),
        "summary": docstrings.summary(handler),
        "tags": [tag],
    }
    description = docstrings.description(handler)
    if description:
        operation["description"] = description
    section = docstrings.spec(handler)
    if section:
        operation["x-ojs-spec"] = section
    parameters = [*of_path(route.template), *details.parameters]
    if not route.open and route.access_of_tenants is not TenantAccess.REFUSED:
        parameters.append(TENANT)
    if parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in parameters]
    if details.body is not None:
        schema = schemas[details.body]
        operation["requestBody"] = {
            "required": details.body_required,
            "content": {media_type: {"schema": schema} for media_type in _BODY_TYPES},
        }
    operation["responses"] = _responses(route, details, schemas)
    if route.open:
        operation["security"] = []
    elif route.scope is not None:
        operation["security"] = [{scheme: [route.scope.value]} for scheme in SECURITY_SCHEMES]
        operation["x-ojs-scope"] = route.scope.value
    operation["x-ojs-queue-access"] = route.queue_access.value
    if not route.open:
        operation["x-ojs-tenant-access"] = route.access_of_tenants.value
    return operation


SECURITY_SCHEMES: Final[Mapping[str, Any]] = {
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


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.location,
        "description": parameter.description,
        "required": parameter.required,
        "schema": dict(parameter.schema),
    }


def _responses(route: Route, details: OperationDetails, schemas: Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, shape in details.answers.items():
        answer = answer_of(shape)
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
    for status in error_statuses(route, details):
        responses[str(status)] = error_reference(status)
    return dict(sorted(responses.items()))


def _first_sentence(shape: Any) -> str:
    if not isinstance(shape, type) or shape.__module__ == "builtins":
        return ""
    found = docstrings.paragraphs(shape)
    return docstrings.markdown(found[0]) if found else ""
