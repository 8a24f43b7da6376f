"""The metrics of workers: counted in each process, added and shown by the supervisor."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

BUCKETS: Final = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the durations, in seconds."""
_MAX_TYPES: Final = 200
"""Number of job types after which others count as ``other``. A handler for ``*`` may get any."""


@dataclass(slots=True)
class Counts:
    """Attempts that have ended.

    Attributes:
        jobs: their number by job type and outcome.
        buckets: for each type, the number of attempts in each bucket, and beyond the last one.
        seconds: the sum of their durations by type, in seconds.
    """

    jobs: dict[tuple[str, str], int] = field(default_factory=dict)
    buckets: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, type: str, outcome: str, run_s: float) -> None:
        """Count an attempt."""
        type = self._counted_as(type)
        self.jobs[type, outcome] = self.jobs.get((type, outcome), 0) + 1
        self.buckets[type][bisect_left(BUCKETS, run_s)] += 1
        self.seconds[type] = self.seconds.get(type, 0.0) + run_s

    def merge(self, other: Counts) -> None:
        """Add the counts of another process."""
        names = {type: self._counted_as(type) for type in other.buckets}
        for (type, outcome), number in other.jobs.items():
            key = names[type], outcome
            self.jobs[key] = self.jobs.get(key, 0) + number
        for type, counted in other.buckets.items():
            mine = self.buckets[names[type]]
            mine[:] = [a + b for a, b in zip(mine, counted, strict=True)]
        for type, run_s in other.seconds.items():
            self.seconds[names[type]] = self.seconds.get(names[type], 0.0) + run_s

    def _counted_as(self, type: str) -> str:
        if type not in self.buckets and len(self.buckets) >= _MAX_TYPES:
            type = "other"
        self.buckets.setdefault(type, [0] * (len(BUCKETS) + 1))
        return type


@dataclass(slots=True)
class Report:
    """What a process tells its supervisor.

    Attributes:
        counts: its attempts since its start.
        grace_s: how long its handlers may go on when it drains, in seconds.
        running: number of handlers that run.
        waiting: number of fetched jobs that wait for a handler.
        held: number of jobs whose ack or nack the server does not have.
        loop_lag_s: how late the event loop was at the last check, in seconds.
        memory_bytes: its resident memory; None if the system does not tell it.
    """

    counts: Counts
    grace_s: float
    running: int
    waiting: int
    held: int
    loop_lag_s: float
    memory_bytes: int | None


def exposition(
    counts: Counts, reports: Mapping[int, Report], processes: int, restarts: Mapping[str, int]
) -> str:
    """Return all metrics in the text format of Prometheus.

    Args:
        counts: the attempts of all processes, those that have ended included.
        reports: the last report of each process that runs.
        processes: the number of processes that run.
        restarts: number of restarts by reason.
    """
    return "".join(f"{line}\n" for line in _lines(counts, reports, processes, restarts))


def _lines(
    counts: Counts, reports: Mapping[int, Report], processes: int, restarts: Mapping[str, int]
) -> Iterator[str]:
    yield from _family("ojs_worker_jobs_total", "counter", "Attempts that have ended.")
    for (type, outcome), number in sorted(counts.jobs.items()):
        yield f'ojs_worker_jobs_total{{type="{type}",outcome="{outcome}"}} {number}'
    name = "ojs_worker_job_duration_seconds"
    yield from _family(name, "histogram", "How long handlers have run.")
    for type, numbers in sorted(counts.buckets.items()):
        total = 0
        for bound, number in zip((*BUCKETS, "+Inf"), numbers, strict=True):
            total += number
            yield f'{name}_bucket{{type="{type}",le="{bound}"}} {total}'
        yield f'{name}_sum{{type="{type}"}} {counts.seconds[type]:.6f}'
        yield f'{name}_count{{type="{type}"}} {total}'
    gauges: tuple[tuple[str, str, str], ...] = (
        ("jobs_running", "running", "Handlers that run."),
        ("jobs_waiting", "waiting", "Fetched jobs that wait for a handler."),
        ("jobs_held", "held", "Jobs whose ack or nack the server does not have."),
        ("event_loop_lag_seconds", "loop_lag_s", "How late the event loop was."),
        ("memory_bytes", "memory_bytes", "Resident memory."),
    )
    for suffix, attribute, text in gauges:
        yield from _gauge(suffix, attribute, text, reports.items())
    yield from _family("ojs_worker_processes", "gauge", "Processes that run.")
    yield f"ojs_worker_processes {processes}"
    name = "ojs_worker_restarts_total"
    yield from _family(name, "counter", "Processes that were started again.")
    yield from (f'{name}{{reason="{why}"}} {number}' for why, number in sorted(restarts.items()))


def _gauge(
    suffix: str, attribute: str, text: str, reports: Iterable[tuple[int, Report]]
) -> Iterator[str]:
    yield from _family(f"ojs_worker_{suffix}", "gauge", text)
    for process, report in sorted(reports):
        value = getattr(report, attribute)
        if value is not None:
            yield f'ojs_worker_{suffix}{{process="{process}"}} {value}'


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
