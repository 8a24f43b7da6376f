"""Large JSON is judged as small JSON is, step by step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core import json_scan
from ojs_cluster.core.errors import InvalidPayload, OJSError, ValidationFailed
from ojs_cluster.core.json_scan import (
    MAX_KEY_BYTES,
    LongKey,
    LongNumber,
    TooDeep,
    has_more_items,
    scan,
)
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.raw_json import check_text

EDGE = 32_768
"""Where a step ends."""


def judged(raw: bytes, depth: int = 10, digits: int = 20) -> str:
    """What is said of a text."""
    try:
        scan(raw, depth=depth, digits=digits)
    except (TooDeep, LongNumber, LongKey) as found:
        return type(found).__name__
    return ""


@pytest.mark.parametrize("before", range(EDGE - 30, EDGE + 3))
def test_a_long_number_is_found_wherever_a_step_cuts_it(before: int) -> None:
    assert judged(b"[" + b" " * before + b"1" * 21 + b"," + b"2" * EDGE) == "LongNumber"
    fits = b"[" + b" " * before + b"1" * 20 + b"," + b"-1.5e7," * EDGE + b"2" * 20 + b"]"
    assert judged(fits) == ""


@pytest.mark.parametrize("before", range(EDGE - 12, EDGE + 3))
def test_nesting_is_found_wherever_a_step_cuts_it(before: int) -> None:
    text = b'["' + b"[" * before + b'",%b1%b,' + b"1," * EDGE + b"1]"
    assert judged(text % (b"[" * 9, b"]" * 9)) == ""
    assert judged(text % (b"[" * 10, b"]" * 10)) == "TooDeep"


@pytest.mark.parametrize("space", [b"", b" ", b"\n" * 40])
@pytest.mark.parametrize("before", [0, EDGE - 2, EDGE - 1, EDGE, 3 * EDGE])
@pytest.mark.parametrize("letter", [b"k", b'\\"', b"\\\\", "é".encode()])
def test_long_keys_are_found_and_long_strings_are_not(
    letter: bytes, before: int, space: bytes
) -> None:
    fits = letter * (MAX_KEY_BYTES // len(letter))
    text = b'{"a":' + b" " * before + b'"%b"' + space + b',"o":{"%b"' + space + b":1}}"
    assert judged(text % (letter * EDGE * 2, fits)) == ""
    assert judged(text % (letter * EDGE * 2, fits + letter + letter)) == "LongKey"


@pytest.mark.parametrize("end", [b"", b"\\", b'\\"', b"x", b'"'])
def test_text_that_ends_anywhere_is_scanned_to_its_end(end: bytes) -> None:
    for size in (EDGE - 2, EDGE - 1, EDGE, 2 * EDGE):
        assert judged(b'["' + b"x" * size + end) == ""


SCALARS = st.one_of(
    st.none(), st.integers(-(10**25), 10**25), st.text(max_size=40), st.floats(-1e9, 1e9)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=9), inner, max_size=6)
    ),
    max_leaves=40,
)


def outcome(raw: bytes, limits: PayloadLimits) -> Any:
    try:
        check_text(raw, limits)
    except OJSError as error:
        return type(error), error.message
    return None


@given(value=VALUES, depth=st.integers(1, 5), digits=st.integers(1, 25), step=st.integers(3, 40))
def test_small_steps_judge_as_one_look_does(value: Any, depth: int, digits: int, step: int) -> None:
    raw = json.dumps(value, ensure_ascii=False).encode()
    limits = PayloadLimits(depth=depth, number_digits=digits)
    expected = outcome(raw, limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_CHUNK", step)
        patch.setattr("ojs_cluster.core.raw_json.MAX_SMALL_BYTES", 0)
        found = outcome(raw, limits)
    # A text may break both rules: which one is told first is no matter.
    assert (found is None) == (expected is None)
    if found is not None:
        assert found[0] in (InvalidPayload, ValidationFailed)


@given(items=st.lists(VALUES, max_size=12), most=st.integers(1, 12), step=st.integers(3, 40))
def test_items_are_counted_before_they_are_taken_apart(
    items: list[Any], most: int, step: int
) -> None:
    raw = json.dumps(items, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_scan, "_CHUNK", step)
        assert has_more_items(raw, most) == (len(items) > most)
