"""Draw the attempts of a job as bars along the time, the oldest at the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ojs_cluster.ui.formats import counted, duration

WIDTH: Final = 480
"""Width of the drawing, in pixels."""
ROW: Final = 14
"""Height of a bar with its gap, in pixels."""
MAX_BARS: Final = 30
"""Maximum number of bars, which are those of the last attempts."""
_MIN_WIDTH: Final = 3


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a job.

    Attributes:
        number: its number since the last manual retry.
        worker: its worker, empty if it is not known.
        at: when it started, or has ended if its start is not known, as the API writes it.
        started_s: when it started, in Unix seconds; None if it is not known.
        ended_s: when it ended, in Unix seconds; None while it runs.
        outcome: ``completed``, ``failed``, ``returned``, ``cancelled`` or ``running``.
        error: the message of its error.
    """

    number: str
    worker: str
    at: str
    started_s: float | None
    ended_s: float | None
    outcome: str
    error: str = ""

    @property
    def took(self) -> str:
        """How long it took, in words."""
        if self.started_s is None or self.ended_s is None:
            return duration(None)
        return duration((self.ended_s - self.started_s) * 1000)


@dataclass(frozen=True, slots=True)
class AttemptBar:
    """The bar of one attempt. Positions are in pixels."""

    x: int
    y: int
    width: int
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class AttemptsChart:
    """The bars of the last attempts.

    Attributes:
        bars: the bars.
        height: height of the drawing in pixels.
        words: the same in words.
    """

    bars: tuple[AttemptBar, ...]
    height: int
    words: str


def attempts_chart(attempts: Sequence[Attempt], now_s: float) -> AttemptsChart | None:
    """Return the drawing of the last attempts whose start is known; None if there is none.

    Args:
        attempts: the attempts, oldest first.
        now_s: Unix time in seconds, where the bar of a running attempt ends.
    """
    drawn = [each for each in attempts if each.started_s is not None][-MAX_BARS:]
    spans = [(each.started_s or 0, each.ended_s or now_s) for each in drawn]
    if not spans:
        return None
    first, last = min(start for start, _ in spans), max(end for _, end in spans)
    scale = (WIDTH - _MIN_WIDTH) / max(last - first, 0.001)
    bars = []
    for place, (each, (start, end)) in enumerate(zip(drawn, spans, strict=True)):
        width = max(_MIN_WIDTH, round((end - start) * scale))
        took = f", {each.took}" if each.ended_s is not None else ""
        title = f"attempt {each.number}: {each.outcome}{took}"
        bars.append(
            AttemptBar(round((start - first) * scale), place * ROW, width, each.outcome, title)
        )
    words = f"{counted(len(bars), 'attempt')} within {duration((last - first) * 1000)}"
    return AttemptsChart(tuple(bars), len(bars) * ROW, words)
