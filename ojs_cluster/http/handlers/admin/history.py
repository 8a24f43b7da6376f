"""Return statistics over time (spec: ojs-admin-api 10.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from ojs_cluster.core.errors import InvalidRequest, NotFound
from ojs_cluster.core.histograms import (
    RUN_BOUNDS_MS,
    WAIT_BOUNDS_MS,
    FineTimes,
    WaitsAndRuns,
)
from ojs_cluster.core.jobs.envelope import MAX_TYPE_LENGTH
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.timestamps import parse_timestamp
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.queues import SeriesPoint, SeriesSubject, StatsHistory, TimeHistogram
from ojs_cluster.store.engine.queues import queues as store_queues
from ojs_cluster.store.features.statistics.series import (
    Periods,
    Point,
    cluster_series,
    queue_series,
    type_series,
)
from ojs_cluster.store.ground.off_loop import off_loop
from ojs_cluster.store.ground.process_state.job_counts import RUN_BUCKETS, WAIT_BUCKETS
from ojs_cluster.store.ground.process_state.type_minutes import best_quantile

_PERIODS: Final = {"1m": 1, "5m": 5, "1h": 60, "1d": 1440}
"""Lengths of the periods in minutes."""
_DEFAULT_SPAN: Final = {"1m": 60, "5m": 60, "1h": 1440, "1d": 30 * 1440}
"""Length in minutes of a series, by period, if the request has no ``since``. The specification's
default is an hour, which is too short for periods of an hour or a day."""
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MANY: Final = 60
"""Number of points above which a thread computes their quantiles: it takes milliseconds."""
_is_age: Final = re.compile(r"([0-9]{1,6})([smhd])").fullmatch


async def get(app: App, request: Request) -> Response:
    """Return a series of periods, of the cluster, of one queue or of one job type.

    The records of the cluster cover 24 hours by the minute and 30 days by the hour. The records of
    a queue cover two hours. Those of a type cover two hours, and three days by the hour, without
    depths. ``waits`` and ``run_times`` count the jobs of the series by how long they waited and
    ran. Quantiles have an error of 10 % at most and never exceed the longest time. ``processed``
    counts ended attempts: completed jobs and failed attempts. ``covered_seconds`` is shorter than
    the period if the statistics began in it, or if it has not ended. If ``recorded`` is false, no
    scheduler ran in the period, and its numbers are a guess from the samples around it. The command
    line client reads ``data_points`` instead of ``data``.

    (spec: ojs-admin-api 10.2)
    """
    given = query.parameters(request.query)
    name, job_type = given.get("queue") or None, given.get("type") or None
    if job_type is not None:
        _check_type(job_type, name, request)
    elif name is not None:
        check_queue(name, field="queue")
        check_queues(request.queues, [name])
    elif request.queues is not None:
        raise InvalidRequest(
            "the API key may access some queues only: name one of them", field="queue"
        )
    period = given.get("period") or "5m"
    if period not in _PERIODS:
        raise InvalidRequest(f"period must be one of {', '.join(_PERIODS)}", field="period")
    periods = _periods(given, period, app.store.clock.now_ms())
    if job_type is not None:
        points = await type_series(app.store, job_type, periods)
    elif name is None:
        points = await cluster_series(app.store, periods)
    elif await store_queues.exists(app.store, name):
        points = await queue_series(app.store, name, periods)
    else:
        raise NotFound("queue", name)
    data, waits, runs = await off_loop(partial(_summarize, points), len(points), large=_MANY)
    subject: SeriesSubject = {"period": period}
    if name is not None:
        subject["queue"] = name
    if job_type is not None:
        subject["type"] = job_type
    members: StatsHistory = {
        **subject,
        "data": data,
        "data_points": data,
        "waits": waits,
        "run_times": runs,
    }
    return replies.json_response(200, members)


def _summarize(
    points: Sequence[Point],
) -> tuple[list[SeriesPoint], TimeHistogram, TimeHistogram]:
    """Return the points, how long their jobs waited, and how long they ran."""
    fine = WaitsAndRuns()
    for point in points:
        fine.merge(point.fine)
    return (
        [_point(point) for point in points],
        _histogram(points, WAIT_BUCKETS, WAIT_BOUNDS_MS, fine.waits),
        _histogram(points, RUN_BUCKETS, RUN_BOUNDS_MS, fine.runs),
    )


def _histogram(
    points: Sequence[Point], buckets: slice, bounds_ms: Sequence[int], fine: FineTimes
) -> TimeHistogram:
    """Return how many jobs of a series took up to each bound, and how many took longer."""
    counts = [0] * (len(bounds_ms) + 1)
    for point in points:
        counts = [a + b for a, b in zip(counts, point.times[buckets], strict=True)]
    p50, p95 = (best_quantile(fine, counts, bounds_ms, part) for part in (0.5, 0.95))
    return {
        "bounds_ms": list(bounds_ms),
        "counts": counts,
        "p50_ms": p50,
        "p95_ms": p95,
        "max_ms": fine.max_ms,
    }


def _check_type(job_type: str, queue: str | None, request: Request) -> None:
    """Check that a request may name a job type.

    Raises:
        InvalidRequest: the name is malformed, the request names a queue as well, or its API key may
            access some queues only: a type has jobs in any queues.
    """
    if queue is not None:
        raise InvalidRequest("name a queue or a type, not both", field="type")
    if request.queues is not None:
        raise InvalidRequest(
            "the API key may access some queues only, and a type has jobs in any", field="type"
        )
    if len(job_type) > MAX_TYPE_LENGTH:
        raise InvalidRequest(f"a type has at most {MAX_TYPE_LENGTH} characters", field="type")


def _periods(given: Mapping[str, str], period: str, now_ms: int) -> Periods:
    until_ms = min(_time(given, "until", now_ms, now_ms), now_ms)
    since_ms = _time(given, "since", until_ms - _DEFAULT_SPAN[period] * 60_000, now_ms)
    if since_ms > until_ms:
        raise InvalidRequest("since must not be later than until", field="since")
    return Periods.between(since_ms, until_ms, _PERIODS[period])


def _time(given: Mapping[str, str], name: str, default_ms: int, now_ms: int) -> int:
    """Return a time in Unix milliseconds, sent as RFC 3339 or as an age such as ``24h``."""
    text = given.get(name, "")
    if not text:
        return default_ms
    age = _is_age(text)
    if age is not None:
        return max(0, now_ms - int(age[1]) * _UNITS_MS[age[2]])
    text = text.replace(" ", "+")  # an unescaped "+" arrives as a space
    try:
        return max(0, parse_timestamp(text, allow_delay=False).ms)
    except ValueError as error:
        raise InvalidRequest(f"{name} {error}; or an age such as '24h'", field=name) from None


def _point(point: Point) -> SeriesPoint:
    totals = point.totals
    return {
        "timestamp": replies.iso(point.start_ms),
        "complete": point.complete,
        "recorded": point.recorded,
        "covered_seconds": point.minutes * 60,
        "enqueued": totals["enqueued"],
        "processed": totals["acked"] + totals["failed"],
        "completed": totals["acked"],
        "failed": totals["failed"],
        "retried": totals["retried_total"],
        "discarded": totals["discarded_total"],
        "cancelled": totals["cancelled_total"],
        "expired": totals["expired_total"],
        "latency_p50_ms": point.wait_ms(0.5),
        "latency_p95_ms": point.wait_ms(0.95),
        "latency_p99_ms": point.wait_ms(0.99),
        "duration_p50_ms": point.run_ms(0.5),
        "duration_p95_ms": point.run_ms(0.95),
        "avg_latency_ms": point.avg_wait_ms,
        "avg_duration_ms": point.avg_run_ms,
        "depth": {state.value: count for state, count in point.depths.items()},
    }
