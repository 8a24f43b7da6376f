"""The effect of partitions on one hot queue: jobs per second, and the load of each master.

    python -m loadtest.bench.partitions [--jobs 6000] [--rounds 3] [--partitions 1 4 16]

An embedded cluster of three masters, and callers in one process that enqueue, fetch and ack a job
in a loop. The rounds alternate between queues with different numbers of partitions, so that other
load on the machine affects all alike. The table has medians.

*jobs/s* is limited by this process, which shares the cores of the machine with the masters. The
other columns show the effect of partitions: the share of each master in the CPU time, and the CPU
time per job of the busiest master. A queue cannot be faster than its busiest master: *ceiling* is
the rate at which that master would be full, relative to one partition. *calls* is the number of
scripts per fetched job.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import trio

from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.redis.client import Client
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.open import open_store
from tests.support.lossy import LossyClient

CALLERS = 64


@dataclass
class Result:
    """Measurements for one number of partitions, one value per round."""

    partitions: int
    rate: list[float] = field(default_factory=list)
    cpu_us: list[list[float]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)

    def shares(self) -> list[float]:
        """Return each master's share of the CPU time, the largest first."""
        by_master = [statistics.median(of_one) for of_one in zip(*self.cpu_us, strict=True)]
        return sorted((us / sum(by_master) for us in by_master), reverse=True)

    def busiest_us(self) -> float:
        """Return the CPU time per job of the busiest master."""
        return statistics.median(max(of_round) for of_round in self.cpu_us)


def cpu_us(embedded: Embedded) -> list[float]:
    """Return the CPU time that each master has used."""
    used = []
    for node in embedded.masters():
        with node.client() as client:
            info: dict[str, float] = client.info("cpu")
        used.append((info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6)
    return used


async def one_round(store: Store, embedded: Embedded, result: Result, jobs: int) -> None:
    """Move about ``jobs`` jobs through the queue and record the cost."""
    queue = f"hot{result.partitions}"
    job = parse_job(b'{"type":"bench.hot","args":[],"options":{"queue":"%b"}}' % queue.encode())
    client = LossyClient(store.redis, lambda *_: False)
    store = replace(store, redis=cast(Client, client))

    async def caller(number: int) -> None:
        for _ in range(jobs // CALLERS):
            await enqueue(store, job)
            for got in await fetch(store, [queue], count=1, worker_id=f"w{number}"):
                await ack(store, got.id, worker_id=f"w{number}", lease_id=None, result=None)

    before, began = cpu_us(embedded), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(CALLERS):
            nursery.start_soon(caller, number)
    seconds, after = time.perf_counter() - began, cpu_us(embedded)
    done = jobs // CALLERS * CALLERS
    result.rate.append(done / seconds)
    result.cpu_us.append([(b - a) / done for a, b in zip(before, after, strict=True)])
    asked = sum(client.calls.get(name, 0) for name in ("fetch", "fetch_full", "peek_depth"))
    result.calls.append(asked / done)


async def run(embedded: Embedded, counts: Sequence[int], jobs: int, rounds: int) -> list[Result]:
    """Measure all numbers of partitions, in turn."""
    results = [Result(count) for count in counts]
    async with open_store(ClientSettings.from_url(embedded.url)) as store:
        for result in results:
            layout = PartitionLayout.of_count(result.partitions)
            # As if the number had been set long ago, so that nothing has to be awaited.
            await store.partitions.update(
                store,
                f"hot{result.partitions}",
                lambda _, __, to=layout: to,  # type: ignore[misc]
            )
        for number in range(rounds + 1):
            for result in results:
                await one_round(store, embedded, result, jobs if number else jobs // 4)
        for result in results:  # the first round only warms up
            del result.rate[0], result.cpu_us[0], result.calls[0]
    return results


def report(results: Sequence[Result]) -> None:
    """Print medians, and ratios to the first row."""
    base = results[0]
    print("partitions |  jobs/s (ratio) | master CPU shares | busiest, us/job | ceiling | calls")
    for result in results:
        rate = statistics.median(result.rate)
        shares = " ".join(f"{share:4.0%}" for share in result.shares())
        print(
            f"{result.partitions:>10} | {rate:>7.0f} ({rate / statistics.median(base.rate):4.2f}) "
            f"| {shares:>17} | {result.busiest_us():>15.0f} "
            f"| {base.busiest_us() / result.busiest_us():>6.2f}x "
            f"| {statistics.median(result.calls):>5.2f}"
        )


def main() -> None:
    """Parse the command line and run on an embedded cluster of three masters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=6000, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--partitions", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds = 2000, 2
    with (
        tempfile.TemporaryDirectory() as directory,
        Embedded(
            Path(directory), masters=3, binary=find_server(options.server), append_only=False
        ) as embedded,
    ):
        report(trio.run(run, embedded, options.partitions, options.jobs, options.rounds))


if __name__ == "__main__":
    main()
