"""Which changes a minor version may make (spec: ojs-schema-registry 8.2 and 8.3)."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_cluster.core.schemas.compatibility import breaking_changes

AMOUNT = {"type": "integer", "maximum": 9}
NOTE = {"type": "string", "maxLength": 50, "enum": ["a", "b"]}
OLD = {"type": "object", "required": ["amount"], "properties": {"amount": AMOUNT, "note": NOTE}}


def changed(**members: Any) -> dict[str, Any]:
    return {**OLD, **members}


def with_property(name: str, schema: Any) -> dict[str, Any]:
    return changed(properties={"amount": AMOUNT, "note": NOTE, name: schema})


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (changed(required=["amount", "note"]), "required member 'note' was added"),
        (changed(properties={"amount": AMOUNT}), "member 'note' was removed"),
        (with_property("amount", {"type": "string"}), "the type was changed from integer"),
        (with_property("note", {**NOTE, "maxLength": 9}), "maxLength was lowered to 9"),
        (with_property("note", {**NOTE, "enum": ["a"]}), "the values of enum were restricted"),
        (with_property("note", {**NOTE, "pattern": "a"}), "pattern was changed"),
        (with_property("note", False), "nothing is allowed any more"),
        (changed(additionalProperties=False), "nothing is allowed any more"),
        (changed(anyOf=[{"required": ["note"]}]), "the alternatives of anyOf were restricted"),
        (changed(**{"not": {"required": ["x"]}}), "not was changed"),
        (changed(maxProperties=1), "maxProperties was lowered"),
    ],
)
def test_a_breaking_change_is_named(new: dict[str, Any], expected: str) -> None:
    assert any(expected in each for each in breaking_changes(OLD, new, "backward"))
    assert breaking_changes(OLD, new, "none") == []


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        with_property("further", {"type": "string"}),
        with_property("note", {**NOTE, "maxLength": 99, "enum": ["a", "b", "c"]}),
        with_property("amount", {"type": ["number", "null"]}),
        changed(required=[]),
        changed(description="new"),
    ],
)
def test_a_compatible_change_is_allowed(new: dict[str, Any]) -> None:
    assert breaking_changes(OLD, new, "backward") == []


def test_relaxed_additional_properties_are_allowed() -> None:
    assert breaking_changes(changed(additionalProperties=False), OLD, "backward") == []


def test_a_further_positional_argument_is_allowed_unless_it_is_required() -> None:
    one: dict[str, Any] = {"type": "array", "prefixItems": [{"type": "string"}]}
    two = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "object"}]}
    assert breaking_changes(one, two, "backward") == []
    assert breaking_changes(one, {**two, "minItems": 2}, "backward") == ["minItems was raised to 2"]


def test_forward_compatibility_compares_in_the_other_direction() -> None:
    wider = with_property("note", {**NOTE, "maxLength": 99})
    assert breaking_changes(OLD, wider, "backward") == []
    assert "maxLength" in breaking_changes(OLD, wider, "forward")[0]
    assert "maxLength" in breaking_changes(OLD, wider, "full")[0]
    assert breaking_changes(OLD, changed(required=["amount", "note"]), "forward") == []


def test_schemas_that_refer_to_themselves_are_compared() -> None:
    def tree(leaf: str) -> dict[str, Any]:
        node = {
            "type": "object",
            "properties": {"next": {"$ref": "#/$defs/n"}, "v": {"type": leaf}},
        }
        return {"$defs": {"n": node}, "items": {"$ref": "#/$defs/n"}}

    assert breaking_changes(tree("string"), tree("string"), "full") == []
    assert breaking_changes(tree("string"), tree("integer"), "backward")


def with_definition(schema: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": definition}}


REFERENCE = {"$ref": "#/$defs/a"}
INNER = {"properties": {"x": {"items": REFERENCE}}}


@pytest.mark.parametrize(
    "schema",
    [
        {**REFERENCE, "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x"},
        {**REFERENCE, "minItems": 1},
        *({name: [REFERENCE]} for name in ("allOf", "anyOf", "oneOf")),
        *({name: [INNER]} for name in ("allOf", "anyOf", "oneOf")),
        *({name: INNER} for name in ("not", "if", "unevaluatedItems", "contains", "items")),
        *({name: {"k": INNER}} for name in ("dependentSchemas", "patternProperties")),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_changed_definition_is_a_breaking_change(schema: dict[str, Any]) -> None:
    old = with_definition(schema, {"type": "string"})
    assert breaking_changes(old, old, "full") == []
    assert breaking_changes(old, {**old, "description": "new"}, "full") == []
    assert breaking_changes(old, with_definition(schema, {"type": "integer"}), "backward")


def test_a_reference_beside_other_keywords_is_compared() -> None:
    old = {"minItems": 1, "$defs": {"a": {"maxItems": 9}}}
    new = {**old, "$ref": "#/$defs/a"}
    assert breaking_changes(old, new, "backward") == ["$ref was added"]
    assert breaking_changes(new, old, "backward") == ["$ref was removed"]
    assert breaking_changes(new, new, "full") == []


@pytest.mark.parametrize("old", [{"enum": [1]}, {"const": 1}])
def test_true_is_not_the_number_one(old: dict[str, Any]) -> None:
    (name,) = old
    assert breaking_changes(old, {name: [True] if name == "enum" else True}, "backward")
    assert breaking_changes(old, {name: [1.0] if name == "enum" else 1.0}, "backward") == []


def test_long_rows_of_references_are_not_compared() -> None:
    definitions: dict[str, Any] = {
        f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(495)
    }
    row = {"$defs": {**definitions, "d495": {}}, "items": {"$ref": "#/$defs/d0"}}
    changes = breaking_changes(row, {**row, "minItems": 1}, "backward")
    assert "the schemas are too large to be compared" in changes
