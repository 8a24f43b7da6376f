"""Runs of the simulation: the measured setups, then clusters too large to measure here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from loadtest.sim import waking
from loadtest.sim.cluster import Cluster, Setup, homes
from loadtest.sim.costs import Costs, Observed

APIS_PER_MASTER = 3
"""Number of API processes that keep a master fully busy."""
CONNECTIONS = 32
"""Clients per API process: enough to keep it busy."""
EVEN = 0.95
GATHERED_MS = 25_000.0
"""Time after which clients have gathered, times the number of masters with more shards."""


@dataclass(frozen=True, slots=True)
class Run:
    """The result of simulated lifecycles; costs in microseconds per request.

    ``cores``: number of processors that all processes together kept busy.
    """

    requests_s: float
    api_us: float
    redis_us: float
    p50_ms: float
    p99_ms: float
    cores: float


def lifecycle(setup: Setup, costs: Costs, warm_ms: float, ms: float) -> Run:
    """Simulate ``warm_ms`` of warm-up, then ``ms`` that count."""
    cluster = Cluster(setup, costs)
    cluster.run(warm_ms * 1000)
    cluster.forget()
    cluster.run((warm_ms + ms) * 1000)
    times = sorted(cluster.times_us)
    requests = len(times)
    api_us = sum(api.busy_us for api in cluster.apis)
    redis_us = sum(master.busy_us for master in cluster.masters)
    return Run(
        requests_s=requests / ms * 1000,
        api_us=api_us / requests,
        redis_us=redis_us / requests,
        cores=(api_us + redis_us + cluster.load.busy_us) / ms / 1000,
        p50_ms=times[requests // 2] / 1000,
        p99_ms=times[requests * 99 // 100] / 1000,
    )


def again(observed: Observed, costs: Costs) -> Run:
    """Simulate what was observed on one machine, including its load generator.

    The processes of the machine must fit into its two cores: see ``Run.cores``.
    """
    setup = Setup(
        masters=observed.masters,
        clustered=observed.clustered,
        connections=observed.connections,
        load_process=True,
        own_queue=True,
    )
    return lifecycle(setup, costs, warm_ms=20, ms=200)


def compared(observed: Observed, costs: Costs) -> list[tuple[float, float]]:
    """Return measured and simulated API us, Redis us and requests/s."""
    run = again(observed, costs)
    measured = (observed.api_us, observed.redis_us, observed.requests_s)
    return list(zip(measured, (run.api_us, run.redis_us, run.requests_s), strict=True))


def apis_for(masters: int) -> int:
    """Return the number of API processes for this many masters."""
    return max(3, round(masters * APIS_PER_MASTER))


def full(masters: int, shards: int, costs: Costs, ms: float = 8) -> Run:
    """Simulate a full cluster, with every process on its own processor.

    If shards are distributed unevenly, clients gather at the masters with most shards, which takes
    time.
    """
    setup = Setup(
        masters=masters,
        apis=apis_for(masters),
        connections=CONNECTIONS,
        shards=shards,
        network_us=100.0,
    )
    _, even = busiest_share(masters, shards)
    warm_ms = min(250.0, GATHERED_MS / masters) if even < EVEN else 12.0
    return lifecycle(setup, costs, warm_ms=warm_ms, ms=ms)


def busiest_share(masters: int, shards: int) -> tuple[int, float]:
    """Return the masters with a shard, and their mean load when the first one is full."""
    owned = Counter(homes(shards, masters))
    return len(owned), shards / masters / max(owned.values())


@dataclass(frozen=True, slots=True)
class Wake:
    """The cost of a job that finds its queue empty and workers waiting, in microseconds per job.

    ``jobs_s``: rate of such jobs at which the first process is full.
    """

    heard: float
    fetches: float
    api_us: float
    redis_us: float
    jobs_s: float
    p50_ms: float
    p99_ms: float


def wake(masters: int, channel: waking.Channel, costs: Costs, jobs: int) -> Wake:
    """Simulate about this many jobs on a cluster that is nearly idle."""
    shards = 64 if masters < 64 else 1024
    jobs_s = 100.0 * masters
    setup = waking.Setup(
        masters=masters,
        apis=apis_for(masters),
        shards=shards,
        channel=channel,
        jobs_s=jobs_s,
    )
    run = waking.Waking(setup, costs)
    run.run(jobs / jobs_s)
    api_us = sum(api.busy_us for api in run.apis) / run.came
    redis_us = sum(master.busy_us for master in run.masters) / run.came
    _, even = busiest_share(masters, shards)
    waits = sorted(run.waits_us)
    return Wake(
        heard=run.heard / run.came,
        fetches=run.fetches / run.came,
        api_us=api_us,
        redis_us=redis_us,
        jobs_s=min(setup.apis * 1e6 / api_us, masters * 1e6 / redis_us * even),
        p50_ms=waits[len(waits) // 2] / 1000,
        p99_ms=waits[len(waits) * 99 // 100] / 1000,
    )
