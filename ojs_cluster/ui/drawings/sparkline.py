"""Draw what a queue did in the last minutes as a line of 60 by 18 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ojs_cluster.ui.formats import number
from ojs_cluster.ui.languages.translate import _

HEIGHT: Final = 18


@dataclass(frozen=True, slots=True)
class Sparkline:
    """A drawing of minutes, one pixel wide each.

    Attributes:
        completed: the points of the line of completed jobs; empty if there were none.
        failed: the points of the line of failed attempts; empty if there were none.
        words: the same in words, for people who do not see the drawing.
    """

    completed: str
    failed: str
    words: str


def sparkline(minutes: Sequence[Sequence[int]]) -> Sparkline:
    """Return the drawing of minutes, both lines at the same scale.

    Args:
        minutes: completed jobs and failed attempts of each minute, the oldest first.
    """
    completed = [minute[0] for minute in minutes]
    failed = [minute[1] for minute in minutes]
    most = max([*completed, *failed], default=0)
    words = _(
        "The last %(minutes)s minutes: %(completed)s completed, at most %(most)s in a minute; "
        "%(failed)s failed attempts",
        minutes=len(minutes),
        completed=number(sum(completed)),
        most=number(max(completed, default=0)),
        failed=number(sum(failed)),
    )
    return Sparkline(_points(completed, most), _points(failed, most), words)


def _points(values: Sequence[int], most: int) -> str:
    if not any(values):
        return ""
    usable = HEIGHT - 2  # the line is a pixel wide
    return " ".join(
        f"{place},{1 + usable - round(usable * value / most)}" for place, value in enumerate(values)
    )
