"""Find the problems of a cluster, those that stop jobs first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ojs_cluster.core.errors import OJSError
from ojs_cluster.http.problems import Problem
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.dashboard.problem_records import Records, read_records
from ojs_cluster.store.operators.operations.health import Health
from ojs_cluster.store.operators.operations.metrics import ClusterMetrics
from ojs_cluster.ui.cluster_status import cluster_status, scheduler_group
from ojs_cluster.ui.incidents import Incidents, read_incidents
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.problems.of_cluster import problems_of_cluster, problems_of_losses
from ojs_cluster.ui.problems.of_incidents import problems_of_incidents
from ojs_cluster.ui.problems.of_jobs import (
    problems_of_maintenance,
    problems_of_metrics,
    problems_of_stats,
    problems_of_workers,
)
from ojs_cluster.ui.serving import (
    ParkedType,
    read_parked,
    read_unserved,
    read_workers_by_queue,
)
from ojs_cluster.ui.visit import Visit


@dataclass(slots=True)
class Condition:
    """What is known about the cluster. Each part is None if it could not be read in time.

    Attributes:
        health: the health of Redis.
        status: the members of a ``nodes.ClusterStatus``.
        metrics: the metrics.
        silent: stale workers that hold jobs; empty if none is known.
        unserved: queues whose jobs wait because no worker fetches them; empty if none is known.
        parked: types whose jobs wait because no worker runs them; empty if none is known.
        incidents: what has gone wrong of late.
        records: since when problems are there, and which ones are muted.
    """

    health: Health | None = None
    status: Mapping[str, Any] | None = None
    metrics: ClusterMetrics | None = None
    silent: Sequence[str] = ()
    unserved: Sequence[str] = ()
    parked: Sequence[ParkedType] = ()
    incidents: Incidents | None = None
    records: Records | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all of the cluster could be read, so that no problem is overlooked."""
        return (
            self.health is not None
            and self.health.covered
            and self.metrics is not None
            and not self.metrics.unreachable
            and self.status is not None
            and all(master["answers"] for master in self.status["masters"])
            and self.incidents is not None
        )


async def read_condition(visit: Visit) -> Condition | None:
    """Read the condition of the cluster; None for a user who may not see the whole cluster.

    No part waits for a silent master for longer than a second or two.
    """
    if not visit.sees_cluster:
        return None
    condition, app = Condition(), visit.app

    async def read_health() -> None:
        condition.health = await app.health.get()

    async def read_status() -> None:
        condition.status = await cluster_status(visit)

    async def read_metrics() -> None:
        try:
            condition.metrics = await await_while_healthy(app, app.brief_metrics.get)
        except OJSError:
            condition.metrics = None

    async def find_silent() -> None:
        by_queue = await read_workers_by_queue(visit)
        condition.silent = () if by_queue is None else by_queue.silent

    async def find_unserved() -> None:
        condition.unserved = await read_unserved(visit)

    async def find_parked() -> None:
        condition.parked = await read_parked(visit)

    async def find_incidents() -> None:
        condition.incidents = await read_incidents(visit)

    async def read_recorded() -> None:
        with suppress(OJSError):
            condition.records = await await_while_healthy(app, lambda: read_records(app.store))

    reads = [read_health, read_status, read_metrics, find_silent, find_unserved, find_parked]
    reads += [find_incidents, read_recorded]
    await run_concurrently(reads, lambda read: read())
    return condition


def find_problems(
    visit: Visit, stats: Mapping[str, Any] | None, condition: Condition | None
) -> list[Problem]:
    """Return all problems, open ones first, and severe ones first among them.

    A user who may see some queues only gets the problems of these queues.

    Args:
        visit: the request.
        stats: the statistics of the API; None if they could not be read.
        condition: the condition of the cluster; None if the user may not see it.
    """
    # Maintenance mode is not read from the statistics, which may be some seconds old.
    found = [*problems_of_maintenance(visit.app.maintenance.members())]
    if condition is not None:
        if stats is not None and stats.get("workers") == 0:
            # no queue has one, which is said once
            condition = replace(condition, unserved=(), parked=())
        found += _of_condition(condition, scheduler_group(visit.app), visit.clock.now_ms())
    elif stats is None:
        found.append(
            Problem(
                "queues_unread",
                _("The queues could not be read"),
                _("Try again in a minute. If it fails again, tell the operator of the server."),
                severe=True,
            )
        )
    if stats is not None:
        found += problems_of_stats(stats)
    if condition is not None and condition.records is not None:
        found = [_with_record(problem, condition.records) for problem in found]
    return sorted(found, key=lambda problem: (problem.mute is not None, not problem.severe))


def _with_record(problem: Problem, records: Records) -> Problem:
    began_ms = records.began_ms.get(problem.id, problem.since_ms)
    return replace(problem, since_ms=began_ms, mute=records.mutes.get(problem.id))


def _of_condition(condition: Condition, group: str, now_ms: int) -> list[Problem]:
    found = [] if condition.status is None else [*problems_of_cluster(condition.status, group)]
    if not any(problem.severe for problem in found):
        if condition.health is None:
            what, action = _("Redis does not answer"), _("Check the Redis servers and REDIS_URL.")
            found.append(Problem("redis_silent", what, action, (), True))
        elif not condition.health.covered:
            found.append(
                Problem(
                    "redis_slow",
                    _("A Redis master does not answer all requests in time"),
                    _("Check the load and the network of the Redis masters."),
                    ("cluster",),
                    True,
                )
            )
    found += problems_of_workers(condition.silent)
    incidents = condition.incidents or Incidents()
    found += problems_of_incidents(incidents)
    if condition.metrics is not None:
        is_explained = any(problem.severe for problem in found)
        found += problems_of_metrics(
            condition.metrics,
            now_ms=now_ms,
            is_explained=is_explained,
            unserved=condition.unserved,
            parked=condition.parked,
            limited={queue for each in incidents.full for queue in each.queues},
        )
    return found if condition.status is None else [*problems_of_losses(condition.status), *found]
