"""Split a long list into portions that are small enough for one script, by count and by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PORTION_BYTES = 2 * 1024 * 1024
"""Maximum bytes of a portion, unless one item is larger. It takes a script about 4 ms."""
PORTION_KEYS = 400
"""Maximum number of small hashes or locks that one script reads."""


def portion_ranges(
    sizes: Sequence[int], max_items: int, max_bytes: int = PORTION_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield the index of the first item of each portion, and the index after its last item.

    Args:
        sizes: size of each item in bytes.
        max_items: maximum number of items of a portion.
        max_bytes: maximum size of a portion in bytes, unless one item is larger.
    """
    start = portion_bytes = 0
    for end, size in enumerate(sizes):
        if end > start and (end - start == max_items or portion_bytes + size > max_bytes):
            yield start, end
            start, portion_bytes = end, 0
        portion_bytes += size
    if sizes:
        yield start, len(sizes)
