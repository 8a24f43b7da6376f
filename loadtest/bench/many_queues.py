"""The cost of workers that name many queues: fetches, long polls with jobs, and idle long polls.

    python -m loadtest.bench.many_queues [--queues 1 8 64] [--rounds 5] [--waiters 25] [--quick]

One API process runs over a cluster of three masters. The rounds go through the numbers of queues in
turn. The table has the processor time of the API and of all masters in microseconds, and its ratio
to the first number of queues:

- *fetch*: one fetch of one job, which is in the last of its queues;
- *empty*: one fetch that finds no job;
- *waited*: one job from its enqueue to its ack, while ``--waiters`` workers wait for jobs of all
  queues in long polls; the jobs are enqueued at ``--rate`` per second in random queues.

The last table has the share of a core that ``--idle`` long polls cost which get no job, and the
responses that were errors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from loadtest.bench._load import END, is_complete
from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start
from loadtest.bench.batch import post
from ojs_cluster.server.embedded.servers import find_server

WAIT_MS = 20_000
Figures = dict[str, dict[int, list[float]]]


class Connection:
    """One keep-alive connection; counts the responses that are not successful."""

    errors = 0

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send(self, path: str, body: object) -> Any:
        """Send a POST request and return the body of the response."""
        await self._stream.send_all(post(path, body))
        response = b""
        while not is_complete(response):
            piece = await self._stream.receive_some(65_536)
            if not piece:
                raise SystemExit("the server closed a connection")
            response += piece
        if response[9:10] != b"2":
            Connection.errors += 1
        return json.loads(response[response.index(END) + 4 :])


@asynccontextmanager
async def connect(target: Target) -> AsyncIterator[Connection]:
    """Yield a new connection."""
    async with await trio.open_tcp_stream(target.host, target.port) as stream:
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        yield Connection(stream)


def names_of(count: int) -> list[str]:
    """Return the names of some queues."""
    return [f"many-{count}-{number}" for number in range(count)]


def job_of(queue: str) -> dict[str, Any]:
    """Return the body of an enqueue."""
    return {"type": "bench.many", "args": ["x" * 100], "options": {"queue": queue}}


class Meter:
    """Measures the processor time of a target since its creation, in microseconds."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._before = self._now()

    def _now(self) -> tuple[float, float]:
        return cpu_s(self._target.api_pids), cpu_s(self._target.redis_pids)

    def note(self, figures: Figures, name: str, count: int, per: int) -> None:
        """Add the processor time for each of ``per`` operations on ``count`` queues."""
        for kind, now, before in zip(("API", "Redis"), self._now(), self._before, strict=True):
            figures[f"{name}, {kind}"][count].append((now - before) / per * 1e6)


async def fetches(
    target: Target, connection: Connection, count: int, calls: int, figures: Figures
) -> None:
    """Measure single fetches, of a job in the last queue and of none."""
    names = names_of(count)
    body = {"queues": names, "count": 1, "worker_id": "many"}
    meter = Meter(target)
    for _ in range(calls):
        assert await connection.send("/ojs/v1/workers/fetch", body) is not None
    meter.note(figures, "empty", count, calls)
    await connection.send("/ojs/v1/jobs/batch", {"jobs": [job_of(names[-1])] * calls})
    meter = Meter(target)
    jobs = []
    for _ in range(calls):
        jobs += (await connection.send("/ojs/v1/workers/fetch", body)).get("jobs", [])
    meter.note(figures, "fetch", count, calls)
    for job in jobs:
        await connection.send(
            "/ojs/v1/workers/ack", {"job_id": job["id"], "lease_id": job["lease_id"]}
        )


