"""Check JSON and split it into members, without converting its values.

The server returns values of ``args``, ``meta``, results and unknown attributes byte for byte.
(Rejected: to decode them to Python values. This would change 1.0, 1e400, 2**70, the order of keys,
and escapes.) These bytes become part of responses, so they must be valid JSON. One invalid value
would make a whole fetch response unreadable for its worker.

msgspec validates the syntax of values that it does not decode (numbers, escapes, lone surrogates,
control characters). It does not check UTF-8, and it accepts about a thousand nested levels, which
is more than many clients can parse. So this module checks UTF-8 and nesting before msgspec decodes.
(Rejected: orjson as the validator. It rejects numbers outside of float64, which are valid JSON.)
"""

from __future__ import annotations

import re
from functools import cache
from itertools import accumulate
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core import json_scan
from ojs_cluster.core.errors import InvalidPayload, ValidationFailed
from ojs_cluster.core.payload_limits import DEFAULT_LIMITS, PayloadLimits

Raw = msgspec.Raw
"""The bytes of one JSON value. Variables of this type are often called ``piece``."""

# The quantifiers are possessive and never backtrack. An unterminated string matches to the end of
# the text. So the search never starts again inside of a string, which would take quadratic time.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_LEVEL_CHANGES: Final = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
"""Translates a bracket to its change of the nesting level, as a signed byte: 1 or -1."""
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
MAX_SMALL_BYTES: Final = json_scan.MAX_KEY_BYTES
"""Maximum size of a text that is checked at once and not in the small steps of ``json_scan``. No
key in such a text can exceed ``MAX_KEY_BYTES``."""
_KEY_WITHOUT_ESCAPES: Final = re.compile(r"[ !#-\[\]-~]*")

_decode_object: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array: Final = msgspec.json.Decoder(list[Raw]).decode
_decode_any: Final = msgspec.json.Decoder().decode


def _nesting_exceeds(raw: bytes, depth: int) -> bool:
    """Return whether brackets outside of strings nest deeper than ``depth``, in linear time."""
    if raw.count(b"[") + raw.count(b"{") <= depth:
        return False
    changes = _STRING.sub(b"", raw).translate(_LEVEL_CHANGES, _NOT_BRACKETS)
    # Faster than the sum below for many opening brackets in a row.
    if b"\x01" * (depth + 1) in changes:
        return True
    return max(accumulate(memoryview(changes).cast("b")), default=0) > depth


def check_text(
    raw: bytes, limits: PayloadLimits = DEFAULT_LIMITS, *, outer_levels: int = 0
) -> None:
    """Check UTF-8, nesting, and the length of numbers and keys, which msgspec does not check.

    The decoder checks the syntax later.

    Args:
        raw: the text.
        limits: the limits to check.
        outer_levels: number of levels that enclose the value to which ``limits.depth`` applies.

    Raises:
        InvalidPayload: the text is not UTF-8, or has too many nested levels.
        ValidationFailed: a number or a key is too long.
    """
    depth = limits.depth + outer_levels
    if not raw.isascii():
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            raise InvalidPayload(
                f"the body is not UTF-8: invalid byte at offset {error.start}", field="body"
            ) from None
    try:
        _check_shape(raw, depth, limits.number_digits)
    except json_scan.TooDeep:
        raise InvalidPayload(f"the JSON nests deeper than {depth} levels", field="body") from None
    except json_scan.LongNumber:
        max_digits = limits.number_digits
        raise ValidationFailed(
            f"a number has at most {max_digits} digits: send a longer number as a string",
            field="body",
            limit=max_digits,
        ) from None
    except json_scan.LongKey:
        max_bytes = json_scan.MAX_KEY_BYTES
        raise ValidationFailed(
            f"a key of an object has at most {max_bytes} bytes", field="body", limit=max_bytes
        ) from None


def _check_shape(raw: bytes, depth: int, digits: int) -> None:
    """Check nesting, numbers and keys; the arguments and errors are those of ``json_scan.scan``."""
    if len(raw) > MAX_SMALL_BYTES:
        json_scan.scan(raw, depth=depth, digits=digits)
        return
    if _nesting_exceeds(raw, depth):
        raise json_scan.TooDeep
    if len(raw) > digits and _has_long_number(raw, digits):
        raise json_scan.LongNumber


