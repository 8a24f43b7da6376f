"""Looks at large JSON in small steps: nesting, digits of numbers, length of keys, number of items.

Each step is one call of a regular expression or of ``bytes.translate`` on at most ``_CHUNK`` bytes.
Python hands over to another thread only between such calls, so a thread that scans 16 MB holds up
the event loop for a few milliseconds at a time; one call on all of it takes a second.

Text that is no JSON is scanned as far as it goes; the decoder refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

_CHUNK: Final = 32_768
# Possessive, so they never backtrack. A unit is a piece without quotes, or a whole string.
_UNITS: Final = re.compile(rb'(?:[^"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_INSIDE: Final = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*+:")
_OF_NUMBERS: Final = b"-+.0123456789eE"
_NUMBER: Final = re.compile(rb"[-+.0-9eE]++")
# Opening brackets become +1, closing ones -1 and commas 0, read as signed bytes.
_STEPS: Final = bytes.maketrans(b"[]{},", b"\x01\xff\x01\xff\x00")
_NO_STEPS: Final = bytes(set(range(256)) - set(b"[]{},"))
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
LONGEST_KEY: Final = _CHUNK - 2
"""Longest key of an object, in bytes as it is sent. Readers of JSON have limits of their own on
names, the strictest in wide use 50 000 characters. A longer string fits in no chunk, which is how
it is found."""


class TooDeep(Exception):
    """It nests deeper than allowed."""


class LongNumber(Exception):
    """A number has more digits than allowed."""


class LongKey(Exception):
    """A key is longer than ``LONGEST_KEY``."""


def _outside(raw: bytes) -> Iterator[bytes]:
    """Give what is outside of strings, chunk by chunk, a blank for each string.

    Raises LongKey.
    """
    at = 0
    while at < len(raw):
        match = _UNITS.match(raw, at, at + _CHUNK)
        end = at if match is None else match.end()
        if end > at:
            yield _STRING.sub(b" ", raw[at:end])
            at = end
        else:
            at = _end_of_string(raw, at)
            yield b" "


def _end_of_string(raw: bytes, start: int) -> int:
    """Give where the string that begins at ``start`` ends, or the whole text does."""
    at = start + 1
    while at < len(raw):
        match = _INSIDE.match(raw, at, at + _CHUNK)
        end = at if match is None else match.end()
        if raw[end : end + 1] == b'"':
            if end - start - 1 > LONGEST_KEY and _COLON.match(raw, end + 1):
                raise LongKey
            return end + 1
        # A backslash before the edge of a chunk is taken up by the next one.
        at = max(end, at + 1)
    return len(raw)


def scan(raw: bytes, *, depth: int, digits: int) -> None:
    """Check a large text.

    Args:
        raw: the text, in UTF-8.
        depth: levels of nesting that are allowed.
        digits: digits that one number may have.

    Raises:
        TooDeep: it nests deeper.
        LongNumber: a number has more digits.
        LongKey: a key is too long.
    """
    level, rest = 0, b""
    for piece in _outside(raw):
        steps = memoryview(piece.translate(_STEPS, _NO_BRACKETS)).cast("b")
        if len(steps):
            levels = list(accumulate(steps, initial=level))
            if max(levels) > depth:
                raise TooDeep
            level = levels[-1]
        joined = rest + piece
        for match in _NUMBER.finditer(joined):
            if len(match[0]) > digits and len(match[0].translate(None, b"-+.eE")) > digits:
                raise LongNumber
        # Not by a regular expression: it would begin again at each byte of a run before the last.
        end = joined[-(2 * digits + 16) :]
        rest = end[len(end.rstrip(_OF_NUMBERS)) :]


def has_more_items(raw: bytes, most: int) -> bool:
    """Whether an array has more than ``most`` items, found before it is taken apart."""
    if raw.count(b",") < most:
        return False
    level = commas = 0
    for piece in _outside(raw):
        for step in memoryview(piece.translate(_STEPS, _NO_STEPS)).cast("b"):
            level += step
            if step == 0 and level == 1:
                commas += 1
                if commas >= most:
                    return True
    return False
