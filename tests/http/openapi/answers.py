"""Compare responses with the OpenAPI document.

The document allows members that it does not name, because clients must ignore those. The comparison
does not allow them, so that a new member has to be described.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any, Final

import jsonschema_rs

from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.messages import Response
from ojs_cluster.http.openapi.document import build_document
from ojs_cluster.http.routes.all_routes import FAMILIES, router_for
from ojs_cluster.http.routing.described import MEDIA_TYPE
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.shapes import jobs, workers, workflows

_OPEN: Final = {
    shape.__name__
    for shape in (
        *(jobs.Job, jobs.WholeJob, jobs.LeasedJob, jobs.AdminJob, jobs.AttemptError),
        *(workers.Worker, workers.WorkerDetail, workflows.WorkflowError),
    )
}
"""Types whose bodies have members that a client has sent."""


@cache
def document() -> dict[str, Any]:
    """Return the document."""
    return build_document(FAMILIES)


@cache
def closed_components() -> dict[str, Any]:
    """Return the components, with schemas that allow no members that they do not name."""
    components: dict[str, Any] = copy.deepcopy(document()["components"])
    for name, schema in components["schemas"].items():
        if "properties" in schema and name not in _OPEN:
            schema.setdefault("additionalProperties", False)
    return components


def _described(route: Route, status: int) -> dict[str, Any]:
    """Return the content of a response by media type; empty for a response without a body."""
    responses = document()["paths"][route.template][route.method.lower()]["responses"]
    described = responses.get(str(status))
    where = f"{route.method} {route.template}"
    assert described is not None, f"{where} does not describe the status {status}"
    if "$ref" in described:
        described = document()["components"]["responses"][_name(described)]
    content: dict[str, Any] = described.get("content", {})
    return content


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    """Return the validator of a schema, given as JSON.

    It gets only the components that the schema needs. A validator with all of them would take two
    megabytes.
    """
    decoded = json.loads(schema)
    needed: dict[str, Any] = {}
    missing = references(decoded)
    while missing:
        name = missing.pop()
        needed[name] = closed_components()["schemas"][name]
        missing |= references(needed[name]) - needed.keys()
    whole = {**decoded, "components": {"schemas": needed}}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def references(schema: Any) -> set[str]:
    """Return the names of the components that a schema refers to."""
    if isinstance(schema, dict):
        own = {_name(schema)} if isinstance(schema.get("$ref"), str) else set()
        return own.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()


def _name(schema: dict[str, Any]) -> str:
    reference: str = schema["$ref"]
    return reference.rpartition("/")[2]


def check_answer(method: str, path: str, response: Response) -> None:
    """Check that the document describes a response to a request for a raw path.

    Responses to requests for unknown paths, and those to HEAD and OPTIONS, have no operation.

    Raises:
        AssertionError: it does not.
    """
    try:
        route, _ = router_for(False).match(method, path)
    except OJSError:
        return
    if method not in ("HEAD", "OPTIONS"):
        check_response(route, response)


def check_response(route: Route, response: Response) -> None:
    """Check that the operation of a route describes a response.

    Raises:
        AssertionError: it does not.
    """
    where = f"{route.method} {route.template}: {response.status}"
    content = _described(route, response.status)
    if not content:
        assert not response.body, f"{where} has a body"
        return
    given = next((value for name, value in response.headers if name == "Content-Type"), MEDIA_TYPE)
    media_type = given.partition(";")[0]
    assert media_type in content, f"{where} has the type {given}"
    if "json" not in media_type:
        return
    validator = _validator(json.dumps(content[media_type]["schema"]))
    errors = [
        f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"
        for error in validator.iter_errors(json.loads(response.body))
    ]
    assert not errors, f"{where} differs from the document: {errors[:3]}"
