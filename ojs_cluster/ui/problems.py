"""Find the problems of a cluster, with what an operator can do about each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.errors import OJSError
from ojs_cluster.store.operations.metrics import ClusterMetrics
from ojs_cluster.ui.formats import duration, number
from ojs_cluster.ui.visit import Visit

_OLD_MS: Final = 5 * 60_000
"""Age in milliseconds from which an available job counts as old."""
_LATE_MS: Final = 10_000
"""Delay of a scheduler loop in milliseconds from which it is reported."""
_MAX_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem.

    Attributes:
        what: what is wrong, in one sentence.
        action: what to do.
        path: the segments of the page that shows more.
        severe: whether jobs are not processed because of it.
        query: the parameters of the page.
    """

    what: str
    action: str
    path: tuple[str, ...] = ()
    severe: bool = False
    query: Mapping[str, str] | None = None


async def find_problems(visit: Visit, stats: Mapping[str, Any]) -> list[Problem]:
    """Return all problems, those that stop jobs first.

    A user who may see some queues only gets the problems of these queues.

    Args:
        visit: the request.
        stats: the statistics of the API.
    """
    # Maintenance mode is not read from the statistics, which may be some seconds old.
    found = [*_of_maintenance(visit.app.maintenance.members()), *_of_stats(stats)]
    if visit.sees_cluster:
        app = visit.app
        health = await app.health.get()
        if health is None:
            found.append(
                Problem("Redis does not answer", "Check the Redis servers and REDIS_URL.", (), True)
            )
        elif not health.covered:
            found.append(
                Problem(
                    "A Redis master is down, or slots have no master",
                    "Jobs of its shards wait. Check the failover of the Redis cluster.",
                    (),
                    True,
                )
            )
        with suppress(OJSError):
            found += _of_metrics(await app.cached_metrics.get())
    return sorted(found, key=lambda problem: not problem.severe)


def _of_maintenance(maintenance: Mapping[str, Any]) -> Iterator[Problem]:
    if maintenance["enabled"]:
        refused = " and ".join(maintenance["refused"])
        yield Problem(
            f"Maintenance mode is on: {refused} requests are refused",
            "Switch it off when the work is done.",
            ("operations",),
            True,
        )


def _of_stats(stats: Mapping[str, Any]) -> Iterator[Problem]:
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


def _of_metrics(metrics: ClusterMetrics) -> Iterator[Problem]:
    if metrics.unreachable:
        yield Problem(
            f"{number(metrics.unreachable)} shards did not answer in time",
            "Check the load and the state of the Redis masters.",
            (),
            True,
        )
    late = {name: ms for name, ms in metrics.late_ms.items() if ms >= _LATE_MS}
    if late:
        yield Problem(
            f"No scheduler does its work: the loop {', '.join(late)} is "
            f"{duration(max(late.values()))} late",
            "Start a scheduler (ojs-cluster scheduler), or check the log of the running ones.",
            (),
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
