"""What grows with the cluster although nobody sends a request: calculated, not simulated.

The periods are those of the code; the names say where they are.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.sim.costs import Costs
from loadtest.sim.predict import apis_for
from ojs_cluster.store.operations.metrics import CACHED_S
from ojs_cluster.store.queues.partitions import REFRESH_S
from ojs_cluster.store.queues.registry import LONGEST_RENEWAL_S
from scheduler.settings import SchedulerSettings

SCRAPE_S = 15.0
"""Between two scrapes of a node. Each goes to one of its processes."""
PROCESSES_PER_NODE = 8
MAX_CLIENTS = 10_000
"""Connections that a Redis accepts by default."""


@dataclass(frozen=True, slots=True)
class AtRest:
    """Of one cluster. Loads are parts of one processor.

    Args:
        connections: of a master, from API processes and schedulers: commands and messages.
        descriptors: of an API process, its clients apart.
        meta: load of the meta tag's master by API processes that have run for an hour or more: the
            table of partitions, and the names of queues.
        gauges: load of each master by scrapes.
        leases: load of each master by leases.
        scheduler: load of one scheduler that leads every shard.
        topology_ms: time in which an API process reads a new topology, and does nothing else.
    """

    connections: int
    descriptors: int
    meta: float
    gauges: float
    leases: float
    scheduler: float
    topology_ms: float


def at_rest(masters: int, shards: int, queues: int, schedulers: int, costs: Costs) -> AtRest:
    """Calculate it for ``queues`` that every API process uses, and so many schedulers."""
    apis = apis_for(masters)
    terms = SchedulerSettings().terms
    scrapes_s = apis / PROCESSES_PER_NODE / max(SCRAPE_S, CACHED_S)
    lease_calls_s = shards * (1 / terms.renew_s + (schedulers - 1) / terms.key_ttl_s)
    call_us = costs.redis_lease
    return AtRest(
        connections=2 * (apis + schedulers),
        descriptors=2 * masters,
        meta=(apis / REFRESH_S + apis * queues / LONGEST_RENEWAL_S) * call_us / 1e6,
        gauges=scrapes_s * shards / masters * call_us / 1e6,
        leases=lease_calls_s / masters * call_us / 1e6,
        scheduler=shards * costs.scheduler_shard_idle / 1e6,
        topology_ms=masters * costs.topology_master / 1000,
    )
