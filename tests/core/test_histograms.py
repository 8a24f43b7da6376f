"""Fine buckets of times: how exact their quantiles are, and how they are stored."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from ojs_cluster.core.histograms import (
    FINE_BOUNDS_MS,
    RUN_BOUNDS_MS,
    WAIT_BOUNDS_MS,
    FineTimes,
    WaitsAndRuns,
    decode_times,
)

TIMES = st.lists(st.integers(1, 3 * FINE_BOUNDS_MS[-1]), min_size=1, max_size=60)


def counted(times: list[int]) -> FineTimes:
    found = FineTimes()
    for each in times:
        found.add(each)
    return found


@given(TIMES, st.sampled_from([0.01, 0.5, 0.9, 0.95, 0.99, 1]))
def test_a_quantile_has_an_error_of_a_tenth_and_never_exceeds_the_maximum(
    times: list[int], share: float
) -> None:
    exact = sorted(times)[max(1, ceil(share * len(times))) - 1]
    found = counted(times).quantile(share)
    assert found <= max(times)
    if exact <= FINE_BOUNDS_MS[-1]:
        assert abs(found - exact) <= 0.1 * exact + 0.001
    else:
        assert found >= FINE_BOUNDS_MS[-1]


def test_the_quantiles_of_one_job_are_its_time() -> None:
    for ms in (0, 1, 175, 600_000, 40 * 86_400_000):
        assert [counted([ms]).quantile(share) for share in (0.5, 0.95, 1)] == [ms] * 3
    assert FineTimes().quantile(0.5) == 0


def test_each_fine_bucket_lies_in_one_bucket_of_the_metrics() -> None:
    assert {*WAIT_BOUNDS_MS, *RUN_BOUNDS_MS} < set(FINE_BOUNDS_MS)
    assert len(FINE_BOUNDS_MS) < 500, "each record could have as many numbers, twice"


@given(TIMES, TIMES)
def test_the_stored_text_has_the_same_jobs(waits: list[int], runs: list[int]) -> None:
    found = WaitsAndRuns(counted(waits), counted(runs))
    assert decode_times(found.encode().encode()) == found
    half = WaitsAndRuns(counted(waits), counted(runs))
    half.merge(WaitsAndRuns(counted(waits), counted([])))
    assert half.waits.without(counted(waits)).counts == found.waits.counts
    assert half.runs == found.runs


def test_a_damaged_text_has_no_jobs() -> None:
    assert WaitsAndRuns().encode() == ""
    for text in (b"", b"x", b"1", b"1 x 3:1", b"1 2 3", b"1 2 3:x", b"1 2 99999:1"):
        assert not decode_times(text)
