"""Portions of a long list: what one script may be given, by count and by bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PORTION_BYTES = 2 * 1024 * 1024
"""Bytes of a portion at most, unless one item alone is larger: some 4 ms of the script's node."""
PORTION_KEYS = 400
"""Small hashes or locks that one script visits at most."""


def cuts(
    sizes: Sequence[int], most: int, most_bytes: int = PORTION_BYTES
) -> Iterator[tuple[int, int]]:
    """Yield start and end of each portion of a list whose items have these sizes in bytes.

    Args:
        most, most_bytes: items and bytes of a portion at most.
    """
    start = bytes_ = 0
    for end, size in enumerate(sizes):
        if end > start and (end - start == most or bytes_ + size > most_bytes):
            yield start, end
            start, bytes_ = end, 0
        bytes_ += size
    if sizes:
        yield start, len(sizes)
