"""Compare the failures and run times of a job type before and after a mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from ojs_cluster.store.ground.process_state.job_counts import FLUSH_S
from ojs_cluster.store.ground.process_state.type_minutes import KEPT_MINUTES
from ojs_cluster.ui.drawings.histogram import PairedRow, paired_histogram
from ojs_cluster.ui.formats import epoch_s
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.visit import Visit

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Side:
    """The run times on one side of the mark.

    Attributes:
        jobs: number of completed jobs.
        failed: number of failed attempts.
        discarded: number of jobs that were discarded.
        p50_ms: the median of their run times in milliseconds; None without jobs.
        p95_ms: their 95th percentile.
    """

    jobs: int
    failed: int
    discarded: int
    p50_ms: float | None
    p95_ms: float | None

    @property
    def failed_share(self) -> float:
        """The part of the ended attempts that failed; 0 without any."""
        return self.failed / (self.jobs + self.failed) if self.failed else 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """The run times before and after a mark.

    Attributes:
        before: those before it.
        after: those after it.
        rows: both as a histogram.
        note: what of the time around the mark is not counted.
    """

    before: Side
    after: Side
    rows: Sequence[PairedRow]
    note: str


async def compare(
    visit: Visit, job_type: str, span_h: int, mark: Mapping[str, Any]
) -> Comparison | None:
    """Compare the run times of a type before and after a mark.

    Statistics by the minute reach back two hours, and longer spans have them by the hour. So the
    minute or the hour with the mark is left out, or its part before the mark. Processes write their
    counts every 15 seconds, so the minute after the mark may have jobs from before it, too.

    Args:
        visit: the request.
        job_type: the type.
        span_h: the time span in hours, which ends now.
        mark: the mark, as the API returns it.

    Returns:
        The comparison; None if it cannot be read now.
    """
    at, now = epoch_s(mark["at"]) or 0.0, visit.clock.now_s()
    begin = now - span_h * _HOUR_S
    by_hour = span_h * _HOUR_S > KEPT_MINUTES * _MINUTE_S
    before_s = _HOUR_S if by_hour else _MINUTE_S
    # A mark of the last two hours has all that follows by the minute.
    after_s = before_s if at < now - (KEPT_MINUTES - 1) * _MINUTE_S else _MINUTE_S
    before = await _read(visit, job_type, before_s, begin, at // before_s * before_s)
    after = await _read(visit, job_type, after_s, begin_after(at, after_s), now)
    if before is None or after is None:
        return None
    bounds = before["bounds_ms"] or after["bounds_ms"]
    return Comparison(
        _side(before),
        _side(after),
        paired_histogram(bounds, before["counts"], after["counts"]),
        _note(before_s, after_s),
    )


def begin_after(at_s: float, period_s: int) -> float:
    """Return when the first period begins that has no job from before a mark, in Unix seconds."""
    if period_s == _MINUTE_S:
        at_s += FLUSH_S
    return (at_s // period_s + 1) * period_s


async def _read(
    visit: Visit, job_type: str, period_s: int, since_s: float, until_s: float
) -> Mapping[str, Any] | None:
    """Return the run times of a time span as a histogram of the API, with what failed.

    None if it is not known.
    """
    if since_s >= until_s:
        return {"bounds_ms": (), "counts": (), "failed": 0, "discarded": 0}
    # Whole periods have the same name for a while, so that viewers share them.
    since = _text(since_s // period_s * period_s)
    until = _text(until_s) if until_s % period_s == 0 else ""
    known = await visit.shared_or_last(
        *("admin", "stats", "history"),
        period="1h" if period_s == _HOUR_S else "1m",
        since=since,
        until=until,
        type=job_type,
    )
    if known is None:
        return None
    history = orjson.loads(known.value)
    sums = {name: sum(point[name] for point in history["data"]) for name in ("failed", "discarded")}
    return {**history["run_times"], **sums}


def _note(before_s: int, after_s: int) -> str:
    if after_s == _HOUR_S:
        return _("The hour of the mark is not counted.")
    if before_s == _MINUTE_S:
        return _(
            "The minute of the mark is not counted, nor is the next one if the mark is in the last "
            "15 seconds of its minute."
        )
    return _("The hour of the mark is counted from the first or second minute after the mark on.")


def _text(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _side(found: Mapping[str, Any]) -> Side:
    jobs = sum(found["counts"])
    quantiles = (found["p50_ms"], found["p95_ms"]) if jobs else (None, None)
    return Side(jobs, found["failed"], found["discarded"], *quantiles)
