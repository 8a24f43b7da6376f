"""The limits of a cluster of 10, 100 and 1 000 masters, by simulation.

    python -m loadtest.sim [--quick]

First come the measured setups, simulated and compared; then full clusters, wake-ups, and costs
without requests. ``docs/scaling.md`` explains the tables.
"""

from __future__ import annotations

import argparse

from loadtest.bench._table import print_table
from loadtest.sim.costs import Costs, Observed, load
from loadtest.sim.limits import at_rest
from loadtest.sim.predict import apis_for, busiest_share, compared, full, wake

FULL = (
    *((1, 64), (3, 64), (10, 64), (10, 1024)),
    *((30, 64), (30, 256), (30, 1024), (100, 64), (100, 1024)),
)
LARGEST = ((1000, 1024),)
WAKES = (1, 3, 10, 30, 100)
QUICK_MASTERS = 10


def print_again(costs: Costs, observed: list[Observed]) -> None:
    """Print measured values beside simulated ones."""
    rows = []
    for each in observed:
        cells = [
            f"{was:.0f} / {now:.0f} ({now / was - 1:+.0%})" for was, now in compared(each, costs)
        ]
        rows.append([each.name, each.connections, *cells])
    heads = ["measured / simulated", "connections", "API us", "Redis us", "requests/s"]
    print_table(heads, rows)


def print_full(costs: Costs, *, quick: bool) -> None:
    """Print the rates and costs of full clusters."""
    rows = []
    setups = [each for each in FULL if not quick or each[0] <= QUICK_MASTERS]
    for masters, shards in setups + ([] if quick else list(LARGEST)):
        run = full(masters, shards, costs)
        used, even = busiest_share(masters, shards)
        rows.append(
            [
                masters,
                apis_for(masters),
                shards,
                used,
                f"{even:.2f}",
                f"{run.requests_s:,.0f}",
                f"{run.requests_s / masters:,.0f}",
                f"{run.api_us:.0f}",
                f"{run.redis_us:.0f}",
                f"{run.p50_ms:.1f}",
                f"{run.p99_ms:.1f}",
            ]
        )
    heads = ["masters", "API processes", "shards", "masters used", "even"]
    heads += ["requests/s", "per master", "API us", "Redis us", "p50 ms", "p99 ms"]
    print_table(heads, rows)


def print_wakes(costs: Costs, *, quick: bool) -> None:
    """Print the cost of wake-ups, by which processes receive the message about a job."""
    rows = []
    for masters in WAKES:
        if quick and masters > QUICK_MASTERS:
            continue
        for channel in ("shard", "queue", "process"):
            run = wake(masters, channel, costs, jobs=500 if quick else 2000)
            cells = [f"{run.heard:.1f}", f"{run.fetches:.1f}", f"{run.api_us:.0f}"]
            cells += [f"{run.redis_us:.0f}", f"{run.jobs_s:,.0f}", f"{run.jobs_s / masters:,.0f}"]
            rows.append([masters, channel, *cells, f"{run.p50_ms:.2f}", f"{run.p99_ms:.2f}"])
    heads = ["masters", "channel of a", "messages", "fetches", "API us", "Redis us"]
    heads += ["jobs/s", "per master", "p50 ms", "p99 ms"]
    print_table(heads, rows)


def print_at_rest(costs: Costs) -> None:
    """Print costs that grow with the cluster alone."""
    rows = []
    for masters, shards, queues in ((3, 64, 100), (10, 128, 1000), (100, 1024, 1000)):
        rows.append(rest_row(masters, shards, queues, costs))
    rows.append(rest_row(100, 1024, 10_000, costs))
    rows.append(rest_row(1000, 1024, 10_000, costs))
    heads = ["masters", "shards", "queues", "connections", "descriptors"]
    heads += ["meta", "gauges", "leases", "scheduler", "topology ms"]
    print_table(heads, rows)


def rest_row(masters: int, shards: int, queues: int, costs: Costs) -> list[object]:
    """Return a row of this table, with three schedulers."""
    rest = at_rest(masters, shards, queues, 3, costs)
    loads = (f"{load:.2%}" for load in (rest.meta, rest.gauges, rest.leases, rest.scheduler))
    counts = (rest.connections, rest.descriptors)
    return [masters, shards, queues, *counts, *loads, f"{rest.topology_ms:.1f}"]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 10 masters: some seconds")
    options = parser.parse_args()
    costs, observed = load()
    print_again(costs, observed)
    print("\nA full cluster\n")
    print_full(costs, quick=options.quick)
    print("\nJobs that wake a worker, 4 queues for each shard with 8 waiting workers each\n")
    print_wakes(costs, quick=options.quick)
    print("\nWithout any request\n")
    print_at_rest(costs)


if __name__ == "__main__":
    main()
