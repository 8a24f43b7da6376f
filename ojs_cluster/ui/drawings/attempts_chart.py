"""Draw the attempts of a job as bars along the time, the oldest at the top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ojs_cluster.ui.drawings.time_axis import Bar, Span, TimeAxis
from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.languages.translate import _, ngettext

WIDTH: Final = 480
"""Width of the drawing, in pixels."""
ROW: Final = 14
"""Height of a bar with its gap, in pixels."""
MAX_BARS: Final = 30
"""Maximum number of bars, which are those of the last attempts."""


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
class AttemptsChart:
    """The bars of the last attempts.

    Attributes:
        bars: the bars.
        height: height of the drawing in pixels.
        words: the same in words.
    """

    bars: tuple[Bar, ...]
    height: int
    words: str


def attempts_chart(attempts: Sequence[Attempt], now_s: float) -> AttemptsChart | None:
    """Return the drawing of the last attempts whose start is known; None if there is none.

    Args:
        attempts: the attempts, oldest first.
        now_s: Unix time in seconds, where the bar of a running attempt ends.
    """
    spans = spans_of(attempts, now_s)[-MAX_BARS:]
    if not spans:
        return None
    first, last = min(span.start_s for span in spans), max(span.end_s for span in spans)
    axis = TimeAxis(first, last, WIDTH)
    bars = [bar for row, span in enumerate(spans) for bar in axis.bars([span], row * ROW)]
    words = ngettext(
        "%(number)s attempt within %(span)s",
        "%(number)s attempts within %(span)s",
        len(bars),
        number=number(len(bars)),
        span=duration((last - first) * 1000),
    )
    return AttemptsChart(tuple(bars), len(bars) * ROW, words)


def spans_of(attempts: Sequence[Attempt], now_s: float) -> list[Span]:
    """Return the attempts whose start is known as spans of time.

    Args:
        attempts: the attempts, oldest first.
        now_s: Unix time in seconds, where the span of a running attempt ends.
    """
    return [
        Span(each.started_s, each.ended_s or now_s, each.outcome, _title(each))
        for each in attempts
        if each.started_s is not None
    ]


def _title(attempt: Attempt) -> str:
    words = _("attempt %(number)s: %(outcome)s", number=attempt.number, outcome=attempt.outcome)
    return words if attempt.ended_s is None else f"{words}, {attempt.took}"
