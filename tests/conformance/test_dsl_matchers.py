"""Every matcher, with at least one accepted and one refused value."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.dsl.jsonpath import MISSING
from tests.conformance.dsl.matchers import SuiteError, explain, validate

UUID4 = "9f0c2b7e-3d61-4b5e-9a77-0d3f5c1e2a4b"
UUID7 = "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


@pytest.mark.parametrize(
    ("matcher", "accepted", "refused"),
    [
        ("available", ["available"], ["active", None, MISSING, 1]),
        ("any", [0, "", False], [None, MISSING]),
        ("exists", [0, [], False], [None, MISSING]),
        ("absent", [MISSING], [None, "", 0]),
        ("string:nonempty", ["x"], ["", 1, None, MISSING]),
        ("string:non_empty", ["x"], [""]),
        ("string:uuid", [UUID4, UUID7], [UUID7.upper(), UUID7 + "\n", "", 7]),
        ("string:uuidv7", [UUID7], [UUID4, UUID7.upper(), UUID7 + "\n"]),
        (
            "string:datetime",
            ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.678+01:00"],
            [
                "2026-01-02",
                "2026-13-02T03:04:05Z",
                "2026-01-02T03:04:05",
                "2026-01-02T03:04:05+0100",
            ],
        ),
        ("string:contains:max", ["the max_attempts"], ["min", 1]),
        (r"string:pattern(^a\d$)", ["a1"], ["b1", 1]),
        ("number:positive", [1, 0.5], [0, -1, "1", True]),
        ("number:non_negative", [0, 1], [-1, "0", False]),
        ("number:range(400,422)", [400, 409, 422], [399, 423, "400"]),
        ("one_of:400,422", [400, 422], [401, 200]),
        ("~1000", [500, 1000, 1500], [499, 1501, "1000"]),
        ("array:nonempty", [[0]], [[], "x", MISSING]),
        ("array:empty", [[]], [[0], None, MISSING, {}, ""]),
        ("array:length:2", [[1, 2]], [[1], "ab"]),
        ("array:length(0)", [[]], [[1]]),
        ("array:min_length:1", [[1], [1, 2]], [[], "a"]),
        ("array:min:2", [[1, 2]], [[1]]),
        ("contains:b", [["a", "b"]], [["a"], "b", MISSING]),
        ("not_contains:b", [["a"], []], [["b"], MISSING]),
        (0, [0, 0.0], [False, None, MISSING, "0", 1]),
        (3.14, [3.14], [3.15, "3.14"]),
        (True, [True], [1, "true", None]),
        (False, [False], [0, None, MISSING]),
        (None, [None], [MISSING, 0, False]),
        ([1, "array:empty"], [[1, []]], [[1], [1, [0]], [1, [], 2]]),
        ({"a": 1, "b": "exists"}, [{"a": 1, "b": 2}], [{"a": 1}, {"a": 1, "b": 2, "c": 3}, 1]),
        ({"$exists": True}, [0, ""], [None, MISSING]),
        ({"$exists": False}, [MISSING], [None, 0]),
        ({"$exists": True, "$type": "string"}, ["x"], [1, None, MISSING]),
        ({"$type": "string"}, ["x"], [1, None]),
        ({"$type": "number"}, [1, 1.5], [True, "1"]),
        ({"$type": "boolean"}, [True], [1]),
        ({"$type": "null"}, [None], [MISSING, 0]),
        ({"$type": "array"}, [[]], [{}, MISSING]),
        ({"$type": "object"}, [{}], [[]]),
        ({"$eq": {"a": [1]}}, [{"a": [1]}], [{"a": [True]}, {"a": [1], "b": 2}, MISSING]),
        ({"$match": "^a"}, ["abc"], ["bc", 1, MISSING]),
        ({"$in": [200, "string:nonempty"]}, [200, "x"], [201, "", MISSING]),
        ({"$or": ["array:empty", {"$type": "null"}]}, [[], None], [[1], MISSING]),
        ({"$size": 2}, [[1, 2]], [[1], "ab", {}]),
        ({"$size": {"$gte": 1}}, [[1]], [[], None]),
        ({"$gt": 1}, [2], [1, "2"]),
        ({"$gte": 1}, [1], [0, True]),
        ({"$lt": 1}, [0], [1]),
        ({"$lte": 1}, [1], [2, None]),
        ({"range": {"min": 1, "max": 3}}, [1, 3], [0, 4, "2", MISSING]),
        ({"range": {"min": 1}}, [99], [0]),
    ],
)
def test_matcher_accepts_and_refuses(matcher: Any, accepted: list[Any], refused: list[Any]) -> None:
    validate(matcher)
    for value in accepted:
        assert explain(matcher, value) is None
    for value in refused:
        assert explain(matcher, value) is not None


def test_subset_objects_ignore_other_keys_at_every_depth() -> None:
    matcher = {"a": {"b": 1}}
    value = {"a": {"b": 1, "c": 2}, "d": 3}

    assert explain(matcher, value, subset=True) is None
    assert explain(matcher, value) is not None
    assert explain(matcher, {"a": {"c": 2}}, subset=True) is not None


@pytest.mark.parametrize(
    "matcher",
    [
        "string:uuidv8",
        "number:odd",
        "array:length:x",
        {"$near": 1},
        {"$exists": True, "key": 1},
        {"$in": ["string:what"]},
        {"$type": "integer"},
    ],
)
def test_unknown_vocabulary_is_a_suite_error(matcher: Any) -> None:
    with pytest.raises(SuiteError):
        validate(matcher)
