from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ojs_cluster.core.errors import InvalidPayload, ValidationFailed
from ojs_cluster.core.json_scan import MAX_KEY_BYTES
from ojs_cluster.core.payload_limits import PayloadLimits
from ojs_cluster.core.raw_json import join, key, members, show, string, value
from tests.core import json_texts


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _refuse_lone_surrogates(found: Any) -> None:
    json.dumps(found, ensure_ascii=False).encode("utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_lone_surrogates(pairs)  # here, because a repeated key hides what stood before it
    return dict(pairs)


def strict_json(raw: bytes) -> Any:
    """An independent judge: the standard library, without its extensions. ValueError if invalid."""
    parsed = json.loads(raw.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_object)
    _refuse_lone_surrogates(parsed)
    return parsed


NOT_JSON = [
    b"01",
    b"-01",
    b"1.",
    b".5",
    b"+1",
    b"-",
    b"1e",
    b"1e+",
    b"0x10",
    b"1_0",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nul",
    b"True",
    b"'a'",
    b'"a',
    b'"\n"',
    b'"\x00"',
    b'"\\x41"',
    b'"\\u12"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\xff"',
    b'"\xc0\x80"',
    b'"\xed\xa0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"\xf0\x9f\x98"',
    b'{"\xff":1}',
    b'{"\\ud800":1}',
    b"[1,]",
    b"[1 2]",
    b"[,1]",
    b'{"a":1,}',
    b"{a:1}",
    b"{1:2}",
    b'{"a" 1}',
    b"[1]]",
    b"[1}",
    b"1 /*c*/",
    b"1//c",
    b"\xc2\xa01",
    b"\x0b1",
    b"1\x00",
]


@pytest.mark.parametrize("piece", NOT_JSON)
@pytest.mark.parametrize("around", [b'{"x":%b}', b'{"x":[0,%b]}', b'{"x":{"y":[%b]},"z":1}'])
def test_invalid_json_is_refused_however_deep_it_is_hidden(piece: bytes, around: bytes) -> None:
    with pytest.raises(InvalidPayload) as caught:
        members(around % piece)
    assert caught.value.field == "body"


@pytest.mark.parametrize(
    "body", [b"", b" ", b"[]", b"null", b'"a"', b"1", b"{} {}", b"\xef\xbb\xbf{}"]
)
def test_a_body_that_is_not_one_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidPayload):
        members(body)


@given(json_texts.objects)
def test_every_strict_object_is_accepted_and_its_values_keep_their_bytes(text: str) -> None:
    raw = text.encode()
    pieces = members(raw)
    assert strict_json(b"{" + join(pieces) + b"}") == strict_json(raw)
    for piece in pieces.values():
        assert bytes(piece) in raw


@given(
    raw=json_texts.objects.map(str.encode),
    where=st.floats(0, 1, exclude_max=True),
    removed=st.integers(0, 2),
    junk=st.one_of(st.binary(max_size=2), st.sampled_from([b'"', b"\\", b"[", b",", b"\\ud800"])),
)
@example(b'{"a":""}', 0.75, 0, b"\\ud800")
@example(b'{"a":"","a":1}', 0.429, 0, b"\\ud800")
def test_a_damaged_body_is_accepted_only_if_it_is_still_strict_json(
    raw: bytes, where: float, removed: int, junk: bytes
) -> None:
    at = int(where * len(raw))
    damaged = raw[:at] + junk + raw[at + removed :]
    try:
        judged = isinstance(strict_json(damaged), dict)
    except ValueError:
        judged = False
    try:
        members(damaged)
    except InvalidPayload:
        assert not judged
    else:
        assert judged


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"b":'])
def test_depth_is_counted_in_arrays_and_objects_alike(opening: bytes) -> None:
    levels = opening.count(b"[") + opening.count(b"{")
    closing = b"".join({ord("["): b"]", ord("{"): b"}"}.get(c, b"") for c in reversed(opening))
    fits = 12 // levels
    assert members(
        b'{"x":' + opening * fits + b"1" + closing * fits + b"}", PayloadLimits(depth=13)
    )
    with pytest.raises(InvalidPayload, match="deeper than 12"):
        members(b'{"x":' + opening * fits + b"1" + closing * fits + b"}", PayloadLimits(depth=12))


def test_width_does_not_count_as_depth() -> None:
    assert members(b'{"x":[' + b"[[]],{}," * 5000 + b"1]}", PayloadLimits(depth=4))
    with pytest.raises(InvalidPayload, match="deeper than 3"):
        members(b'{"x":[' + b"[[]],{}," * 5000 + b"1]}", PayloadLimits(depth=3))


