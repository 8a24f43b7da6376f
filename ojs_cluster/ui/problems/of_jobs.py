"""Problems of jobs, queues and effects, and maintenance mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ojs_cluster.store.operations.metrics import ClusterMetrics
from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.problems.problem import Problem

_OLD_MS: Final = 5 * 60_000
"""Age in milliseconds from which an available job counts as old."""
_LATE_MS: Final = 10_000
"""Delay of a scheduler loop in milliseconds from which it is reported."""
_MAX_NAMED: Final = 3


def problems_of_maintenance(maintenance: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problem of maintenance mode, from the members that the API shows."""
    if maintenance["enabled"]:
        refused = " and ".join(maintenance["refused"])
        yield Problem(
            f"Maintenance mode is on: {refused} requests are refused",
            "Switch it off when the work is done.",
            ("operations",),
            True,
        )


def problems_of_stats(stats: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the problems in the statistics of the API."""
    waiting = stats["jobs"]["available"]
    if waiting and stats.get("workers") == 0:
        yield Problem(
            f"{_jobs(waiting, 'waits', 'wait')}, and no worker is connected",
            "Start workers, and check that they use the right address and key.",
            ("jobs",),
            True,
            {"state": "available"},
        )
    if stats["dead_letters"]:
        yield Problem(
            _jobs(stats["dead_letters"], "is a dead letter", "are dead letters"),
            "Find out why, then retry or delete.",
            ("dead",),
        )


def problems_of_metrics(metrics: ClusterMetrics, *, is_explained: bool) -> Iterator[Problem]:
    """Yield the problems in the metrics.

    Args:
        metrics: the metrics.
        is_explained: whether a severe problem of the masters or the schedulers is reported. Silent
            shards and late loops are then its consequences.
    """
    if metrics.unreachable and not is_explained:
        yield Problem(
            f"{number(metrics.unreachable)} shards did not answer in time",
            "Check the load and the state of the Redis masters.",
            (),
            True,
        )
    late = {name: ms for name, ms in metrics.late_ms.items() if ms >= _LATE_MS}
    if late and not is_explained:
        yield Problem(
            f"The scheduler is behind: the loop {', '.join(late)} is "
            f"{duration(max(late.values()))} late",
            "Read the log of the schedulers, and check the load of the Redis masters. More "
            "schedulers share the shards.",
            ("cluster",),
            True,
        )
    if metrics.outbox_dead_letters:
        yield Problem(
            f"{number(metrics.outbox_dead_letters)} effects between shards failed too often",
            "Remove the cause, then deliver them again.",
            ("operations",),
        )
    paused = [name for name, queue in metrics.queues.items() if queue.paused]
    if paused:
        yield Problem(
            f"{_named(paused)} {'is' if len(paused) == 1 else 'are'} paused",
            "Resume it when its jobs should run again.",
            ("queues",) if len(paused) > 1 else ("queues", paused[0]),
        )
    old = {
        name: queue.oldest_ms
        for name, queue in metrics.queues.items()
        if queue.oldest_ms >= _OLD_MS and not queue.paused
    }
    if old:
        oldest = max(old, key=lambda name: old[name])
        yield Problem(
            f"Old jobs: {_named(sorted(old, key=lambda name: -old[name]))} have waited for up to "
            f"{duration(old[oldest])}",
            "Add workers for these queues, or check whether their workers are stuck.",
            ("queues", oldest),
            True,
        )


def _jobs(count: int, one: str, many: str) -> str:
    return f"1 job {one}" if count == 1 else f"{number(count)} jobs {many}"


def _named(queues: list[str]) -> str:
    shown = ", ".join(queues[:_MAX_NAMED])
    more = len(queues) - _MAX_NAMED
    word = "Queue" if len(queues) == 1 else "Queues"
    return f"{word} {shown}" + (f" and {number(more)} more" if more > 0 else "")
