"""Place spans of time as bars on one axis, one row below the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_MIN_WIDTH: Final = 3
_HEIGHTS: Final = {"failed": 5, "returned": 3, "cancelled": 3}
"""Height of a bar by its outcome, as outcomes must not differ only in their colours."""
HEIGHT: Final = 10
"""Height of the other bars, in pixels."""
_TICKS_S: Final = tuple(
    float(seconds)
    for seconds in (
        *(count * unit for unit in (0.001, 0.01, 0.1) for count in (1, 2, 5)),
        *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
        *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 2_592_000),
    )
)
_MAX_TICKS: Final = 7


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time. Times are Unix seconds.

    Attributes:
        start_s: its start.
        end_s: its end.
        outcome: ``completed``, ``failed``, ``returned``, ``cancelled`` or ``running``.
        title: what it is, in words.
    """

    start_s: float
    end_s: float
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one span. Positions are in pixels."""

    x: int
    y: int
    width: int
    height: int
    outcome: str
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on the axis: its position in pixels, and the seconds since the axis begins."""

    x: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """An axis of time.

    Attributes:
        first_s: where it begins, in Unix seconds.
        last_s: where it ends.
        width: its length in pixels.
    """

    first_s: float
    last_s: float
    width: int

    @property
    def _scale(self) -> float:
        """Pixels per second."""
        return (self.width - _MIN_WIDTH) / max(self.last_s - self.first_s, 0.001)

    def x(self, at_s: float) -> int:
        """Return the position of a time, in pixels."""
        return round((min(max(at_s, self.first_s), self.last_s) - self.first_s) * self._scale)

    def bars(self, spans: Sequence[Span], y: int) -> Iterator[Bar]:
        """Yield the bars of the spans of one row; the row begins ``y`` pixels below the top."""
        for span in spans:
            x, height = self.x(span.start_s), _HEIGHTS.get(span.outcome, HEIGHT)
            width = max(_MIN_WIDTH, round((span.end_s - span.start_s) * self._scale))
            width = min(width, self.width - x)
            yield Bar(x, y + HEIGHT - height, width, height, span.outcome, span.title)

    def ticks(self) -> list[Tick]:
        """Return marks at round distances from the beginning, without one at the beginning."""
        length_s = self.last_s - self.first_s
        steps = (step for step in _TICKS_S if length_s / step <= _MAX_TICKS)
        step = next(steps, length_s)
        if step <= 0:
            return []
        count = int(length_s / step + 1e-9)
        return [Tick(self.x(self.first_s + n * step), n * step) for n in range(1, count + 1)]
