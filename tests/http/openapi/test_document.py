"""The document describes every route, completely and in one way."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.app import App
from ojs_cluster.http.errors import INTERNAL, TABLE
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.openapi.document import Family, Undescribed, build_document
from ojs_cluster.http.openapi.parameters import UnknownParameter
from ojs_cluster.http.routes.all_routes import FAMILIES, ROUTES
from ojs_cluster.http.routing.router import Access, Route
from tests.http.openapi.answers import document, references

SERVED = [route for route in ROUTES if not route.test_hook]


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def operation_of(route: Route) -> dict[str, Any]:
    return operations()[route.method, route.template]


@pytest.mark.parametrize("route", SERVED, ids=lambda route: f"{route.method} {route.template}")
def test_a_route_is_described(route: Route) -> None:
    operation = operation_of(route)
    assert operation["summary"], f"the handler of {route.template} has no docstring"
    assert operation["x-ojs-queue-access"] == route.queue_access.value


def test_the_document_has_every_route_and_no_other() -> None:
    assert operations().keys() == {(route.method, route.template) for route in SERVED}


def test_the_ids_of_operations_are_unique() -> None:
    ids = [operation["operationId"] for operation in operations().values()]
    assert len(set(ids)) == len(ids)
    assert operations()["GET", "/ojs/v1/jobs/{id}/result"]["operationId"] == "getJobsByIdResult"


def test_the_scope_of_a_route_is_its_security() -> None:
    for route in SERVED:
        operation = operation_of(route)
        if route.open:
            assert operation["security"] == []
        else:
            assert isinstance(route.scope, Scope)
            assert operation["x-ojs-scope"] == route.scope.value
            assert {"apiKey": [route.scope.value]} in operation["security"]
            assert {"401", "403"} <= operation["responses"].keys()


def test_a_parameter_of_a_path_is_required() -> None:
    for route in SERVED:
        described = [
            parameter["name"]
            for parameter in operation_of(route).get("parameters", [])
            if parameter["in"] == "path"
        ]
        names = [part[1:-1] for part in route.template.split("/") if part.startswith("{")]
        assert described == names


def test_every_status_of_the_table_of_errors_has_one_response() -> None:
    components = document()["components"]
    responses = components["responses"].values()
    statuses = {entry.status for entry in TABLE.values()} | {INTERNAL.status}
    assert len(responses) == len(statuses)
    for response in responses:
        [content] = response["content"].values()
        assert content["schema"] == {"$ref": "#/components/schemas/Error"}


def test_every_reference_leads_to_a_component() -> None:
    components = document()["components"]
    assert references(document()) <= components["schemas"].keys() | components["responses"].keys()


def test_every_schema_is_valid_and_has_a_short_name() -> None:
    for name, schema in document()["components"]["schemas"].items():
        assert name.isidentifier(), f"two types are called {name.rpartition('.')[2]}"
        assert jsonschema_rs.meta.is_valid(schema)


async def undescribed(_app: App, _request: Request) -> Response:
    """Return nothing."""
    raise AssertionError


def test_a_new_route_must_say_what_it_answers() -> None:
    route = Route("GET /ojs/v1/new", undescribed, Access(Scope.DATA_READ))
    with pytest.raises(Undescribed, match=r"GET /ojs/v1/new: add the types of its answers"):
        build_document({**FAMILIES, "new": Family("New.", [route])})


def test_a_new_parameter_of_a_path_must_be_described() -> None:
    [known] = [route for route in SERVED if route.template == "/ojs/manifest"]
    route = replace(known, path="GET /ojs/v1/things/{thing}")
    with pytest.raises(UnknownParameter, match=r"\{thing\} after 'things'"):
        build_document({"new": Family("New.", [route])})


def test_the_document_is_valid() -> None:
    errors = OpenAPIV31SpecValidator(document()).iter_errors()
    assert [(list(error.path), error.message) for error in errors] == []


def test_a_client_with_every_operation_can_be_generated(tmp_path: Path) -> None:
    source, client = tmp_path / "openapi.json", tmp_path / "client"
    source.write_text(json.dumps(document()))
    tool = Path(sys.executable).with_name("openapi-python-client")
    command = [str(tool), "generate", "--path", str(source), "--meta", "none"]
    command += ["--output-path", str(client)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    generated = list((client / "api").glob("*/*.py"))
    assert sum(path.name != "__init__.py" for path in generated) == len(operations())
