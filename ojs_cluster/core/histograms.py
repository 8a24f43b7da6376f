"""Histograms of how long jobs waited and ran (spec: ojs-observability 8.2, OBS-005)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

WAIT_BOUNDS_MS: Final = (
    *(10, 50, 100, 500, 1_000, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 600_000, 1_800_000, 3_600_000),
)
"""Upper bounds of the buckets of waits, in milliseconds. A further bucket has no upper bound."""
RUN_BOUNDS_MS: Final = (
    *(5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
    *(120_000, 300_000),
)
"""Upper bounds of the buckets of run times, in milliseconds, like those of waits."""


def quantile(buckets: Sequence[int], bounds_ms: Sequence[int], share: float) -> float:
    """Return an estimate of a quantile, as Prometheus computes it.

    Values are taken to be spread evenly over their bucket. A quantile in the last bucket is the
    largest bound, because that bucket has no end.

    Args:
        buckets: numbers of values, one for each bound and one for the values above all bounds.
        bounds_ms: upper bounds of the buckets, in milliseconds.
        share: the part of the values that are at most as large as the quantile, such as 0.95.

    Returns:
        Milliseconds; 0 without any value.
    """
    rank = share * sum(buckets)
    count_below, lower_bound = 0, 0
    for count, bound in zip(buckets, bounds_ms, strict=False):
        if count and count_below + count >= rank:
            part = max(0.0, rank - count_below) / count
            return round(lower_bound + (bound - lower_bound) * part, 3)
        count_below, lower_bound = count_below + count, bound
    return float(lower_bound) if sum(buckets) else 0.0