def test_brackets_inside_strings_do_not_count_as_depth() -> None:
    text = b'"' + b'[{\\"[' * 1000 + b'\\\\"'
    assert bytes(members(b'{"x":' + text + b',"y":[1]}', PayloadLimits(depth=2))["x"]) == text


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        b'{"x":[' + b'"[",[' * 100_000,
        b'{"x":' + b"[" * 100 + b'"' + b'\\"' * 200_000,
        b'{"x":' + b"[" * 100 + b'"\\' * 200_000,
    ],
    ids=["balanced", "open", "objects", "with strings", "unterminated", "backslashes"],
)
def test_a_nesting_bomb_is_refused_without_recursion(bomb: bytes) -> None:
    # Quadratic time or a stack would show as a test that hangs for minutes or a crash.
    with pytest.raises(InvalidPayload):
        members(bomb)


def test_of_a_repeated_key_the_last_wins_whatever_its_spelling() -> None:
    assert {k: bytes(v) for k, v in members(b'{"a":1,"b":2,"\\u0061":3}').items()} == {
        "a": b"3",
        "b": b"2",
    }


@given(st.text())
def test_a_key_is_written_as_valid_json(name: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in name):
        return
    assert json.loads(key(name)) == name


@given(json_texts.strings)
def test_a_string_piece_has_the_text_it_spells(text: str) -> None:
    assert string(text.encode()) == json.loads(text)


@pytest.mark.parametrize("piece", [b"1", b"null", b"[]", b'{"a":"b"}', b"true"])
def test_a_piece_that_is_no_string_has_no_text(piece: bytes) -> None:
    assert string(piece) is None


def test_a_number_outside_of_float64_has_no_python_value() -> None:
    with pytest.raises(OverflowError):
        value(b'{"a":1e400}')


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (None, "null"),
        (True, "true"),
        (-3, "-3"),
        ("a'b", '"a\'b"'),
        ([1], "an array"),
        ({}, "an object"),
    ],
)
def test_error_messages_show_values_briefly(shown: object, text: str) -> None:
    assert show(shown) == text


def test_error_messages_do_not_write_out_huge_numbers() -> None:
    assert show(10**5000) == "a number of more than 64 bits"


def test_error_messages_cut_long_text() -> None:
    assert len(show("x" * 1000)) == 80


@pytest.mark.parametrize(
    "number",
    [b"%b", b"-%b", b"%b.0", b"0.%b", b"1e%b", b"1E-%b", b"%be5"],
)
def test_numbers_have_a_bounded_number_of_digits(number: bytes) -> None:
    limits = PayloadLimits(number_digits=20)

    def body(digits: int) -> bytes:
        rest = digits - sum(character in b"0123456789" for character in number.replace(b"%b", b""))
        return b'{"text":"%b","args":[1,%b]}' % (b"7" * 100, number % (b"8" * rest))

    assert members(body(20), limits)
    with pytest.raises(ValidationFailed, match="at most 20 digits") as refused:
        members(body(21), limits)
    assert refused.value.details == {"field": "body", "limit": 20}


def test_digits_in_strings_and_of_several_numbers_are_no_long_number() -> None:
    many = b",".join([b"1234567890"] * 100)
    assert members(
        b'{"a":"%b","b":[%b],"c":"\\"%b"}' % (b"9" * 99, many, b"9" * 99),
        PayloadLimits(number_digits=10),
    )


@pytest.mark.parametrize("space", [b"", b" ", b"\t\n "])
@pytest.mark.parametrize(("letter", "counts"), [(b"k", 1), (b'\\"', 2), ("é".encode(), 2)])
def test_keys_have_a_bounded_length(letter: bytes, counts: int, space: bytes) -> None:
    times = MAX_KEY_BYTES // counts

    def body(letters: bytes) -> bytes:
        return b'{"a":["%b","x"],"o":[{"%b"%b:1}]}' % (letter * 2 * MAX_KEY_BYTES, letters, space)

    assert members(body(letter * times))
    with pytest.raises(ValidationFailed, match="a key of an object has at most"):
        members(body(letter * (times + 1)))


def test_a_key_that_begins_with_a_colon_and_a_string_that_does_not_end_are_no_long_keys() -> None:
    assert members(b'{"a":[%b],":k":1}' % b",".join([b"1"] * MAX_KEY_BYTES))
    with pytest.raises(InvalidPayload, match="not valid JSON"):
        members(b'{"a":"%b' % (b"x" * 2 * MAX_KEY_BYTES))
