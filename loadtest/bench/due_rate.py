"""How late is promotion while a million jobs become due within a minute?

    python -m loadtest.bench.due_rate [--jobs 1000000] [--seconds 60] [--queues 64] [--quick]

An embedded cluster of three masters runs with one scheduler process with default settings. The jobs
are due one after the other, spread evenly over the queues. No worker fetches. An observer reads the
time of every master and the oldest entry of each shard's ``due`` set ten times a second. *behind*
is how long ago that entry was due, in ms, and 0 if it is not due yet; the largest value of all
shards counts. The observer's own calls are part of the load.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, quantile
from loadtest.bench.due_latency import scheduler_process
from ojs_cluster.core.jobs.envelope import NewJob, parse_job
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.keys import Shard
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue_many
from ojs_cluster.store.open import open_store

SHARDS = 64
BATCH = 250
PRODUCERS = 8
PERIOD_S = 0.1
STORED_PER_S = 5000
"""Smallest rate at which jobs are stored: the first one is due after all are stored."""
GOAL_MS = 1000.0


def main() -> None:
    """Store the jobs, watch them become available, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--queues", type=int, default=64)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="as many jobs a second, for 3 s")
    options = parser.parse_args()
    if options.quick:
        options.jobs = int(options.jobs * 3 / options.seconds)
        options.seconds = 3.0
    binary = find_server(options.server)
    with tempfile.TemporaryDirectory() as folder:
        embedded = Embedded(Path(folder), binary=binary, append_only=True)
        with embedded, scheduler_process(embedded.url):
            behind, cpu_us = trio.run(
                measure, embedded, options.jobs, options.seconds, options.queues
            )
    print_setting(
        binary, f"3 masters, {options.jobs} jobs due within {options.seconds:g} s, one scheduler"
    )
    row = [f"{quantile(behind, q):.0f}" for q in (0.5, 0.99, 1.0)]
    print_table(
        ["queues", "behind p50 ms", "p99", "max", "masters' us per job"],
        [[str(options.queues), *row, f"{cpu_us:.1f}"]],
    )
    print("reached" if max(behind) <= GOAL_MS else "not reached")


async def measure(
    embedded: Embedded, jobs: int, seconds: float, queues: int
) -> tuple[list[float], float]:
    """Return the samples of *behind*, and the masters' processor time per job in us."""
    async with open_store(ClientSettings.from_url(embedded.url), shards=SHARDS) as store:
        names = [f"rate-{i}" for i in range(queues)]
        shards = list({store.keys.partitions(name, 1)[0] for name in names})
        begin_ms = await _now_ms(store, shards[0]) + int(1000 * (2 + jobs / STORED_PER_S))
        await _enqueue_all(store, names, jobs, begin_ms, seconds)
        left_ms = begin_ms - await _now_ms(store, shards[0])
        if left_ms < 0:
            raise SystemExit("the machine stores too slowly; choose fewer jobs")
        await trio.sleep(left_ms / 1000)
        pids = [node.pid for node in embedded.masters()]
        before = cpu_s(pids)
        behind = await _watch(store, shards)
        return behind, (cpu_s(pids) - before) / jobs * 1e6


async def _enqueue_all(
    store: Store, names: Sequence[str], jobs: int, begin_ms: int, seconds: float
) -> None:
    starts = iter(range(0, jobs, BATCH))

    def job(number: int) -> NewJob:
        due_ms = begin_ms + int(number * seconds * 1000 / jobs)
        # One queue gets a whole batch, which one call stores.
        queue = names[number // BATCH % len(names)]
        return parse_job(
            b'{"type":"bench.due","args":[%d],"options":{"queue":"%b","scheduled_at":"%b"}}'
            % (number, queue.encode(), format_ms(due_ms))
        )

    async def produce() -> None:
        for start in starts:
            end = min(start + BATCH, jobs)
            await enqueue_many(store, [job(number) for number in range(start, end)])

    async with trio.open_nursery() as nursery:
        for _ in range(PRODUCERS):
            nursery.start_soon(produce)


async def _watch(store: Store, shards: Sequence[Shard]) -> list[float]:
    """Sample until no job is in ``due``."""
    behind: list[float] = []
    while True:
        oldest: list[float | None] = []

        async def look(shard: Shard, oldest: list[float | None] = oldest) -> None:
            now_ms = await _now_ms(store, shard)
            reply = await store.redis.call(shard.slot, "ZRANGE", shard.due, 0, 0, "WITHSCORES")
            assert isinstance(reply, list)
            oldest.append(max(0.0, now_ms - float(str(reply[1], "ascii"))) if reply else None)

        async with trio.open_nursery() as nursery:
            for shard in shards:
                nursery.start_soon(look, shard)
        known = [late for late in oldest if late is not None]
        if not known:
            return behind
        behind.append(max(known))
        await trio.sleep(PERIOD_S)


async def _now_ms(store: Store, shard: Shard) -> int:
    reply = await store.redis.call(shard.slot, "TIME")
    assert isinstance(reply, list)
    seconds, micros = (int(part) for part in reply if isinstance(part, bytes))
    return seconds * 1000 + micros // 1000


if __name__ == "__main__":
    main()
