"""Matchers: what a suite expects of one value.

A matcher is a literal, a word such as `string:uuidv7`, an object of operators
such as `{"$exists": true, "$type": "string"}`, or an array or object of
matchers. `explain` answers None when the value matches, else a sentence.

Read more strictly than the published runner does:
- every operator of an object must hold, and an unknown operator or word of a
  known family (`string:...`) is a `SuiteError`;
- `absent` and `{"$exists": false}` mean the key is not there, null does not do;
- a literal object matches an object of exactly these keys, so that "the args
  come back unchanged" also means that nothing was added. `expect` blocks list
  only some keys; for them `subset=True`.
- true is not 1, and text is not a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from tests.conformance.dsl.jsonpath import MISSING, Missing


class SuiteError(Exception):
    """A suite file has something that this runner does not understand."""


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUIDV7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_FAMILY = re.compile(r"(string|number|array|object|boolean|one_of):")
_APPROXIMATE = re.compile(r"~(\d+(?:\.\d+)?)")
_RANGE = re.compile(r"number:range\((-?\d+(?:\.\d+)?),\s*(-?\d+(?:\.\d+)?)\)")
_LENGTH = re.compile(r"array:length[:(](\d+)\)?")
_MIN_LENGTH = re.compile(r"array:min(?:_length)?:(\d+)")
_PREFIXED = re.compile(r"(string:contains|contains|not_contains|one_of):(.+)", re.DOTALL)
_PATTERN = re.compile(r"string:pattern\((.*)\)")

TOLERANCE: Final = 0.5
"""``~1000`` accepts half of it more or less (the default of the suites)."""

_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}

_WORDS: Final[dict[str, Callable[[Any], bool]]] = {
    "any": lambda value: _present(value),
    "exists": lambda value: _present(value),
    "absent": lambda value: isinstance(value, Missing),
    "string:nonempty": lambda value: isinstance(value, str) and value != "",
    "string:non_empty": lambda value: isinstance(value, str) and value != "",
    "string:uuid": lambda value: isinstance(value, str) and bool(_UUID.fullmatch(value)),
    "string:uuidv7": lambda value: isinstance(value, str) and bool(_UUIDV7.fullmatch(value)),
    "string:datetime": lambda value: isinstance(value, str) and _is_datetime(value),
    "number:positive": lambda value: _is_number(value) and value > 0,
    "number:non_negative": lambda value: _is_number(value) and value >= 0,
    "array:nonempty": lambda value: isinstance(value, list) and value != [],
    "array:empty": lambda value: value == [],
}


def explain(matcher: Any, value: Any, *, subset: bool = False) -> str | None:
    """Return None when ``value`` (a JSON value or ``MISSING``) matches, else what is wrong.

    Raises:
        SuiteError: the matcher is not understood.
    """
    if isinstance(matcher, str):
        matches = _word(matcher)(value)
        return None if matches else _mismatch(matcher, value)
    if isinstance(matcher, dict):
        return _object(matcher, value, subset)
    if isinstance(matcher, list):
        return _list(matcher, value, subset)
    return None if _same_scalar(matcher, value) else _mismatch(matcher, value)


def validate(matcher: Any) -> None:
    """Check every word and operator in ``matcher``.

    Raises:
        SuiteError: one of them is unknown.
    """
    if isinstance(matcher, str):
        _word(matcher)
    elif isinstance(matcher, list):
        for item in matcher:
            validate(item)
    elif isinstance(matcher, dict) and _is_operators(matcher):
        for name, operand in matcher.items():
            if name in ("$in", "$or", "$size"):
                validate(operand)
            elif name == "$type" and operand not in _TYPES:
                raise SuiteError(f"unknown type {operand!r}")
    elif isinstance(matcher, dict):
        for item in matcher.values():
            validate(item)


def _word(word: str) -> Callable[[Any], bool]:
    """Return the predicate of a string matcher; a string of no family is a literal."""
    if word in _WORDS:
        return _WORDS[word]
    if found := _APPROXIMATE.fullmatch(word):
        middle = float(found[1])
        return lambda value: _is_number(value) and abs(value - middle) <= middle * TOLERANCE
    if found := _RANGE.fullmatch(word):
        low, high = float(found[1]), float(found[2])
        return lambda value: _is_number(value) and low <= value <= high
    if found := _LENGTH.fullmatch(word):
        length = int(found[1])
        return lambda value: isinstance(value, list) and len(value) == length
    if found := _MIN_LENGTH.fullmatch(word):
        least = int(found[1])
        return lambda value: isinstance(value, list) and len(value) >= least
    if found := _PATTERN.fullmatch(word):
        pattern = re.compile(found[1])
        return lambda value: isinstance(value, str) and bool(pattern.search(value))
    return _prefixed(word)


def _prefixed(word: str) -> Callable[[Any], bool]:
    found = _PREFIXED.fullmatch(word)
    if found is None:
        if _FAMILY.match(word):
            raise SuiteError(f"unknown matcher {word!r}")
        return lambda value: bool(value == word)
    family, operand = found.groups()
    if family == "string:contains":
        return lambda value: isinstance(value, str) and operand in value
    if family == "one_of":
        choices = operand.split(",")
        return lambda value: _is_number(value) and str(value) in choices
    wanted = family == "contains"
    return lambda value: isinstance(value, list) and (operand in map(_text, value)) == wanted


def _object(matcher: dict[str, Any], value: Any, subset: bool) -> str | None:
    if _is_operators(matcher):
        for name, operand in matcher.items():
            if not _OPERATORS[name](operand, value):
                return _mismatch({name: operand}, value)
        return None
    if not isinstance(value, dict):
        return _mismatch(matcher, value)
    if not subset and (added := sorted(value.keys() - matcher.keys())):
        return f"keys {added} were not expected in {_show(value)}"
    for key, item in matcher.items():
        if wrong := explain(item, value.get(key, MISSING), subset=subset):
            return f"{key}: {wrong}"
    return None


def _is_operators(matcher: dict[str, Any]) -> bool:
    named = {key for key in matcher if key.startswith("$")}
    if not named:
        return matcher.keys() == {"range"} and isinstance(matcher["range"], dict)
    if unknown := matcher.keys() - _OPERATORS.keys():
        raise SuiteError(f"unknown operators {sorted(unknown)} in {matcher}")
    return True


def _list(matcher: list[Any], value: Any, subset: bool) -> str | None:
    if not isinstance(value, list) or len(value) != len(matcher):
        return _mismatch(matcher, value)
    for position, (item, actual) in enumerate(zip(matcher, value, strict=True)):
        if wrong := explain(item, actual, subset=subset):
            return f"[{position}]: {wrong}"
    return None


def _size(operand: Any, value: Any) -> bool:
    return isinstance(value, list) and explain(operand, len(value)) is None


def _range(operand: Any, value: Any) -> bool:
    low, high = operand.get("min", float("-inf")), operand.get("max", float("inf"))
    return _is_number(value) and low <= value <= high


_OPERATORS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "$exists": lambda operand, value: _present(value) if operand else isinstance(value, Missing),
    "$type": lambda operand, value: _TYPES[operand](value),
    "$eq": lambda operand, value: _same(operand, value),
    "$match": lambda operand, value: isinstance(value, str) and bool(re.search(operand, value)),
    "$in": lambda operand, value: any(explain(item, value) is None for item in operand),
    "$or": lambda operand, value: any(explain(item, value) is None for item in operand),
    "$size": _size,
    "$gt": lambda operand, value: _is_number(value) and value > operand,
    "$gte": lambda operand, value: _is_number(value) and value >= operand,
    "$lt": lambda operand, value: _is_number(value) and value < operand,
    "$lte": lambda operand, value: _is_number(value) and value <= operand,
    "range": _range,
}


def _present(value: Any) -> bool:
    return value is not None and not isinstance(value, Missing)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_datetime(text: str) -> bool:
    if not _DATETIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _same_scalar(expected: Any, value: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool) or value is None:
        return value is expected
    return bool(value == expected)


def _same(expected: Any, value: Any) -> bool:
    return not isinstance(value, Missing) and json.dumps(expected, sort_keys=True) == json.dumps(
        value, sort_keys=True
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _mismatch(matcher: Any, value: Any) -> str:
    return f"expected {json.dumps(matcher)}, got {_show(value)}"


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, Missing) else json.dumps(value)
