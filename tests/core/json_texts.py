"""Hypothesis strategies for JSON *text*: all the spellings that a client may use for a value."""

from __future__ import annotations

from hypothesis import strategies as st

whitespace = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n", "  "])
numbers = st.one_of(
    st.integers().map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?\Z"),
    st.sampled_from(["1.0", "1", "-0", "-0.0", "1e400", "-1E+400", "0.1e-999", str(2**70)]),
)
_characters = st.one_of(
    st.characters(exclude_characters='"\\', min_codepoint=0x20, codec="utf-8"),
    st.sampled_from(['\\"', "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"]),
    st.sampled_from(["\\u0000", "\\u0041", "\\uABCD", "\\ud83d\\ude00", "\\uD83D\\uDE00"]),
    st.sampled_from(["\x7f", "\u00e9", "e\u0301", "\u2028", "\u65e5", "\U0001f389"]),
)
strings = st.lists(_characters, max_size=8).map(lambda parts: f'"{"".join(parts)}"')


def _array(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    padded = st.tuples(whitespace, items, whitespace).map("".join)
    return st.lists(padded, max_size=4).map(lambda parts: f"[{','.join(parts)}]")


def _object(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    # few distinct keys, so that duplicates happen
    keys = st.one_of(strings, st.sampled_from(['"a"', '"b"', '"\\u0061"', '""']))
    member = st.tuples(whitespace, keys, whitespace, st.just(":"), whitespace, values, whitespace)
    return st.lists(member.map("".join), max_size=4).map(lambda parts: f"{{{','.join(parts)}}}")


values = st.recursive(
    st.one_of(numbers, strings, st.sampled_from(["null", "true", "false", "[]", "{}"])),
    lambda inner: st.one_of(_array(inner), _object(inner)),
    max_leaves=12,
)
arrays = _array(values)
objects = _object(values)
