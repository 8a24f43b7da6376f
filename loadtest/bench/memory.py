"""Memory per job in Redis while available, active and completed, and the effect of one setting.

    python -m loadtest.bench.memory [--jobs 50000] [--server redis-server] [--quick]
                                    [--chart docs/memory.svg]

A job is a hash. Redis stores a small hash in one piece of memory (a listpack) and a large one in a
hash table, which takes about 400 bytes more. ``hash-max-listpack-value`` (64 by default) is the
longest value in a listpack, and the args of a job are longer. With jemalloc, ``ojs-cluster dev``,
docker-compose.yml and the Helm chart set it to 1024 (docs/adr/014).

The first table has the bytes per job by ``used_memory``, including indexes and keys, for jobs with
200 bytes of args in one queue. The second table has the cost of the setting: the same jobs are
enqueued, fetched and acknowledged on all servers in turn, and the processor time of each is read
from /proc, for several sizes of args.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

import trio

from loadtest.bench._chart import draw_bars
from loadtest.bench._jobs import fill, lifecycles, used_memory
from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.server.embedded.servers import Embedded, ServerBinary, find_server
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import fetch
from ojs_cluster.store.engine.jobs.ack import ack
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.open import open_store

SETTING = "hash-max-listpack-value"
VALUES = ("64", "1024", "8192")
STATES = ("queued", "active", "completed")
SIZES = (200, 900, 4000, 30_000)


async def bytes_per_job(store: Store, jobs: int) -> list[float]:
    """Return the bytes of an available, an active and a completed job."""
    # Scripts, connections and the event stream exist before the first measurement.
    await lifecycles(store, "warm", 640)
    begin = await used_memory(store)
    await fill(store, "memory", jobs)
    found = [(await used_memory(store) - begin) / jobs]
    active: list[JobRecord] = []
    while len(active) < jobs:
        active += await fetch(store, ["memory"], count=500, worker_id="bench")
    found.append((await used_memory(store) - begin) / jobs)
    async with trio.open_nursery() as nursery:
        for start in range(32):
            nursery.start_soon(_finish, store, [(j.id, j.lease_id) for j in active[start::32]])
    found.append((await used_memory(store) - begin) / jobs)
    return found


async def _finish(store: Store, jobs: list[tuple[str, str | None]]) -> None:
    for job_id, lease_id in jobs:
        await ack(store, job_id, worker_id="bench", lease_id=lease_id, result=b"null")


async def run(
    servers: dict[str, Embedded], jobs: int, rounds: int, per_round: int, chart: Path | None
) -> None:
    """Measure everything and print both tables."""
    settings = StoreSettings(events_per_shard=1000)
    async with contextlib.AsyncExitStack() as stack:
        stores = {
            value: await stack.enter_async_context(
                open_store(ClientSettings.from_url(server.url), settings)
            )
            for value, server in servers.items()
        }
        rows: list[list[str]] = []
        bars: dict[str, dict[str, float]] = {state: {} for state in STATES}
        for value, store in stores.items():
            found = await bytes_per_job(store, jobs)
            rows.append([f"{SETTING} {value}", *(f"{size:.0f}" for size in found)])
            for state, size in zip(STATES, found, strict=True):
                bars[state][f"{SETTING} {value}"] = size
        print_table(["bytes per job", *STATES], rows)
        if chart:
            draw_bars(chart, "Bytes of Redis's memory per job with 200 bytes of args", bars)
        print()
        rows = []
        for size in SIZES:
            spent = await _compare(stores, servers, size, rounds, per_round)
            base = spent[VALUES[0]]
            cells = [f"{statistics.median(base):.0f}"]
            rows.append([str(size), *cells, *(ratio(spent[v], base) for v in VALUES[1:])])
        heads = ["bytes of args", f"Redis us per job at {VALUES[0]}"]
        print_table([*heads, *(f"at {value}, ratio" for value in VALUES[1:])], rows)


async def _compare(
    stores: dict[str, Store], servers: dict[str, Embedded], size: int, rounds: int, jobs: int
) -> dict[str, list[float]]:
    """Return the microseconds of processor time of a job's lifecycle on each server, per round."""
    spent: dict[str, list[float]] = {value: [] for value in stores}
    for number in range(rounds + 1):
        for value, store in stores.items():
            pids = [node.pid for node in servers[value].nodes]
            before = cpu_s(pids)
            await lifecycles(store, f"cycle-{size}", jobs, size)
            if number:  # the first round warms up
                spent[value].append((cpu_s(pids) - before) / jobs * 1e6)
    return spent


def _start(stack: contextlib.ExitStack, folder: Path, binary: ServerBinary) -> dict[str, Embedded]:
    return {
        value: stack.enter_context(
            Embedded(
                folder / value,
                masters=1,
                cluster=False,
                binary=binary,
                append_only=False,
                config={SETTING: value},
            )
        )
        for value in VALUES
    }


def main() -> None:
    """Parse the command line and run on embedded standalone servers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--per-round", type=int, default=640)
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and rounds")
    parser.add_argument("--chart", type=Path, help="an SVG file to draw into")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds, options.per_round = 10_000, 3, 320
    binary = find_server(options.server)
    allocator = "jemalloc" if binary.jemalloc else "libc's malloc"
    print_setting(binary, f"{allocator}; {options.jobs} jobs; medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        servers = _start(stack, Path(folder), binary)
        trio.run(run, servers, options.jobs, options.rounds, options.per_round, options.chart)


if __name__ == "__main__":
    main()