def _has_long_number(raw: bytes, digits: int) -> bool:
    """Return whether a number outside of strings has more than ``digits`` digits."""
    without_strings = _STRING.sub(b" ", raw)
    return any(
        len(match[0].translate(None, b"-+.eE")) > digits
        for match in _number_longer_than(digits).finditer(without_strings)
    )


@cache
def _number_longer_than(characters: int) -> re.Pattern[bytes]:
    """Return a pattern of numbers with more than ``characters`` digits, signs, points and e."""
    return re.compile(rb"[-+.0-9eE]{%d,}+" % (characters + 1))


def members(
    raw: bytes, limits: PayloadLimits = DEFAULT_LIMITS, *, outer_levels: int = 0
) -> dict[str, Raw]:
    """Check a request body and return its members undecoded.

    If a key is repeated, its last value is returned.

    Args:
        raw: the body.
        limits: the limits to check.
        outer_levels: number of levels that enclose the value to which ``limits.depth`` applies.

    Raises:
        InvalidPayload: the body is empty, not strict JSON, not an object, or has too many levels.
        ValidationFailed: a number or a key is too long.
    """
    if not raw:
        raise InvalidPayload("the request needs a JSON body", field="body")
    check_text(raw, limits, outer_levels=outer_levels)
    try:
        return _decode_object(raw)
    except msgspec.ValidationError:
        raise InvalidPayload("the body must be a JSON object", field="body") from None
    except msgspec.DecodeError as error:
        raise InvalidPayload(f"the body is not valid JSON: {error}", field="body") from None


def object_members(raw: Raw | bytes) -> dict[str, Raw] | None:
    """Return the members of a checked value, or None when it is not an object."""
    try:
        return _decode_object(raw)
    except msgspec.ValidationError:
        return None


def stored_members(raw: bytes) -> dict[str, Raw] | None:
    """Return the members of a stored value that may be damaged, or None when it is not an object.

    Numbers beyond float64 are no damage: the server accepts and keeps them.
    """
    try:
        raw.decode()  # the decoder does not check the text of undecoded values
        return _decode_object(raw)
    except (ValueError, RecursionError):
        return None


def array_items(raw: Raw | bytes) -> list[Raw] | None:
    """Return the items of a checked value, or None when it is not an array."""
    try:
        return _decode_array(raw)
    except msgspec.ValidationError:
        return None


def value(raw: Raw | bytes) -> Any:
    """Return a checked value as a Python value.

    Raises:
        OverflowError: a number does not fit into float64, which JSON itself allows.
    """
    try:
        return _decode_any(raw)
    except msgspec.DecodeError:
        raise OverflowError("holds a number that is out of range") from None


def string(raw: Raw | bytes) -> str | None:
    """Return the text of a checked value, or None when it is not a string."""
    piece = bytes(raw)
    if piece[:1] != b'"':
        return None
    if b"\\" in piece:
        text = _decode_any(piece)
        return text if isinstance(text, str) else None
    return piece[1:-1].decode()


def show(value: object) -> str:
    """Return ``value`` for an error message, in at most 80 characters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "an array"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"  # repr refuses numbers of more than 4300 digits
    text = (
        "null"
        if value is None
        else str(value).lower()
        if value is True or value is False
        else repr(value)
    )
    return text if len(text) <= 80 else text[:77] + "..."


def key(name: str) -> bytes:
    """Return ``name`` as a JSON string, for the key of a member."""
    # Fast path: such a name needs no escapes, so formatting is cheaper than a JSON encoder.
    if _KEY_WITHOUT_ESCAPES.fullmatch(name):
        return b'"%b"' % name.encode()
    return orjson.dumps(name)


def join(members: dict[str, Raw]) -> bytes:
    """Return members joined by commas, without braces, with unchanged values."""
    return b",".join([b"%b:%b" % (key(name), bytes(piece)) for name, piece in members.items()])
