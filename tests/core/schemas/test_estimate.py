"""Compare the estimate with the CPU time that the library takes.

An estimate may be much too high: the validation then runs in another process. It must not be too
low. The time is CPU time, the best of several, and may be a few times the estimate.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ojs_cluster.core.schemas.compiled import HERE_BYTES, CompiledSchema
from ojs_cluster.core.schemas.cost import HERE_NS, HERE_STEPS
from ojs_cluster.core.schemas.numbers import is_unusual, may_hold_unusual

SLACK = 5
"""Factor by which the CPU time of a busy machine may exceed the estimate."""
FIXED_NS = 2_000_000
"""CPU time in ns that any call may take: caches are cold, and the clock has steps."""
STEP_NS = 1_000
"""CPU time in ns of one step of an estimate."""
KEYWORDS = ("multipleOf", "minimum", "exclusiveMaximum", "enum", "const", "uniqueItems", "type")

CLASSES = {
    "small": st.integers(-1000, 1000),
    "exact": st.integers(10**14, 2**53),
    "64 bits": st.integers(2**53, 2**64 - 1) | st.integers(-(2**63), -(2**53)),
    "20 digits": st.integers(10**19, 10**20),
    "309 digits": st.integers(10**308, 10**309),
    "4000 digits": st.integers(0, 1000).map(lambda n: 10**3999 + n),
    "cents": st.integers(1, 10**6).map(lambda n: n / 100),
    "float": st.floats(0.001, 1e6),
    "whole": st.integers(1, 10**6).map(float),
    "large": st.floats(1e14, 1e15) | st.floats(1e16, 1e19),
    "huge": st.floats(1e300, 1.7e308),
    "tiny": st.floats(1e-15, 1e-9),
    "minute": st.floats(1e-300, 1e-290) | st.floats(5e-324, 1e-320),
    "text": st.integers(0, 10**9).map(str),
}
numbers_of_a_class = st.sampled_from(sorted(CLASSES)).flatmap(
    lambda name: st.lists(CLASSES[name], min_size=1, max_size=6)
)


def schema_of(keyword: str, values: list[Any], nested: bool) -> Any:
    fitting = 40_000 // max(len(str(each)) for each in values)
    if keyword == "enum":
        many = [values[n % len(values)] for n in range(min(300 if not nested else 40, fitting))]
        return {"enum": [[each, n] for n, each in enumerate(many)] if nested else many}
    if keyword == "const":
        return {"const": [*values * 20][:fitting] if nested else values[0]}
    if keyword == "uniqueItems":
        return {"uniqueItems": True}
    if keyword == "type":
        return {"type": ["number", "null"]}
    number = next((each for each in values if not isinstance(each, str) and each), 1)
    return {keyword: abs(number) if keyword == "multipleOf" else number}


def args_of(keyword: str, values: list[Any], size: int, nested: bool) -> Any:
    many = [values[n % len(values)] for n in range(size)]
    # Each of the values differs from the others, and the items of an array begin alike.
    various = [each + n if isinstance(each, int) else each for n, each in enumerate(many)]
    if keyword == "uniqueItems":
        return [[[*many[:40], n] for n in range(min(size, 16))]] if nested else [various]
    if nested:
        return [[*values * 20], *([each, -1] for each in various)]
    return various


def cpu_ns(call: Callable[[], object]) -> int:
    """Return the CPU time of a call, the best of several."""
    times = []
    for _ in range(5):
        began = time.thread_time_ns()
        call()
        times.append(time.thread_time_ns() - began)
    return min(times)


@given(
    st.sampled_from(KEYWORDS),
    numbers_of_a_class,
    numbers_of_a_class,
    st.sampled_from([1, 5, 15, 16, 60, 250, 1000]),
    st.booleans(),
)
@example("uniqueItems", [0], [10**30], 300, False)
@example("uniqueItems", [0], [2**63 - 10**6], 300, False)
@example("uniqueItems", [0], [1.23e-300], 15, True)
@example("uniqueItems", [0], [0.1234567], 15, True)
@example("enum", [1.5e300], [10**308], 250, False)
@example("enum", [2**53 + 1], [5e-324], 250, False)
@example("multipleOf", [0.01], [1e308], 1000, False)
@example("multipleOf", [5e-324], [7], 1000, False)
@example("minimum", [5e-324], [5e-324], 1000, False)
@example("type", [0], [10**3999], 5, False)
def test_no_validation_here_takes_much_longer_than_estimated(
    keyword: str, of_schema: list[Any], of_args: list[Any], size: int, nested: bool
) -> None:
    schema = CompiledSchema(
        json.dumps({"items": schema_of(keyword, of_schema, nested)}).encode(),
    )
    args = json.dumps(args_of(keyword, of_args, size, nested)).encode()
    if schema.check_here(args, explain=False) is None:
        return
    value = msgspec.json.decode(args)
    coarse = schema._cost.coarse_ns(args)
    if coarse is None or coarse > HERE_NS:
        assert len(args) <= HERE_BYTES
        exact = schema._cost.exact(value, here=True)
        assert exact is not None
        coarse = exact.ns
    assert coarse <= HERE_NS
    assert cpu_ns(lambda: schema._validator.is_valid(value)) <= SLACK * coarse + FIXED_NS


MANY = {f"{n:x}": 1 for n in range(4000)}
"""An object of 32 KB."""
NODES: dict[str, Any] = {
    "no part": {"minProperties": 1},
    "absent properties": {"properties": {"absent": {}, "none": {}}},
    "present properties": {"properties": {"1": {}, "none": {}}},
    "many properties": {"properties": {f"absent {n}": {} for n in range(700)}},
    "additional": {"additionalProperties": {}},
    "names": {"propertyNames": {}},
    "patterns": {"patternProperties": {"^none": {}}},
    "unevaluated": {"unevaluatedProperties": {}, "unevaluatedItems": {}},
    "items": {"items": {}},
    "first items": {"prefixItems": [{}, {}], "items": {}},
    "contains": {"contains": {}},
    "unique": {"uniqueItems": True},
    "containers": {"enum": [[1], {"a": 1}]},
    "dependent": {"dependentRequired": {"absent": ["none"]}, "dependentSchemas": {"absent": {}}},
}
"""Subschemas that each follow the parts of a value in another way."""
VALUES: dict[str, Any] = {
    "object": MANY,
    "small objects": [{"1": 1, "2": 2}] * 1500,
    "object in itself": {"1": {"1": MANY}},
    "array": [*range(5000)],
    "arrays": [[[*range(500)]] * 10],
    "short texts": ["a"] * 5000,
    "long text": "a" * 30_000,
}


@given(
    st.lists(st.sampled_from(sorted(NODES)), min_size=1, max_size=3),
    st.sampled_from(["allOf", "anyOf", "oneOf"]),
    st.sampled_from(sorted(VALUES)),
    st.sampled_from([1, 20, 40]),
)
@example(["no part"], "allOf", "object", 40)
@example(["absent properties"], "oneOf", "object", 40)
@example(["many properties"], "allOf", "object", 40)
@example(["names", "patterns"], "anyOf", "object", 40)
def test_no_estimate_takes_long(names: list[str], keyword: str, of: str, uses: int) -> None:
    """Each subschema is used up to 1600 times for one value."""
    nodes = {name: NODES[name] for name in names}
    many = {keyword: [{"$ref": f"#/$defs/{name}"} for name in nodes] * uses}
    schema = {
        "$defs": {**nodes, "many": many},
        "items": {keyword: [{"$ref": "#/$defs/many"}] * uses},
    }
    found = CompiledSchema(json.dumps(schema).encode())
    for value in ([VALUES[of]], VALUES[of]):
        most_ns = SLACK * STEP_NS * HERE_STEPS + FIXED_NS
        assert cpu_ns(partial(found._cost.exact, value, here=True)) <= most_ns


def test_the_args_are_followed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"$defs": {"a": {"required": ["a"]}}, "allOf": [{"items": {"$ref": "#/$defs/a"}}] * 2}
    found = CompiledSchema(json.dumps(schema).encode())
    original, followed = found._cost.exact, 0

    def exact(args: Any, *, here: bool) -> Any:
        nonlocal followed
        followed += 1
        return original(args, here=here)

    monkeypatch.setattr(found._cost, "exact", exact)
    assert found.check_here(b"[{}]") != []
    assert followed == 1


@pytest.mark.parametrize(
    ("schema", "args"),
    [
        ({"uniqueItems": True}, [10**30 + n for n in range(50)]),
        ({"items": {"enum": [0.5, 10**30]}}, [10**30] * 20),
        ({"items": {"multipleOf": 0.01}}, [10**30] * 20),
        ({"items": {"minimum": 0}}, [10**300]),
        ({"items": {"type": "number"}}, [10**300]),
        ({"items": {"const": [0.5]}}, [[5e-324, 5e-324]] * 20),
    ],
    ids=str,
)
def test_numbers_of_any_length_are_never_compared_here(schema: Any, args: Any) -> None:
    found = CompiledSchema(json.dumps(schema).encode())
    assert found.check_here(json.dumps(args).encode()) is None


def test_the_usual_numbers_are_compared_here() -> None:
    order = {
        "items": {
            "properties": {
                "id": {"type": "integer", "minimum": 1},
                "amount": {"type": "number", "multipleOf": 0.01},
                "status": {"enum": [1, 2, 3]},
                "tags": {"uniqueItems": True},
            }
        }
    }
    found = CompiledSchema(json.dumps(order).encode())
    item = {"id": 1_790_000_000_000_000_001, "amount": 12.34, "status": 2, "tags": [1, 2, 3]}
    assert found.check_here(json.dumps([item] * 10).encode()) == []


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_the_scan_finds_every_unusual_number(number: float | int) -> None:
    if is_unusual(number):
        assert may_hold_unusual(json.dumps([number]).encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"[0.30000000000004, 123456789012345]", False),
        (b"[1234567890123456]", True),
        (b"[1E5]", True),
        (b'["see", "e1"]', False),
        (b"[0.0000000000000001]", True),
    ],
)
def test_the_scan_finds_long_numbers_and_exponents(text: bytes, found: bool) -> None:
    assert may_hold_unusual(text) is found