async def work(target: Target, names: Sequence[str], number: int, done: list[str]) -> None:
    """Fetch with long polls, and ack."""
    body = {"queues": names, "count": 1, "worker_id": f"w{number}", "wait_ms": WAIT_MS}
    async with connect(target) as connection:
        while True:
            answer = await connection.send("/ojs/v1/workers/fetch", body)
            for job in answer.get("jobs", []):
                ended = {"job_id": job["id"], "lease_id": job["lease_id"]}
                await connection.send("/ojs/v1/workers/ack", ended)
                done.append(job["id"])
            if "error" in answer:
                await trio.sleep(0.1)


async def waited(
    target: Target,
    connection: Connection,
    count: int,
    options: argparse.Namespace,
    figures: Figures,
) -> None:
    """Measure jobs that workers wait for."""
    names, jobs = names_of(count), options.jobs
    done: list[str] = []
    async with trio.open_nursery() as nursery:
        for number in range(options.waiters):
            nursery.start_soon(work, target, names, number, done)
        await trio.sleep(1)
        meter = Meter(target)
        with trio.move_on_after(60 + jobs / options.rate):
            at = trio.current_time()
            for _ in range(jobs):
                at += 1 / options.rate
                await trio.sleep_until(at)
                await connection.send("/ojs/v1/jobs", job_of(random.choice(names)))
            while len(done) < jobs:  # noqa: ASYNC110 - the list has no event
                await trio.sleep(0.01)
        meter.note(figures, "waited", count, jobs)
        nursery.cancel_scope.cancel()


async def idle(target: Target, count: int, waiters: int, seconds: float) -> tuple[float, float]:
    """Return the shares of a core that waiters without a job cost the API and Redis."""
    async with trio.open_nursery() as nursery:
        for number in range(waiters):
            nursery.start_soon(work, target, names_of(count), number, [])
            await trio.sleep(0.002)
        await trio.sleep(5)
        api, redis = cpu_s(target.api_pids), cpu_s(target.redis_pids)
        await trio.sleep(seconds)
        api, redis = cpu_s(target.api_pids) - api, cpu_s(target.redis_pids) - redis
        nursery.cancel_scope.cancel()
    return api / seconds, redis / seconds


async def run(target: Target, options: argparse.Namespace) -> None:
    """Measure and print all rows."""
    figures: Figures = defaultdict(lambda: defaultdict(list))
    for number in range(options.rounds + 1):
        for count in options.queues:
            async with connect(target) as connection:
                await fetches(target, connection, count, options.calls, figures)
                await waited(target, connection, count, options, figures)
        if number == 0:  # that was to warm up
            figures.clear()
    first = options.queues[0]
    rows = [
        [
            name,
            f"{statistics.median(of[first]):.0f}",
            *(ratio(of[n], of[first]) for n in options.queues[1:]),
        ]
        for name, of in figures.items()
    ]
    heads = [f"{n} queues" for n in options.queues[1:]]
    print_table(["", f"{first} queue, us", *heads], rows)
    print()
    errors, Connection.errors = Connection.errors, 0
    api, redis = await idle(target, options.queues[-1], options.idle, options.seconds)
    cells = [f"{api:.1%}", f"{redis:.1%}", str(errors + Connection.errors)]
    print_table([f"{options.idle} idle long polls", "API", "Redis", "errors"], [["", *cells]])


def main() -> None:
    """Parse the command line and run on an embedded cluster of three masters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=500, help="fetches in a round")
    parser.add_argument("--waiters", type=int, default=25)
    parser.add_argument("--rate", type=float, default=50, help="jobs per second")
    parser.add_argument("--jobs", type=int, default=300, help="jobs in a round")
    parser.add_argument("--idle", type=int, default=1000, help="idle long polls")
    parser.add_argument("--seconds", type=float, default=60, help="how long they are idle")
    parser.add_argument("--server", default="auto", help="as for `ojs-cluster dev`")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.calls, options.jobs, options.seconds = 2, 200, 100, 20
    binary = find_server(options.server)
    print_setting(binary, f"medians of {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        trio.run(run, start(stack, Path(folder), binary, "cluster", masters=3), options)


if __name__ == "__main__":
    main()
