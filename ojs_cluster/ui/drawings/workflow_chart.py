"""Draw the attempts of the steps of a workflow on one axis of time, one row for each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ojs_cluster.ui.drawings.time_axis import HEIGHT, Bar, Span, Tick, TimeAxis
from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.languages.translate import ngettext

LEFT: Final = 200
"""Width of the names of the steps, in pixels."""
_AXIS: Final = 720
_RIGHT: Final = 40
"""Space for the last time below the axis, in pixels."""
_TOP: Final = 8
_ROW: Final = 20
_BOTTOM: Final = 22
MIDDLE: Final = HEIGHT // 2
"""Distance of the line of a row from its top, in pixels."""
MAX_BARS: Final = 600
"""Maximum number of bars of a drawing. Each row has at least the last three."""


@dataclass(frozen=True, slots=True)
class Lane:
    """One row: a step, or steps that are drawn together.

    Attributes:
        label: its name.
        state: the state of the step.
        job_id: its job; empty if there is none to link to.
        since_s: when its job was created, in Unix seconds; None if it is not known or not yet.
        spans: its attempts, oldest first.
        ended: whether the step has ended.
    """

    label: str
    state: str
    job_id: str
    since_s: float | None
    spans: Sequence[Span]
    ended: bool


@dataclass(frozen=True, slots=True)
class ChartRow:
    """A drawn row: its bars, and the line from the creation of the job to its end."""

    lane: Lane
    y: int
    line: tuple[int, int] | None
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class WorkflowChart:
    """The drawing. Lengths are in pixels.

    Attributes:
        rows: the rows.
        ticks: the marks of the axis.
        width: its width.
        height: its height.
        bottom: where the rows end.
        words: the same in words.
        left_out: number of earlier attempts that are not drawn.
    """

    rows: tuple[ChartRow, ...]
    ticks: Sequence[Tick]
    width: int
    height: int
    bottom: int
    words: str
    left_out: int


def workflow_chart(lanes: Sequence[Lane], first_s: float, last_s: float) -> WorkflowChart | None:
    """Return the drawing of the steps; None if none has been enqueued.

    Args:
        lanes: the rows from the top.
        first_s: when the workflow was created, in Unix seconds.
        last_s: when it ended, or now. Attempts after it make the axis longer.
    """
    if not any(lane.spans or lane.since_s is not None for lane in lanes):
        return None
    spans = [span for lane in lanes for span in lane.spans]
    axis = TimeAxis(
        min([first_s, *(span.start_s for span in spans)]),
        max([last_s, *(span.end_s for span in spans)]),
        _AXIS,
    )
    most = max(3, MAX_BARS // len(lanes))
    rows = []
    for place, lane in enumerate(lanes):
        y = _TOP + place * _ROW
        bars = tuple(axis.bars(lane.spans[-most:], y))
        rows.append(ChartRow(lane, y, _line(lane, axis), bars))
    attempts = ngettext(
        "%(number)s attempt within %(span)s",
        "%(number)s attempts within %(span)s",
        len(spans),
        number=number(len(spans)),
        span=duration((axis.last_s - axis.first_s) * 1000),
    )
    words = ngettext(
        "%(number)s row with %(attempts)s",
        "%(number)s rows with %(attempts)s",
        len(lanes),
        number=number(len(lanes)),
        attempts=attempts,
    )
    bottom = _TOP + len(lanes) * _ROW
    drawn = sum(len(row.bars) for row in rows)
    width = LEFT + _AXIS + _RIGHT
    return WorkflowChart(
        tuple(rows), axis.ticks(), width, bottom + _BOTTOM, bottom, words, len(spans) - drawn
    )


def _line(lane: Lane, axis: TimeAxis) -> tuple[int, int] | None:
    """Return where the line of a row begins and ends; it shows how long the job has waited."""
    starts = [span.start_s for span in lane.spans]
    if lane.since_s is not None:
        starts.append(lane.since_s)
    if not starts:
        return None
    ends = [span.end_s for span in lane.spans] if lane.ended else [axis.last_s]
    return axis.x(min(starts)), axis.x(max(ends, default=min(starts)))
