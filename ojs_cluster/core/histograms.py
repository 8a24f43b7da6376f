"""Histograms of how long jobs waited and ran (spec: ojs-observability 8.2, OBS-005)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
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


def _fine_bounds() -> tuple[int, ...]:
    """Return bounds in steps of a tenth or less, with those of ``WAIT`` and ``RUN_BOUNDS_MS``."""
    tenths = (*range(10, 25), *range(25, 50, 2), *range(50, 100, 5))
    bounds = {each * 10**power // 10 for power in range(10) for each in tenths}
    bounds |= {10**9, *WAIT_BOUNDS_MS, *RUN_BOUNDS_MS}
    return tuple(sorted(bound for bound in bounds if 0 < bound <= 10**9))


FINE_BOUNDS_MS: Final = _fine_bounds()
"""Upper bounds of the fine buckets, in milliseconds, up to 11 days. A bucket is at most a tenth
wider than its values are, so a value that is taken from a bucket has an error of 10 % at most. Each
bucket lies in one bucket of ``WAIT_BOUNDS_MS`` and in one of ``RUN_BOUNDS_MS``."""


@dataclass(slots=True)
class FineTimes:
    """How many jobs took how long, by the buckets of ``FINE_BOUNDS_MS``. Empty buckets are absent.

    Attributes:
        counts: numbers of jobs by the number of the bucket.
        max_ms: the longest time in milliseconds.
    """

    counts: dict[int, int] = field(default_factory=dict)
    max_ms: int = 0

    def add(self, ms: int) -> int:
        """Add a job that took this long, and return the number of its bucket."""
        place = bisect_left(FINE_BOUNDS_MS, ms)
        self.counts[place] = self.counts.get(place, 0) + 1
        self.max_ms = max(self.max_ms, ms)
        return place

    def merge(self, other: FineTimes) -> None:
        """Add the jobs of another histogram."""
        for place, count in other.counts.items():
            self.counts[place] = self.counts.get(place, 0) + count
        self.max_ms = max(self.max_ms, other.max_ms)

    def without(self, part: FineTimes) -> FineTimes:
        """Return the jobs that are not in a part of them. Their longest time is at most this."""
        left = {place: n - part.counts.get(place, 0) for place, n in self.counts.items()}
        return FineTimes({place: n for place, n in left.items() if n > 0}, self.max_ms)

    def quantile(self, share: float) -> float:
        """Return a quantile in milliseconds, which is at most the longest time; 0 without a job.

        The jobs of a bucket are taken to be spread evenly over it, the last one at its end.
        """
        rank = max(1, ceil(share * sum(self.counts.values())))
        for place in sorted(self.counts):
            count = self.counts[place]
            if count >= rank:
                lower = FINE_BOUNDS_MS[place - 1] if place else 0
                upper = FINE_BOUNDS_MS[place] if place < len(FINE_BOUNDS_MS) else self.max_ms
                upper = max(lower, min(upper, self.max_ms))
                return round(lower + (upper - lower) * rank / count, 3)
            rank -= count
        return 0.0


@dataclass(slots=True)
class WaitsAndRuns:
    """How long jobs waited before their first attempt, and how long the completed ones ran."""

    waits: FineTimes = field(default_factory=FineTimes)
    runs: FineTimes = field(default_factory=FineTimes)

    def __bool__(self) -> bool:
        """Return whether there is any job."""
        return bool(self.waits.counts or self.runs.counts)

    def merge(self, other: WaitsAndRuns) -> None:
        """Add the jobs of another one."""
        self.waits.merge(other.waits)
        self.runs.merge(other.runs)

    def encode(self) -> str:
        """Return the text that Redis stores; empty without a job. ``fine_times.lua`` adds it up."""
        if not self:
            return ""
        places = [*self.waits.counts.items(), *_shifted(self.runs.counts, len(FINE_BOUNDS_MS) + 1)]
        pairs = " ".join(f"{place}:{count}" for place, count in places)
        return f"{self.waits.max_ms} {self.runs.max_ms} {pairs}"


def _shifted(counts: Mapping[int, int], by: int) -> Iterable[tuple[int, int]]:
    return ((place + by, count) for place, count in counts.items())


def decode_times(text: bytes) -> WaitsAndRuns:
    """Return what ``WaitsAndRuns.encode`` wrote; what is damaged is left out."""
    found = WaitsAndRuns()
    first_run = len(FINE_BOUNDS_MS) + 1
    try:
        wait_ms, run_ms, *pairs = text.split()
        found.waits.max_ms, found.runs.max_ms = int(wait_ms), int(run_ms)
        for pair in pairs:
            place, _, count = pair.partition(b":")
            number = int(place)
            if number < first_run:
                found.waits.counts[number] = int(count)
            elif number < 2 * first_run:
                found.runs.counts[number - first_run] = int(count)
    except ValueError:
        return WaitsAndRuns()
    return found


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
