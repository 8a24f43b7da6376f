"""Split a long list into portions that one script may process, by count and by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PORTION_BYTES = 2 * 1024 * 1024
"""Most bytes of a portion, unless one item alone is larger: about 4 ms of the script's node."""
PORTION_KEYS = 400
"""Most small hashes or locks that one script visits."""


def portion_ranges(
    sizes: Sequence[int], most: int, most_bytes: int = PORTION_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield start and end of each portion of a list.

    Args:
        sizes: size of each item in bytes.
        most: most items of a portion.
        most_bytes: most bytes of a portion, unless one item alone is larger.
    """
    start = bytes_ = 0
    for end, size in enumerate(sizes):
        if end > start and (end - start == most or bytes_ + size > most_bytes):
            yield start, end
            start, bytes_ = end, 0
        bytes_ += size
    if sizes:
        yield start, len(sizes)
