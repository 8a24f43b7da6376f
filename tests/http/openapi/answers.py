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
from ojs_cluster.http.openapi.shapes import jobs, workers, workflows
from ojs_cluster.http.routing.router import Route
from ojs_cluster.http.routing.routes import FAMILIES, router_for

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


@cache
def _validator(template: str, method: str, status: int) -> Any:
    """Return the validator of a body, its media type if it is no JSON, None for no body."""
    described = document()["paths"][template][method]["responses"].get(str(status))
    assert described is not None, f"{method} {template} does not describe the status {status}"
    if "$ref" in described:
        name = described["$ref"].rpartition("/")[2]
        described = document()["components"]["responses"][name]
    content = described.get("content")
    if content is None:
        return None
    [(media_type, body)] = content.items()
    if "json" not in media_type:
        return media_type
    schema = {**body["schema"], "components": closed_components()}
    return jsonschema_rs.Draft202012Validator(schema, validate_formats=True)


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
    validator = _validator(route.template, route.method.lower(), response.status)
    where = f"{route.method} {route.template}: {response.status}"
    if validator is None:
        assert not response.body, f"{where} has a body"
    elif isinstance(validator, str):
        types = [value for name, value in response.headers if name == "Content-Type"]
        assert types[0].startswith(validator), f"{where} has the type {types[0]}"
    else:
        errors = [
            f"{'/'.join(map(str, error.instance_path))}: {error.message[:300]}"
            for error in validator.iter_errors(json.loads(response.body))
        ]
        assert not errors, f"{where} differs from the document: {errors[:3]}"
