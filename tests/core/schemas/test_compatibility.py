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
