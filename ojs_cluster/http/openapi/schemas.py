"""Build the schemas of the document from the types of the bodies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from ojs_cluster.http.openapi.docstrings import markdown

_TEMPLATE: Final = "#/components/schemas/{name}"


class Schemas:
    """The schemas of types, and the components that they refer to.

    Attributes:
        components: the schemas of classes by name.
    """

    def __init__(self, types: Iterable[Any]) -> None:
        """Build the schemas of ``types``, which may repeat."""
        unique = list(dict.fromkeys(types))
        found, components = msgspec.json.schema_components(unique, ref_template=_TEMPLATE)
        self._by_type = dict(zip(unique, map(_cleaned, found), strict=True))
        self.components: dict[str, Any] = {
            name: _cleaned(components[name]) for name in sorted(components)
        }

    def __getitem__(self, shape: Any) -> dict[str, Any]:
        """Return the schema of a type: a reference if the type is a class."""
        schema: dict[str, Any] = self._by_type[shape]
        return schema


def _cleaned(schema: Any) -> Any:
    """Return a schema whose descriptions are Markdown, and which repeats no name as title.

    Generators of clients also need the type of a constant, and what an array has.
    """
    if isinstance(schema, list):
        return [_cleaned(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("enum") == [True]:
        return {"type": "boolean"}
    cleaned: dict[str, Any] = {}
    if schema.get("type") == "array" and "prefixItems" not in schema:
        cleaned["items"] = {}
    for name, value in schema.items():
        if name == "title" and isinstance(value, str):
            continue
        if name == "description" and isinstance(value, str):
            parts = value.split("\n\n")
            cleaned[name] = "\n\n".join(markdown(" ".join(part.split())) for part in parts)
        else:
            cleaned[name] = _cleaned(value)
    return cleaned
