"""Draw the last occurrences of a cron job as bars, the oldest on the left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.ui.languages.translate import ngettext

WIDTH: Final = 10
"""Width of a bar with its gap, in pixels."""
HEIGHT: Final = 32
_HEIGHTS: Final = {"triggered": 32, "failed": 32, "skipped": 12}
"""Height of a bar by its outcome. A skipped run is low, so it differs not only in its colour."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One occurrence. Positions are in pixels."""

    x: int
    y: int
    height: int
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class RunsChart:
    """The bars of the last occurrences.

    Attributes:
        bars: the bars.
        width: width of the drawing in pixels.
        words: the same in words.
    """

    bars: tuple[Bar, ...]
    width: int
    words: str


def runs_chart(history: Sequence[Mapping[str, Any]]) -> RunsChart:
    """Return the drawing of a history of the API, which has the newest occurrence first."""
    bars = []
    for place, run in enumerate(reversed(history)):
        outcome = str(run["outcome"])
        height = _HEIGHTS.get(outcome, HEIGHT)
        title = f"{run['scheduled_time']}: {outcome}"
        bars.append(Bar(place * WIDTH, HEIGHT - height, height, outcome, title))
    counts = Counter(bar.outcome for bar in bars)
    words = ngettext(
        "The last occurrence: %(outcomes)s",
        "The last %(number)s occurrences: %(outcomes)s",
        len(bars),
        number=len(bars),
        outcomes=", ".join(f"{count} {name}" for name, count in counts.items()),
    )
    return RunsChart(tuple(bars), len(bars) * WIDTH, words)
