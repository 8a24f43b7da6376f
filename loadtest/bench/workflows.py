"""The cost of a workflow's step, from its start to its ack, against that of a plain job.

    python -m loadtest.bench.workflows [--sizes 10 100 1000] [--against FOLDER] [--quick]

One API process and one scheduler run over a cluster of three masters. In each round some plain jobs
run first: each is enqueued, fetched and acknowledged, in three requests. Then follow a chain, a
group and a batch with a callback of each size. A chain has one worker and the others have
``--workers``, as the plain jobs that they are compared with. A worker fetches one job in a long
poll and acknowledges it.

The table has, per job and including the creation of its workflow: the processor time of the API and
of all masters in microseconds, the number of scripts, and the ratio of both times together to a
plain job of the same round. With ``--against`` another version, from its own folder, runs the same
rounds in turn, and the last column has the ratio to it.

The second table has, for each size, the time from the ack of a step of a chain until a worker that
waits has the next one, as a multiple of a wake-up: the time from an enqueue until a worker that
waits has its job, in turn with it. It also has the size of the response to ``GET`` of a group, and
the processor time of the API for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from redis import Redis

from loadtest.bench._processes import cpu_s, running
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start_api
from loadtest.bench.many_queues import Connection, connect
from ojs_cluster.server.embedded.servers import Embedded, find_server

WAIT_MS = 20_000
KINDS = ("chain", "group", "batch")
ARGS = ["x" * 100]
_STEPS = 100
"""Maximum number of steps of a chain whose wake-ups are measured."""
_GETS = 20


@dataclass
class Version:
    """One version under measurement; costs per job of each row, one value per round."""

    name: str
    target: Target
    masters: Sequence[Redis]
    api_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    redis_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    scripts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def forget(self) -> None:
        """Discard the measurements of the warm-up."""
        for values in (self.api_us, self.redis_us, self.scripts, self.seconds):
            values.clear()

    def total(self, row: str) -> float:
        """Return the median of the processor time of API and Redis together."""
        return statistics.median(
            api + redis for api, redis in zip(self.api_us[row], self.redis_us[row], strict=True)
        )

    def readings(self) -> tuple[float, float, float, float]:
        """Return processor times, calls of scripts, and the time, as they are now."""
        calls = 0
        for master in self.masters:
            stats: dict[str, Any] = master.info("commandstats")
            calls += sum(
                each["calls"] for name, each in stats.items() if name.startswith("cmdstat_evalsha")
            )
        api, redis = cpu_s(self.target.api_pids), cpu_s(self.target.redis_pids)
        return api * 1e6, redis * 1e6, calls, trio.current_time()

    def note(self, row: str, before: tuple[float, ...], jobs: int) -> None:
        """Add what ``jobs`` jobs have cost since ``before``."""
        values = [now - then for now, then in zip(self.readings(), before, strict=True)]
        for into, value in zip((self.api_us, self.redis_us, self.scripts), values, strict=False):
            into[row].append(value / jobs)
        self.seconds[row].append(values[3])


def step_of(queue: str) -> dict[str, Any]:
    """Return a job as a request names it."""
    return {"type": "bench.step", "args": ARGS, "options": {"queue": queue}}


async def plain(target: Target, jobs: int, workers: int, queue: str) -> None:
    """Enqueue, fetch and acknowledge jobs, one after the other on each connection."""

    async def lifecycles(count: int) -> None:
        async with connect(target) as connection:
            for _ in range(count):
                await connection.send("/ojs/v1/jobs", step_of(queue))
                await fetch_and_ack(connection, queue)

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(lifecycles, jobs // workers)


async def fetch_and_ack(connection: Connection, queue: str) -> int:
    """Wait for a job and complete it; return the number of jobs."""
    body = {"queues": [queue], "count": 1, "worker_id": "bench", "wait_ms": WAIT_MS}
    jobs = (await connection.send("/ojs/v1/workers/fetch", body)).get("jobs", [])
    for job in jobs:
        ended = {"job_id": job["id"], "lease_id": job["lease_id"]}
        await connection.send("/ojs/v1/workers/ack", ended)
    return len(jobs)


async def workflow(target: Target, kind: str, size: int, workers: int, queue: str) -> None:
    """Create a workflow of ``size`` jobs and run all of them."""
    step = step_of(queue)
    body: dict[str, Any] = {"type": kind}
    if kind == "chain":
        body["steps"] = [step] * size
    elif kind == "group":
        body["jobs"] = [step] * size
    else:
        body |= {"jobs": [step] * (size - 1), "callbacks": {"on_complete": step}}
    left = size

    async def work(nursery: trio.Nursery) -> None:
        nonlocal left
        async with connect(target) as connection:
            while left > 0:
                done = await fetch_and_ack(connection, queue)
                left -= done
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for _ in range(workers):
            nursery.start_soon(work, nursery)
        async with connect(target) as connection:
            await connection.send("/ojs/v1/workflows", body)


async def fetch_one(connection: Connection, queue: str) -> Any:
    """Wait for a job and return it."""
    body = {"queues": [queue], "count": 1, "worker_id": "bench", "wait_ms": WAIT_MS}
    return (await connection.send("/ojs/v1/workers/fetch", body))["jobs"][0]


async def wakes(target: Target, steps: int, queue: str, chain: bool) -> list[float]:
    """Return the seconds from an enqueue, or the ack of a step, until a worker has the next job."""
    times = list[float]()
    async with connect(target) as worker, connect(target) as other:
        if chain:
            await other.send(
                "/ojs/v1/workflows", {"type": "chain", "steps": [step_of(queue)] * steps}
            )
            job = await fetch_one(worker, queue)
        for _ in range(steps - 1):
            fetched = trio.Event()
            found: list[Any] = []

            async def wait(fetched: trio.Event = fetched, found: list[Any] = found) -> None:
                found.append(await fetch_one(worker, queue))
                fetched.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.sleep(0.02)  # until the worker waits
                began = time.perf_counter()
                if chain:
                    ended = {"job_id": job["id"], "lease_id": job["lease_id"]}
                    await other.send("/ojs/v1/workers/ack", ended)
                else:
                    await other.send("/ojs/v1/jobs", step_of(queue))
                await fetched.wait()
                times.append(time.perf_counter() - began)
            job = found[0]
    return times


async def response_of_group(target: Target, size: int) -> tuple[int, float]:
    """Return the bytes of a ``GET`` of a group, and the processor time of the API in seconds."""
    async with connect(target) as connection:
        body = {"type": "group", "jobs": [step_of("shown")] * size}
        created = await connection.send("/ojs/v1/workflows", body)
    path = f"/ojs/v1/workflows/{(created.get('workflow') or created)['id']}"
    before, response = cpu_s(target.api_pids), b""
    for _ in range(_GETS):
        async with await trio.open_tcp_stream(target.host, target.port) as stream:
            head = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
            await stream.send_all(head.encode())
            response = b"".join([piece async for piece in stream])
    if response[9:12] != b"200":
        raise SystemExit(f"{path}: {response[:200]!r}")
    return len(response), (cpu_s(target.api_pids) - before) / _GETS


async def print_sizes(target: Target, options: argparse.Namespace) -> None:
    """Measure and print the second table."""
    rows = []
    for size in options.sizes:
        steps = min(size, _STEPS)
        chain, plain_ = list[float](), list[float]()
        for number in range(options.rounds):
            plain_ += await wakes(target, steps, f"wake-{size}-{number}", chain=False)
            chain += await wakes(target, steps, f"chained-{size}-{number}", chain=True)
        length, used = await response_of_group(target, size)
        cells = [f"{statistics.median(plain_) * 1000:.2f}", ratio(chain, plain_)]
        rows.append([str(size), *cells, f"{length / 1024:.1f}", f"{used * 1000:.2f}"])
    heads = ["jobs", "a wake-up, ms", "next step of a chain", "GET of a group, KiB", "API, ms"]
    print_table(heads, rows)


async def take_round(version: Version, options: argparse.Namespace, number: int) -> None:
    """Measure all rows once."""
    for workers in (1, options.workers):
        before = version.readings()
        await plain(version.target, options.jobs, workers, f"plain-{number}-{workers}")
        version.note(f"plain, {workers}", before, options.jobs // workers * workers)
    for size in options.sizes:
        times = max(1, options.jobs // size)
        for kind in options.kinds:
            before = version.readings()
            for each in range(times):
                queue = f"{kind}-{size}-{number}-{each % 8}"
                workers = 1 if kind == "chain" else options.workers
                await workflow(version.target, kind, size, workers, queue)
            version.note(f"{kind} of {size}", before, times * size)


async def run(versions: list[Version], options: argparse.Namespace) -> None:
    """Measure and print all rows."""
    for number in range(options.rounds + 1):
        for version in versions[number % 2 :] + versions[: number % 2]:
            await take_round(version, options, number)
        if number == 0:
            for version in versions:
                version.forget()
    heads = ["per job", "API, us", "Redis, us", "scripts", "plain jobs"]
    for version in versions:
        print(f"{version.name} ({Connection.errors} errors in all)\n")
        rows = []
        for row in version.api_us:
            alone = row.startswith(("chain", "plain, 1"))
            base = version.total(f"plain, {1 if alone else options.workers}")
            cells = [
                f"{statistics.median(version.api_us[row]):.0f}",
                f"{statistics.median(version.redis_us[row]):.0f}",
                f"{statistics.median(version.scripts[row]):.2f}",
                f"{version.total(row) / base:.2f}",
            ]
            if len(versions) > 1:
                cells.append(f"{version.total(row) / versions[-1].total(row):.2f}")
            rows.append([row, *cells])
        print_table([*heads, versions[-1].name] if len(versions) > 1 else heads, rows)
        print()
    await print_sizes(versions[0].target, options)


def start(
    stack: contextlib.ExitStack, folder: Path, name: str, source: str | None, server: str
) -> Version:
    """Start one version with its own servers, and its scheduler."""
    embedded = Embedded(
        folder / name, binary=find_server(server), masters=3, cluster=True, append_only=False
    )
    stack.enter_context(embedded)
    limits = {"OJS_MAX_BATCH": "10000"}
    os.environ.update(limits)
    target = start_api(stack, embedded, name, source=source)
    env = {"REDIS_URL": embedded.url, "PYTHONPATH": source or os.getcwd()}
    command = ["-m", "ojs_cluster.cli", "scheduler"]
    stack.enter_context(running(command, target.port, env, source=source))
    masters = [Redis(port=node.port) for node in embedded.nodes]
    return Version(name, target, masters)


def main() -> None:
    """Parse the command line and run on embedded clusters of three masters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs of a row in a round, or more")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--against", help="folder of another version")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.jobs = 2, 200
    print_setting(find_server(options.server), f"medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        versions = [start(stack, Path(folder), "this", None, options.server)]
        if options.against:
            versions.append(start(stack, Path(folder), "other", options.against, options.server))
        trio.run(run, versions, options)


if __name__ == "__main__":
    main()
