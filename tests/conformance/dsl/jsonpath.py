"""Paths to a place in a JSON document: ``$.jobs[0].meta["a.b"].c``.

Supported are keys, quoted keys, indexes, ``[*]`` and ``[?(@.key=='value')]``. A key that is missing
at the end of a path is ``MISSING``, which matches "absent". A path that ends earlier is a
``PathError``, because "absent" has no meaning if the parent does not exist.

A dot is also a legal character of a JSON key, and several suites use ``meta.ojs.codec.key_id``
where ``meta`` has the one key "ojs.codec.key_id". So a key that is not found is tried again, joined
with the following keys.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final


class PathError(Exception):
    """The path is malformed, or a parent of its place does not exist."""


class Missing:
    """The type of ``MISSING``: the parent exists, the last key or index does not."""

    def __repr__(self) -> str:
        return "<missing>"


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class Key:
    name: str


@dataclass(frozen=True, slots=True)
class Index:
    number: int


@dataclass(frozen=True, slots=True)
class Wildcard:
    """Every element of an array; the rest of the path is resolved in each."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The only element of an array whose ``key`` equals ``value`` as text."""

    key: str
    value: str


Segment = Key | Index | Wildcard | Filter

_TOKEN = re.compile(
    r"""
      \.?(?P<key>[^.\[\]]+)
    | \[(?P<index>\d+)\]
    | \[(?P<wildcard>\*)\]
    | \[\?\(@\.(?P<filter>[^=\s]+)\s*==\s*(?P<quote>['"]?)(?P<value>.*?)(?P=quote)\)\]
    | \[(?P<quoted>"(?:[^"\\]|\\.)*"|'[^']*')\]
    """,
    re.VERBOSE,
)


def parse(path: str) -> tuple[Segment, ...]:
    """Split a path into its segments. The leading ``$`` is optional.

    Raises:
        PathError: the path has unsupported syntax.
    """
    rest = path.removeprefix("$")
    segments: list[Segment] = []
    position = 0
    while position < len(rest):
        token = _TOKEN.match(rest, position)
        if token is None:
            raise PathError(f"cannot read {path!r} at {rest[position:]!r}")
        segments.append(_segment(token))
        position = token.end()
    return tuple(segments)


def _segment(token: re.Match[str]) -> Segment:
    if token["key"] is not None:
        return Key(token["key"])
    if token["index"] is not None:
        return Index(int(token["index"]))
    if token["wildcard"] is not None:
        return Wildcard()
    if token["filter"] is not None:
        return Filter(token["filter"], token["value"])
    quoted = token["quoted"]
    return Key(str(json.loads(quoted)) if quoted[0] == '"' else quoted[1:-1])


def resolve(path: str, document: Any) -> Any:
    """Return the value at ``path``, or ``MISSING``.

    Raises:
        PathError: the path is malformed, ends before its last segment, or a filter matches several
            elements.
    """
    return _walk(parse(path), document, path)


def _walk(segments: tuple[Segment, ...], value: Any, path: str) -> Any:
    if not segments:
        return value
    if isinstance(value, Missing):
        raise PathError(f"{path!r} breaks off before {segments[0]}")
    head, rest = segments[0], segments[1:]
    match head:
        case Key():
            return _key(segments, value, path)
        case Index(number):
            items = _array(value, head, path)
            return _walk(rest, items[number] if number < len(items) else MISSING, path)
        case Wildcard():
            found = [_walk(rest, item, path) for item in _array(value, head, path)]
            if any(isinstance(item, Missing) for item in found):
                raise PathError(f"{path!r}: an element lacks the rest of the path")
            return found
        case Filter(key, wanted):
            hits = [item for item in _array(value, head, path) if _text_at(item, key) == wanted]
            if len(hits) > 1:
                raise PathError(f"{path!r} matches {len(hits)} elements, expected at most one")
            return _walk(rest, hits[0] if hits else MISSING, path)


def _key(segments: tuple[Segment, ...], value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise PathError(f"{path!r}: {segments[0]} asked of {_kind(value)}")
    broken: PathError | None = None
    joined = ""
    for length, segment in enumerate(segments, start=1):
        if not isinstance(segment, Key):
            break
        joined = f"{joined}.{segment.name}" if joined else segment.name
        if joined in value:
            try:
                return _walk(segments[length:], value[joined], path)
            except PathError as error:
                broken = broken or error
    if broken is not None:
        raise broken
    return _walk(segments[1:], MISSING, path)


def _array(value: Any, segment: Segment, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise PathError(f"{path!r}: {segment} asked of {_kind(value)}")
    return value


def _text_at(item: Any, key: str) -> str | None:
    if not isinstance(item, dict) or key not in item:
        return None
    value = item[key]
    return value if isinstance(value, str) else json.dumps(value)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
