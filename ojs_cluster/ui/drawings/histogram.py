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


@dataclass(frozen=True, slots=True)
class PairedRow:
    """One bucket of two histograms. The bars of both have the same scale.

    Attributes:
        bound_ms: its upper bound in milliseconds; None for the jobs above all bounds.
        before: the bucket of the first histogram.
        after: the bucket of the second one.
    """

    bound_ms: int | None
    before: Row
    after: Row


def paired_histogram(
    bounds: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> list[PairedRow]:
    """Return the rows of two histograms, without the rows at both ends that are empty in both.

    The bars show shares, because the numbers of jobs differ.

    Args:
        bounds: the upper bounds of the buckets, in milliseconds.
        before: the numbers of jobs of the first histogram; empty for none.
        after: those of the second one.
    """
    size = len(bounds) + 1
    sides = [list(counts) or [0] * size for counts in (before, after)]
    used = [place for place in range(size) if any(counts[place] for counts in sides)]
    totals = [sum(counts) or 1 for counts in sides]
    most = max(max(counts) / total for counts, total in zip(sides, totals, strict=True)) or 1
    rows = []
    for place in range(used[0], used[-1] + 1) if used else ():
        bound = bounds[place] if place < len(bounds) else None
        pair = []
        for counts, total in zip(sides, totals, strict=True):
            share = counts[place] / total
            width = max(1.0, round(WIDTH * share / most, 1)) if counts[place] else 0.0
            pair.append(Row(bound, counts[place], round(100 * share, 1), width))
        rows.append(PairedRow(bound, *pair))
    return rows


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
