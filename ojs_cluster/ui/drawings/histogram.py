"""Draw a histogram of times as rows of a table, each with a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

WIDTH: Final = 160
"""Width of the longest bar in pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """One bucket.

    Attributes:
        bound_ms: its upper bound in milliseconds; None for the jobs above all bounds.
        count: number of jobs.
        share: its part of all jobs, in percent.
        width: width of its bar in pixels.
    """

    bound_ms: int | None
    count: int
    share: float
    width: float


def histogram(found: Mapping[str, Sequence[int]]) -> list[Row]:
    """Return the rows of a histogram of the API, without the empty ones at both ends.

    A bucket with a job has a bar of at least a pixel.
    """
    counts, bounds = found["counts"], found["bounds_ms"]
    used = [place for place, count in enumerate(counts) if count]
    if not used:
        return []
    total, most = sum(counts), max(counts)
    return [
        Row(
            bounds[place] if place < len(bounds) else None,
            counts[place],
            round(100 * counts[place] / total, 1),
            max(1.0, round(WIDTH * counts[place] / most, 1)) if counts[place] else 0.0,
        )
        for place in range(used[0], used[-1] + 1)
    ]
