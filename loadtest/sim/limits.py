"""Costs that grow with the cluster without any request: calculated, not simulated.

The periods are those of the code; the names tell where they are defined.
"""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.sim.costs import Costs
from loadtest.sim.predict import apis_for
from ojs_cluster.store.ground.process_state.partitions import REFRESH_S
from ojs_cluster.store.ground.process_state.registry import LONGEST_RENEWAL_S
from ojs_cluster.store.operators.operations.metrics import CACHED_S
from ojs_scheduler.settings import SchedulerSettings

SCRAPE_S = 15.0
"""Seconds between two scrapes of a node. Each reaches one of its processes."""
PROCESSES_PER_NODE = 8
MAX_CLIENTS = 10_000
"""Default limit of connections of a Redis server."""


@dataclass(frozen=True, slots=True)
class AtRest:
    """Costs of one cluster. Loads are fractions of one processor.

    Args:
        connections: of a master, from API processes and schedulers, for commands and messages.
        descriptors: of an API process, without its clients.
        meta: load of the meta tag's master by API processes that have run for an hour or more: the
            partition table, and the names of queues.
        gauges: load of each master by scrapes.
        leases: load of each master by leases.
        scheduler: load of one scheduler that leads every shard.
        topology_ms: time in which an API process reads a new topology and does nothing else.
    """

    connections: int
    descriptors: int
    meta: float
    gauges: float
    leases: float
    scheduler: float
    topology_ms: float


def at_rest(masters: int, shards: int, queues: int, schedulers: int, costs: Costs) -> AtRest:
    """Calculate the costs for ``queues`` that every API process uses, and this many schedulers."""
    apis = apis_for(masters)
    terms = SchedulerSettings().lease_times
    scrapes_s = apis / PROCESSES_PER_NODE / max(SCRAPE_S, CACHED_S)
    lease_calls_s = shards * (1 / terms.renew_s + (schedulers - 1) / terms.key_ttl_s)
    call_us = costs.redis_lease
    return AtRest(
        connections=2 * (apis + schedulers),
        descriptors=2 * masters,
        meta=(apis / REFRESH_S + apis * queues / LONGEST_RENEWAL_S) * call_us / 1e6,
        gauges=scrapes_s * shards / masters * call_us / 1e6,
        leases=lease_calls_s / masters * call_us / 1e6,
        scheduler=(costs.scheduler_idle + shards * costs.scheduler_shard_idle) / 1e6,
        topology_ms=masters * costs.topology_master / 1000,
    )
