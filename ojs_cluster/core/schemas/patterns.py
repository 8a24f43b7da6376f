"""Bound the time that the patterns of a schema take to compile.

The library compiles all patterns of a schema in one call, which blocks the interpreter. The time of
one pattern depends on its text, on its compiled size, and on the sets of characters in it that are
compared without case: each takes up to 3 ms. So all three are limited for the whole schema
(docs/adr/043).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from ojs_cluster.core.errors import SchemaRefused

MAX_PATTERNS_CHARACTERS: Final = 16 * 1024
"""Maximum length of all different patterns of a schema together. They are parsed in 20 ms."""
MAX_PATTERNS_BYTES: Final = 512 * 1024
"""Maximum size of all different patterns of a schema together when compiled."""
MAX_FOLDED_SETS: Final = 12
"""Maximum number of sets of many characters that are compared without case. They take 35 ms."""
PATTERN_NS: Final = ((2048, 500), (4096, 1000), (8192, 2000), (16384, 3000), (65536, 6000))
"""The size of a compiled pattern in bytes, and its time per character in ns."""
MAX_PATTERN_BYTES: Final = PATTERN_NS[-1][0]
"""Maximum size of a compiled pattern in bytes."""

_FOLDING_FLAG: Final = re.compile(r"\(\?[A-Za-z-]*[ix]")
"""A flag that ignores case, or blanks. Blanks may hide the former."""
_BLANKS_FLAG: Final = re.compile(r"\(\?[A-Za-z-]*x")
_LARGE_SET: Final = re.compile(r"\\[pPWSDxuU]|\[\^|[^\x00-\x7f]")
"""What may stand for, or be the end of, a large set of characters."""


def pattern_times(
    patterns: Iterable[tuple[str, str]], fits: Callable[[str, int], bool]
) -> dict[str, int]:
    """Return the time per character in ns of each pattern.

    Args:
        patterns: the patterns, each with the JSON pointer of its subschema.
        fits: compiles a pattern; returns whether it is valid and at most as large as a number of
            bytes.

    Raises:
        SchemaRefused: a pattern is not valid, or the patterns are too large.
    """
    distinct: dict[str, str] = {}
    for pattern, pointer in patterns:
        distinct.setdefault(pattern, pointer)
    characters = folded = size = 0
    for pattern, pointer in distinct.items():
        characters += len(pattern)
        if characters > MAX_PATTERNS_CHARACTERS:
            raise _too_large(f"longer than {MAX_PATTERNS_CHARACTERS} characters", pointer)
        folded += folded_sets(pattern)
        if folded > MAX_FOLDED_SETS:
            raise SchemaRefused(
                f"more than {MAX_FOLDED_SETS} large sets of characters, such as [^a], \\S or \\pL, "
                "are compared without case: leave out (?i) there",
                pointer=pointer,
            )
    times: dict[str, int] = {}
    for pattern, pointer in distinct.items():
        own_size, times[pattern] = _size_and_time(pattern, pointer, fits)
        size += own_size
        if size > MAX_PATTERNS_BYTES:
            raise _too_large(f"larger than {MAX_PATTERNS_BYTES} bytes when compiled", pointer)
    return times


def folded_sets(pattern: str) -> int:
    """Return how many sets of many characters a pattern may compare without case, at most."""
    if _FOLDING_FLAG.search(pattern) is None:
        return 0
    large = len(_LARGE_SET.findall(pattern))
    # A set in brackets is folded again with what it holds.
    return large + pattern.count("[") if large or _BLANKS_FLAG.search(pattern) else 0


def _size_and_time(pattern: str, pointer: str, fits: Callable[[str, int], bool]) -> tuple[int, int]:
    for size, time_ns in PATTERN_NS:
        if fits(pattern, size):
            return size, time_ns
    raise SchemaRefused(
        f"the pattern is not valid, or is larger than {MAX_PATTERN_BYTES} bytes when compiled: it "
        "has no look-around and no back-references, and fewer or shorter repetitions make it "
        "smaller",
        pointer=pointer,
    )


def _too_large(how: str, pointer: str) -> SchemaRefused:
    return SchemaRefused(f"the patterns of the schema together are {how}", pointer=pointer)
