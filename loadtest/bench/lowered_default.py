"""The cost of a lowered ``OJS_QUEUE_PARTITIONS``: a round of the janitor over very many queues.

    python -m loadtest.bench.lowered_default [--queues 100000] [--partitions 4] [--prefer]

An embedded cluster of three masters. Each queue has one job in partition 0. Before the first round,
the default was lowered to 1, and ``--few`` queues have jobs in old partitions. These queues get
entries of their own, and the default closes. Before the second round, the default was lowered
again, and all queues have jobs in their old partitions. No process could keep so many entries, so
the default stays open.

The janitor pauses between two pages of queues, but this process does not. Beside the round, it
completes the changes of the table, as the janitor does. The table has the time, the processor time
of this process and of all masters, the commands per queue (those of scripts included), the longest
command in the SLOWLOG, how many took over 10 ms, the open partitions of the default, the entries of
the partition table, the size of its keys in Redis, and by how much the memory of this process grew.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import trio

from loadtest.bench._processes import cpu_s, prefer
from loadtest.bench._table import print_setting, print_table
from ojs_cluster.core.jobs.envelope import parse_job
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.enqueue.enqueue import enqueue
from ojs_cluster.store.features.retention.retention import retire_queues
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.partitions import DEFAULT
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store
from ojs_scheduler.loops.janitor import partitions_step

HEADS = (
    *("round", "s", "process s", "masters s", "commands/queue", "longest ms", "over 10 ms"),
    *("open", "entries", "table KiB", "grown MiB"),
)
LIMIT_MS = 10
PAGE = 100


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queues", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=4, help="the default before")
    parser.add_argument("--few", type=int, default=900, help="queues with jobs in old partitions")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument(
        "--prefer", action="store_true", help="give the measured processes most of the machine"
    )
    parser.add_argument("--quick", action="store_true", help="1100 queues")
    options = parser.parse_args()
    if options.quick:
        options.queues, options.few = 1100, 20
    binary = find_server(options.server)
    how = f"{options.queues:,} queues, default lowered from {options.partitions} to 1"
    print_setting(binary, how)
    with (
        TemporaryDirectory() as folder,
        Embedded(Path(folder), masters=3, binary=binary, append_only=False) as embedded,
    ):
        if options.prefer:
            prefer([os.getpid(), *(node.pid for node in embedded.nodes if node.pid is not None)])
        trio.run(measure, embedded, options.queues, options.partitions, options.few)


async def measure(embedded: Embedded, queues: int, partitions: int, few: int) -> None:
    """Prepare and measure both rounds."""
    wide = PartitionLayout.of_count(partitions)
    # As if the default had been lowered long ago.
    lowered = replace(wide, count=1, previous_count=1)
    names = [f"queue-{number}" for number in range(queues)]
    rows = []
    settings = StoreSettings(max_queues=queues)
    async with open_store(ClientSettings.from_url(embedded.url), settings) as store:
        await set_default(store, lowered)
        await fill(store, names)
        for what, used in ((f"{few} in use", names[:few]), ("all in use", names)):
            await set_default(store, wide)
            await fill(store, used)
            await set_default(store, lowered)
            rows.append([what, *await one_round(store, embedded, queues)])
    print_table(HEADS, rows)


async def set_default(store: Store, layout: PartitionLayout) -> None:
    """Give all queues without an entry a layout, without its stages."""
    await store.partitions.update(store, DEFAULT, lambda *_: layout)


async def fill(store: Store, names: Iterable[str]) -> None:
    """Enqueue a job into each queue."""

    async def one(name: str) -> None:
        body = f'{{"type":"bench","args":[],"options":{{"queue":"{name}"}}}}'
        await enqueue(store, parse_job(body.encode()))

    await run_concurrently(names, one)


async def one_round(store: Store, embedded: Embedded, queues: int) -> list[object]:
    """Run a round to its end, and return the cells of its row."""
    masters = [node.pid for node in embedded.nodes if node.pid is not None]
    commands = sum(command_counts(embedded))
    for node in embedded.nodes:
        with node.client() as client:
            client.config_set("slowlog-log-slower-than", 1000)
            client.config_set("slowlog-max-len", 10_000)
            client.slowlog_reset()
    before, began = (memory_mib(), cpu_s([os.getpid()]), cpu_s(masters)), time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(complete_changes, store)
        _, cursor = await retire_queues(store, "", PAGE)
        while cursor:
            _, cursor = await retire_queues(store, cursor, PAGE)
        nursery.cancel_scope.cancel()
    took_s, after = time.perf_counter() - began, (cpu_s([os.getpid()]), cpu_s(masters))
    longest_ms = sorted(slow_ms(embedded))
    used = [after[0] - before[1], after[1] - before[2]]
    meta, bytes_used = store.keys.meta, 0
    for key in (meta.partitions, meta.partition_changes):
        found: Any = await store.redis.call(
            *(meta.slot, "MEMORY", "USAGE", key, "SAMPLES", 0), idempotent=True
        )
        bytes_used += found or 0
    return [
        *(f"{took_s:.0f}", *(f"{cpu:.1f}" for cpu in used)),
        f"{(sum(command_counts(embedded)) - commands) / queues:.1f}",
        f"{longest_ms[-1]:.1f}" if longest_ms else "below 1",
        sum(ms > LIMIT_MS for ms in longest_ms),
        *(store.partitions.default.open_count, store.partitions.entry_count - 1),
        *(f"{bytes_used / 1024:.0f}", f"{memory_mib() - before[0]:.1f}"),
    ]


async def complete_changes(store: Store) -> None:
    """Run the other step of the janitor that reads and changes the table."""
    step = partitions_step(store)
    while True:
        result = await step(0)
        await trio.sleep((result.next_ms or 0) / 1000)


def command_counts(embedded: Embedded) -> Iterable[int]:
    """Return the number of commands that each server has run, those of scripts included."""
    for node in embedded.nodes:
        with node.client() as client:
            yield client.info("stats")["total_commands_processed"]


def slow_ms(embedded: Embedded) -> Iterable[float]:
    """Return the durations in the SLOWLOG of all servers in milliseconds."""
    for node in embedded.nodes:
        with node.client() as client:
            yield from (entry["duration"] / 1000 for entry in client.slowlog_get(10_000))


def memory_mib() -> float:
    """Return the largest memory that this process has used so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
