"""Schemas and args that would block the event loop without the bounds of ``cost``.

No test measures a time. Each hostile input is either refused before the library is called, or its
estimate is within the bound.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ojs_cluster.core.errors import SchemaRefused
from ojs_cluster.core.schemas import compiled
from ojs_cluster.core.schemas.compiled import CompiledSchema, Problem
from ojs_cluster.core.schemas.cost import MAX_PATTERN_CHARACTERS
from ojs_cluster.core.schemas.document import MAX_LEVELS, MAX_NODES, MAX_SCHEMA_BYTES

Json = Any
TOO_LARGE = "too large to be validated"
_random = random.Random(1)
AB = "".join(_random.choice("ab") for _ in range(MAX_PATTERN_CHARACTERS))
MANY_STATES = "[ab]*a[ab]{300}c"
"""A pattern whose automaton grows with every character: a text of 1 MiB takes 10 s."""


def doubling(levels: int, keyword: str) -> Json:
    """A schema of 2 KB that compares one value 2 ** levels times."""
    defs: dict[str, Json] = {
        f"d{n}": {keyword: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)
    }
    defs[f"d{levels}"] = {"type": "string"}
    return {"$defs": defs, "items": {"$ref": "#/$defs/d0"}}


def compiled_schema(schema: Json) -> CompiledSchema:
    return CompiledSchema(json.dumps(schema).encode())


def problems(schema: Json, args: Json) -> list[Problem]:
    return compiled_schema(schema).check(json.dumps(args).encode())


class Uncalled:
    """Fails if the library is asked."""

    def is_valid(self, _: object) -> bool:
        raise AssertionError("the library was called")


TREE = {
    "$defs": {
        "e": {
            "anyOf": [
                {"required": ["p"], "properties": {"l": {"$ref": "#/$defs/e"}}},
                {"required": ["q"], "properties": {"l": {"$ref": "#/$defs/e"}}},
                {"type": "string"},
            ]
        }
    },
    "items": {"$ref": "#/$defs/e"},
}


def deep(levels: int) -> Json:
    value: Json = "x"
    for _ in range(levels):
        value = {"l": value}
    return [value]


@pytest.mark.parametrize(
    ("schema", "args"),
    [
        (doubling(14, "allOf"), [1]),
        (doubling(14, "anyOf"), [1]),
        (doubling(14, "oneOf"), ["a"]),
        (TREE, deep(20)),
        ({"items": {"pattern": MANY_STATES}}, [AB] * 2),
        ({"items": {"patternProperties": {MANY_STATES: {}}}}, [{AB + AB: 1}]),
        ({"items": {"items": {"enum": [{"a": n} for n in range(900)]}}}, [[{"a": 899}] * 100]),
        ({"items": {"uniqueItems": True}}, [[{"a": n} for n in range(20_000)]]),
        ({"items": {"type": "integer"}}, [1] * 300_000),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}}, [1] * 300_000),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_a_validation_that_would_take_too_long_is_refused_before_it_begins(
    schema: Json, args: Json, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compiled_schema(schema)
    monkeypatch.setattr(found, "_validator", Uncalled())
    raw = json.dumps(args).encode()
    assert found.check_here(raw) is None
    (problem,) = found.check(raw)
    assert problem.pointer == "/args"
    assert TOO_LARGE in problem.message


def test_an_explanation_that_would_take_too_long_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compiled_schema(doubling(11, "anyOf"))
    validator = found._validator

    class Deciding:
        def is_valid(self, value: object) -> bool:
            return validator.is_valid(value)

    monkeypatch.setattr(found, "_validator", Deciding())
    assert found.check_here(b"[1]") is None
    (problem,) = found.check(b"[1]")
    assert "too large to say where" in problem.message


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"$ref": "https://example.com/x"}, "/$ref"),
        ({"$ref": "other.json#/a"}, "/$ref"),
        ({"$ref": "#/$defs/none"}, "/$ref"),
        ({"$ref": "#/properties", "properties": {}}, "/$ref"),
        ({"$dynamicRef": "#a"}, "/$dynamicRef"),
        ({"items": {"$id": "https://example.com/x"}}, "/items/$id"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]}, "/items"),
        ({"type": "strin"}, "/type"),
        ({"items": {"minLength": -1}}, "/items/minLength"),
        ({"properties": {"a/b": {"required": "a"}}}, "/properties/a~1b/required"),
        ({"pattern": "("}, ""),
        ({"pattern": "(a)\\1"}, ""),
        ({"pattern": "(?:a{1000}){1000}"}, ""),
        ({"items": 5}, "/items"),
        ([], ""),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: Json, where: str) -> None:
    with pytest.raises(SchemaRefused) as caught:
        compiled_schema(schema)
    assert caught.value.details["pointer"] == where


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"allOf": [{"$ref": "#"}]},
        doubling(MAX_LEVELS + 1, "allOf"),
        {"properties": {f"p{n}": True for n in range(MAX_NODES)}},
        {
            "$defs": {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(495)}
            | {"d495": {}},
            "$ref": "#/$defs/d0",
        },
    ],
)
def test_an_endless_or_large_schema_is_refused(schema: Json) -> None:
    with pytest.raises(SchemaRefused):
        compiled_schema(schema)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([rf"\pL{n}" for n in range(134)], "when compiled"),
        ([f"^{n}$" for n in range(900)], "when compiled"),
        (["(a|b|c){90}" + str(n) for n in range(90)], "when compiled"),
        (["a{0}" * 5000], "characters"),
        ([rf"(?i)\PL{n}" for n in range(13)], "without case"),
        ([r"(?i:[\W&&a])" * 20], "without case"),
        (["(?is)" + "[[^a]&&b]" * 20], "without case"),
        (["(?i)" + "[a-\U0010ffff&&b]" * 20], "without case"),
        (["(?x)( ?i:" + "[ ^a]" * 20 + ")"], "without case"),
        (["(?i)" + "[" * 20 + "\\S" + "]" * 20], "without case"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_patterns_that_take_too_long_to_compile_are_refused(
    patterns: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_compile", Uncalled())
    with pytest.raises(SchemaRefused, match=expected):
        compiled_schema({"allOf": [{"pattern": each} for each in patterns]})
    with pytest.raises(SchemaRefused, match=expected):
        compiled_schema({"patternProperties": {key: {} for key in patterns}})


def test_usual_patterns_are_no_burden() -> None:
    email = r"(?i)^[^@\s]+@[^@\s]+\.[a-z]{2,24}$"
    usual = [email, r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", r"(?i)^[a-z0-9_.-]+$"]
    usual += [f"^order-{n}-[0-9]+$" for n in range(100)]
    compiled_schema({"anyOf": [{"pattern": each} for each in usual * 2]})


def test_a_deep_or_long_document_is_refused() -> None:
    nested: Json = {}
    for _ in range(MAX_LEVELS):
        nested = {"items": nested}
    with pytest.raises(SchemaRefused, match="levels"):
        compiled_schema(nested)
    with pytest.raises(SchemaRefused, match="bytes"):
        compiled_schema({"description": "x" * MAX_SCHEMA_BYTES})
    with pytest.raises(SchemaRefused):
        CompiledSchema(b"[" * 60_000)


def test_a_recursive_schema_is_followed_through_the_args() -> None:
    schema = {
        "$defs": {"n": {"required": ["v"], "properties": {"next": {"$ref": "#/$defs/n"}}}},
        "items": {"$ref": "#/$defs/n"},
    }
    assert problems(schema, [{"v": 1, "next": {"v": 2}}]) == []
    (problem,) = problems(schema, [{"v": 1, "next": {"v": 2, "next": {}}}])
    assert problem.pointer == "/args/0/next/next"


def test_an_anchor_names_a_subschema() -> None:
    schema = {
        "$defs": {"n": {"$anchor": "number", "type": "integer"}},
        "items": {"$ref": "#number"},
    }
    assert problems(schema, [1]) == []
    assert problems(schema, ["1"]) != []


def test_a_text_that_is_too_long_for_its_pattern_does_not_match() -> None:
    schema = {"items": {"pattern": "^a*$"}}
    assert problems(schema, ["a" * MAX_PATTERN_CHARACTERS]) == []
    (problem,) = problems(schema, ["a" * (MAX_PATTERN_CHARACTERS + 1)])
    assert f"longer than {MAX_PATTERN_CHARACTERS} characters" in problem.message
    assert len(problem.message) < 1000


def test_a_list_of_items_means_prefix_items_in_a_schema_without_a_dialect() -> None:
    schema = {"items": [{"type": "string"}, {"type": "integer"}], "additionalItems": False}
    assert problems(schema, ["a", 1]) == []
    assert problems(schema, ["a", "b"])[0].pointer == "/args/1"
    assert problems(schema, ["a", 1, 2]) != []


def test_first_problem_of_large_args_is_reported() -> None:
    args: list[Json] = [{"a": 1}] * 2000
    (problem,) = problems(
        {"items": {"properties": {"a": {"type": "integer"}}}}, [*args, {"a": "x"}]
    )
    assert problem.pointer == "/args/2000/a"


def test_numbers_keep_their_size() -> None:
    assert problems({"items": {"type": "integer"}}, [10**300]) == []
    found = compiled_schema({"items": {"type": "number"}}).check(b"[1e999]")
    assert "cannot be read" in found[0].message
    args = b"[%b]" % (b"1," * (compiled.MAX_ARGS_BYTES // 2) + b"1")
    assert "cannot be validated" in compiled_schema({}).check(args)[0].message


@pytest.mark.parametrize("keyword", ["enum", "const"])
def test_long_integers_in_arrays_of_a_schema_are_compared(keyword: str) -> None:
    found = compiled_schema({"items": {keyword: [[10**30, 1]]}})
    assert (
        found.check(json.dumps([[[10**30, 1]] if keyword == "const" else [10**30, 1]]).encode())
        == []
    )
    assert found.check(b"[[1000000000000000000000000000001, 1]]") != []


def test_many_errors_are_not_collected_here() -> None:
    found = compiled_schema({"items": {"required": [f"n{n}" for n in range(90)]}})
    assert [each.message for each in found.check_here(b"[{}]") or ()] == [
        f'"n{n}" is a required property' for n in range(compiled.MAX_PROBLEMS)
    ]
    assert found.check_here(b"[{},{}]") is None
    assert found.check_here(b"[{},{}]", explain=False) == [compiled.UNEXPLAINED]
    assert len(found.check(b"[{},{}]")) == compiled.MAX_PROBLEMS
    assert len(found.check(b"[%b]" % b",".join([b"{}"] * 100))) == 1
