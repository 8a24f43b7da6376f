"""What a long queue costs: the same operations on a queue of 1 000 and on one of 1 000 000 jobs.

Both queues live in one server and the rounds alternate between them, so noise meets both alike.
Printed are medians of wall time per operation (one caller, so no queueing) and the ratio, and the
memory that a queued job with 200 bytes of args takes.

    python -m loadtest.bench.depth [--deep 1000000] [--shallow 1000] [--rounds 20]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from loadtest.bench._jobs import fill, new_job, used_memory
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded import Embedded, find_server
from ojs_cluster.store.cancel import cancel
from ojs_cluster.store.context import Store, StoreSettings, open_store
from ojs_cluster.store.enqueue import enqueue
from ojs_cluster.store.fetch import fetch, release
from ojs_cluster.store.queues import stats
from ojs_cluster.store.record import JobRecord

PER_ROUND = 50


async def measure(store: Store, queues: dict[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds per operation: operation -> depth -> seconds."""

    async def enqueue_one(queue: str) -> None:
        await enqueue(store, new_job(queue))

    async def fetch_one(queue: str) -> None:
        jobs = await fetch(store, [queue], count=1, worker_id="bench")
        held[queue].extend(jobs)

    async def stats_one(queue: str) -> None:
        await stats(store, queue)

    held: dict[str, list[JobRecord]] = {queue: [] for queue in queues.values()}
    operations: dict[str, Callable[[str], Awaitable[None]]] = {
        "enqueue": enqueue_one,
        "fetch": fetch_one,
        "stats": stats_one,
    }
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, operation in operations.items():
            for depth, queue in queues.items():
                started = time.perf_counter()
                for _ in range(PER_ROUND):
                    await operation(queue)
                spent = (time.perf_counter() - started) / PER_ROUND
                times.setdefault(name, {}).setdefault(depth, []).append(spent)
        for depth, queue in queues.items():
            # Cancelled while waiting, at the queue's far end: what was fetched goes back first.
            await release(store, held[queue])
            held[queue].clear()
            waiting = [await enqueue(store, new_job(queue)) for _ in range(PER_ROUND)]
            started = time.perf_counter()
            for record in waiting:
                await cancel(store, record.id)
            spent = (time.perf_counter() - started) / PER_ROUND
            times.setdefault("cancel", {}).setdefault(depth, []).append(spent)
    return {
        name: {depth: statistics.median(values) for depth, values in by_depth.items()}
        for name, by_depth in times.items()
    }


async def run(url: str, shallow: int, deep: int, rounds: int) -> None:
    """Fill, measure, print."""
    settings = StoreSettings(events_per_shard=1000)
    async with open_store(ClientSettings.from_url(url), settings) as store:
        before = await used_memory(store)
        await fill(store, "deep", deep)
        per_job = (await used_memory(store) - before) / deep
        await fill(store, "shallow", shallow)
        names = {f"{shallow:,}": "shallow", f"{deep:,}": "deep"}
        await measure(store, names, 2)
        found = await measure(store, names, rounds)
    low, high = names
    print(f"| operation | at {low} (us) | at {high} (us) | ratio |\n|---|---|---|---|")
    for name, by_depth in found.items():
        print(
            f"| {name} | {by_depth[low] * 1e6:.0f} | {by_depth[high] * 1e6:.0f} "
            f"| {by_depth[high] / by_depth[low]:.2f} |"
        )
    print(f"\nmemory per queued job with 200 bytes of args: {per_job:.0f} bytes")


def main() -> None:
    """Parse the command line and run on an embedded standalone server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shallow", type=int, default=1000)
    parser.add_argument("--deep", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        Embedded(
            Path(directory),
            masters=1,
            cluster=False,
            binary=find_server(options.server),
            append_only=False,
        ) as server,
    ):
        trio.run(run, server.url, options.shallow, options.deep, options.rounds)


if __name__ == "__main__":
    main()
