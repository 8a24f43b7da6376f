"""Write docs/api.md from the OpenAPI document.

Run ``python -m tests.readme.api_reference``, or ``make docs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ojs_cluster.http.openapi.document import build_document
from ojs_cluster.http.routes.all_routes import FAMILIES
from ojs_cluster.http.routing.router import Route

PAGE: Final = Path(__file__).parents[2] / "docs" / "api.md"
_INTRODUCTION: Final = """\
# API reference

<!-- Generated from the route table and the types of the handlers by `make docs`. -->

{description}
A running server serves the same as an OpenAPI 3.1 document at `/ojs/openapi.json`. To browse it in
a viewer of your choice, save it and open the file:

```bash
curl -H "Authorization: Bearer $OJS_API_KEY" http://localhost:8080/ojs/openapi.json > openapi.json
```

Any operation may also answer {everywhere}, and one that needs a key 401 or 403. [Errors](#errors)
lists the codes.
"""
_EVERYWHERE: Final = {"400", "401", "403", "408", "413", "422", "429", "431", "500", "503"}
"""Statuses that the rows of operations leave out, because nearly all operations have them."""


def page() -> str:
    """Return the page as it should be."""
    document = build_document(FAMILIES)
    statuses = sorted(_EVERYWHERE - {"401", "403", "408"})
    parts = [
        _INTRODUCTION.format(
            description=document["info"]["description"],
            everywhere=", ".join(statuses[:-1]) + f" or {statuses[-1]}",
        )
    ]
    first_routes: dict[Any, Route] = {}
    for name, family in FAMILIES.items():
        parts.append(f"## {name}\n\n{family.description}\n")
        for route in family.routes:
            if route.test_hook:
                continue
            operation = document["paths"][route.template][route.method.lower()]
            first = first_routes.setdefault(route.handler, route)
            parts.append(_operation(route, first, operation))
    parts.append(_errors(document["components"]["responses"]))
    parts.append("## Schemas\n")
    parts += [_schema(name, each) for name, each in document["components"]["schemas"].items()]
    return "\n".join(parts)


def _operation(route: Route, first: Route, operation: Mapping[str, Any]) -> str:
    heading = f"### {route.method} {route.template}\n"
    if route is not first:
        return f"{heading}\nThe same as `{first.method} {first.template}`.\n"
    needs = f"Scope `{operation['x-ojs-scope']}`. " if "x-ojs-scope" in operation else ""
    lines = [heading, f"{operation['summary']}.\n"]
    if "description" in operation:
        lines.append(f"{operation['description']}\n")
    spec = f" Specification: {operation['x-ojs-spec']}." if "x-ojs-spec" in operation else ""
    lines.append(f"{needs}Operation `{operation['operationId']}`.{spec}\n")
    parameters = operation.get("parameters", [])
    if parameters:
        lines.append("| Parameter | In | Type | Meaning |\n|---|---|---|---|")
        lines += [_parameter(parameter) for parameter in parameters]
        lines.append("")
    body = operation.get("requestBody")
    if body is not None:
        [schema, *_] = [content["schema"] for content in body["content"].values()]
        optional = "" if body["required"] else " (optional)"
        lines.append(f"* Body{optional}: {_type(schema)}")
    lines += _answers(operation["responses"])
    return "\n".join([*lines, ""])


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = _type(parameter["schema"])
    return f"| `{parameter['name']}` | {parameter['in']} | {schema} | {parameter['description']} |"


def _answers(responses: Mapping[str, Any]) -> Iterator[str]:
    errors = []
    for status, response in responses.items():
        if "$ref" in response:
            if status not in _EVERYWHERE:
                errors.append(status)
            continue
        types = [_type(content["schema"]) for content in response.get("content", {}).values()]
        shown = f": {types[0]}" if types else ""
        yield f"* {status}{shown}. {response['description']}"
    if errors:
        yield f"* {', '.join(errors)}: [Error](#error)"


def _errors(responses: Mapping[str, Any]) -> str:
    parts = ["## Errors\n"]
    parts += [response["description"] + "\n" for response in responses.values()]
    return "\n".join(parts)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"### {name}\n", schema.get("description", "") + "\n"]
    properties = schema.get("properties")
    if properties is None:
        return "\n".join([*lines, f"{_type(schema)}\n"])
    required = set(schema.get("required", ()))
    lines.append("| Member | Type | Required |\n|---|---|---|")
    for member, each in properties.items():
        lines.append(f"| `{member}` | {_type(each)} | {'yes' if member in required else ''} |")
    if schema.get("additionalProperties") is False:
        lines.append("\nOther members are refused.")
    return "\n".join([*lines, ""])


def _type(schema: Mapping[str, Any]) -> str:
    """Return a schema in a few words, with its bounds."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema["anyOf"])))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`".lower()
    kind = schema.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else kind
    if kind == "array" and schema.get("items"):
        text = f"array of {_type(schema['items'])}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        values = _type(schema["additionalProperties"])
        text = "object" if values == "any" else f"object of {values}"
    return text + "".join(
        f", {word} {schema[name]}" for name, word in _BOUNDS.items() if name in schema
    )


_BOUNDS: Final = {
    "format": "format",
    "minimum": "at least",
    "maximum": "at most",
    "minLength": "min. length",
    "maxLength": "max. length",
    "minItems": "min. items",
    "maxItems": "max. items",
    "default": "default",
}


if __name__ == "__main__":
    PAGE.write_text(page())
