"""Scan large JSON in small steps: nesting, digits of numbers, length of keys, number of items.

Each step is one call of a regular expression or of ``bytes.translate`` on at most ``_CHUNK`` bytes.
Python switches threads only between such calls. So a thread that scans 16 MB blocks the event loop
for only a few milliseconds at a time. (Rejected: one call on the whole text, which would block the
event loop for a second.)

The scan also accepts text that is not JSON. The JSON decoder refuses such text later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

_CHUNK: Final = 32_768
"""Maximum number of bytes that one step scans."""
# The quantifiers are possessive and never backtrack, so each match takes linear time.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_WHOLE_STRINGS: Final = re.compile(rb'(?:[^"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)
"""Matches as much of a text as possible without stopping inside a string."""
_STRING_CONTENT: Final = re.compile(rb"(?:[^\"\\]++|\\.)*+", re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*+:")
_NUMBER_CHARACTERS: Final = b"-+.0123456789eE"
_NUMBER: Final = re.compile(rb"[-+.0-9eE]++")
_LEVEL_CHANGES: Final = bytes.maketrans(b"[]{},", b"\x01\xff\x01\xff\x00")
"""Translates a byte to its change of the nesting level, as a signed byte: 1 for an opening bracket,
-1 for a closing bracket, 0 for a comma."""
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_NOT_BRACKETS_OR_COMMAS: Final = bytes(set(range(256)) - set(b"[]{},"))
MAX_KEY_BYTES: Final = _CHUNK - 2
"""Maximum length of an object's key, in bytes as sent.

JSON parsers of workers limit the length of keys, the strictest of them to 50 000 characters. The
limit of this server is lower, so that every allowed key with its quotes fits into one chunk.
"""


class TooDeep(Exception):
    """The JSON nests deeper than allowed."""


class LongNumber(Exception):
    """A number has more digits than allowed."""


class LongKey(Exception):
    """A key is longer than ``MAX_KEY_BYTES``."""


def _chunks_without_strings(raw: bytes) -> Iterator[bytes]:
    """Yield the text in chunks, with a space in place of each string.

    Raises:
        LongKey: a key is too long.
    """
    position = 0
    while position < len(raw):
        match = _WHOLE_STRINGS.match(raw, position, position + _CHUNK)
        end = position if match is None else match.end()
        if end > position:
            yield _STRING.sub(b" ", raw[position:end])
            position = end
        else:  # a string that is longer than a chunk begins here
            position = _end_of_string(raw, position)
            yield b" "


def _end_of_string(raw: bytes, start: int) -> int:
    """Return the position after the string that begins at ``start``, at most the end of the text.

    Raises:
        LongKey: the string is a key, and too long.
    """
    position = start + 1
    while position < len(raw):
        match = _STRING_CONTENT.match(raw, position, position + _CHUNK)
        end = position if match is None else match.end()
        if raw[end : end + 1] == b'"':
            if end - start - 1 > MAX_KEY_BYTES and _COLON.match(raw, end + 1):
                raise LongKey
            return end + 1
        # A chunk that ends with the backslash of an escape matches without this backslash, and the
        # next chunk begins with it. At a single backslash that ends the whole text, the match is
        # empty, and `position + 1` ends the loop.
        position = max(end, position + 1)
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
        LongKey: a key is longer than ``MAX_KEY_BYTES``.
    """
    level, unfinished_number = 0, b""
    for chunk in _chunks_without_strings(raw):
        changes = memoryview(chunk.translate(_LEVEL_CHANGES, _NOT_BRACKETS)).cast("b")
        if len(changes):
            levels = list(accumulate(changes, initial=level))
            if max(levels) > depth:
                raise TooDeep
            level = levels[-1]
        joined = unfinished_number + chunk
        for match in _NUMBER.finditer(joined):
            if len(match[0]) > digits and len(match[0].translate(None, b"-+.eE")) > digits:
                raise LongNumber
        # A number may continue in the next chunk, so the scan keeps its last characters. A run of
        # more than `2 * digits + 16` characters that has passed the check above is mostly signs,
        # which the JSON decoder refuses. (Rejected: a regular expression that is anchored at the
        # end. It takes quadratic time for a run of digits.)
        end = joined[-(2 * digits + 16) :]
        unfinished_number = end[len(end.rstrip(_NUMBER_CHARACTERS)) :]


def has_more_items(raw: bytes, max_items: int) -> bool:
    """Return whether an array has more than ``max_items`` items, without decoding it.

    The function counts commas, so it cannot tell an empty array from an array of one item:
    ``max_items`` must be at least 1.
    """
    if raw.count(b",") < max_items:
        return False
    level = commas = 0
    for chunk in _chunks_without_strings(raw):
        changes = chunk.translate(_LEVEL_CHANGES, _NOT_BRACKETS_OR_COMMAS)
        for change in memoryview(changes).cast("b"):
            level += change
            if change == 0 and level == 1:
                commas += 1
                if commas >= max_items:
                    return True
    return False
