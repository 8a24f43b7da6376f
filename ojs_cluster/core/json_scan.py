"""Scan large JSON in small steps: nesting, digits of numbers, length of keys, number of items.

Each step is one call of a regular expression or of ``bytes.translate`` on at most ``_CHUNK`` bytes.
Python switches threads only between such calls. So a thread that scans 16 MB blocks the event loop
for a few milliseconds at a time. A single call on the whole text would block it for a second.

The scan accepts text that is not JSON; the decoder refuses it later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

_CHUNK: Final = 32_768
# Possessive quantifiers never backtrack, so each match takes linear time. A unit is text without
# quotes, or a whole string.
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
"""Maximum length of an object's key, in bytes as sent.

JSON parsers of workers limit the length of keys, the strictest of them to 50 000 characters. The
limit here is lower, so that every key fits into one chunk with its quotes.
"""


class TooDeep(Exception):
    """The JSON nests deeper than allowed."""


class LongNumber(Exception):
    """A number has more digits than allowed."""


class LongKey(Exception):
    """A key is longer than ``LONGEST_KEY``."""


def _outside(raw: bytes) -> Iterator[bytes]:
    """Yield the text outside of strings in chunks, with a blank for each string.

    Raises:
        LongKey: a key is too long.
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
    """Return the end of the string that begins at ``start``, or the end of the text."""
    at = start + 1
    while at < len(raw):
        match = _INSIDE.match(raw, at, at + _CHUNK)
        end = at if match is None else match.end()
        if raw[end : end + 1] == b'"':
            if end - start - 1 > LONGEST_KEY and _COLON.match(raw, end + 1):
                raise LongKey
            return end + 1
        # If a chunk ends after a backslash, the next chunk begins with it.
        at = max(end, at + 1)
    return len(raw)


def scan(raw: bytes, *, depth: int, digits: int) -> None:
    """Check nesting, numbers and keys of a large text.

    Args:
        raw: the text, in UTF-8.
        depth: maximum number of nested levels.
        digits: maximum number of digits of one number.

    Raises:
        TooDeep: the text has more than ``depth`` levels.
        LongNumber: a number has more than ``digits`` digits.
        LongKey: a key is longer than ``LONGEST_KEY``.
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
        # A number may continue in the next piece. `rest` is the end of this piece that may belong
        # to it. A regular expression is not used to find this end, because it would start again at
        # each byte of a run of digits, which takes quadratic time.
        end = joined[-(2 * digits + 16) :]
        rest = end[len(end.rstrip(_OF_NUMBERS)) :]


def has_more_items(raw: bytes, most: int) -> bool:
    """Return whether an array has more than ``most`` items, without decoding it."""
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
