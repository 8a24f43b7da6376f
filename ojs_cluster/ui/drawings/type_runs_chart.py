"""Draw the last finished runs of a job type: as high as they took long, the oldest on the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.languages.translate import _, ngettext

STEP: Final = 9
"""Width of a bar with its gap, in pixels."""
HEIGHT: Final = 44
_LOWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Run:
    """One finished run.

    Attributes:
        job_id: its job.
        state: ``completed`` or ``discarded``.
        ended_at: when it ended, as RFC 3339.
        ran_ms: how long its last attempt ran, in milliseconds; None if it never started.
        attempts: the number of its attempts.
    """

    job_id: str
    state: str
    ended_at: str
    ran_ms: float | None
    attempts: int


@dataclass(frozen=True, slots=True)
class RunBar:
    """The bar of one run. Positions are in pixels."""

    run: Run
    x: int
    y: int
    height: int
    title: str


@dataclass(frozen=True, slots=True)
class TypeRunsChart:
    """The bars of the last runs.

    Attributes:
        bars: the bars, oldest first.
        width: width of the drawing in pixels.
        words: the same in words.
        is_cut: whether there may be earlier runs that were not found among other jobs.
    """

    bars: tuple[RunBar, ...]
    width: int
    words: str
    is_cut: bool


def type_runs_chart(runs: Sequence[Run], *, is_cut: bool = False) -> TypeRunsChart | None:
    """Return the drawing of finished runs; None if there is none.

    Args:
        runs: the runs, oldest first.
        is_cut: whether there may be earlier runs that were not found among other jobs.
    """
    if not runs:
        return None
    took = [run.ran_ms for run in runs if run.ran_ms is not None]
    longest = max(took, default=0) or 1
    bars = []
    for place, run in enumerate(runs):
        height = max(_LOWEST, round((run.ran_ms or 0) / longest * HEIGHT))
        title = ngettext(
            "%(state)s, ran %(took)s, %(number)s attempt",
            "%(state)s, ran %(took)s, %(number)s attempts",
            run.attempts,
            state=run.state,
            took=duration(run.ran_ms),
            number=number(run.attempts),
        )
        bars.append(RunBar(run, place * STEP, HEIGHT - height, height, title))
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    words = ngettext(
        "The last %(number)s finished run: %(states)s",
        "The last %(number)s finished runs: %(states)s",
        len(runs),
        number=number(len(runs)),
        states=states,
    )
    if took:
        words = _(
            "%(runs)s; half of them ran %(median)s or less, the longest %(longest)s",
            runs=words,
            median=duration(median(took)),
            longest=duration(max(took)),
        )
    return TypeRunsChart(tuple(bars), len(bars) * STEP, words, is_cut)
