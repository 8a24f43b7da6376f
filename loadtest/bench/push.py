"""What does an event cost with 0, 1 and 1000 subscribers, and how much memory does one take?

    python -m loadtest.bench.push [--subscribers 1 1000] [--jobs 300] [--rounds 3] [--quick]

One API process runs over one standalone server. A producer enqueues one job at a time, at a fixed
rate. Each job is one event. Every subscriber follows the queue by server-sent events, and reads all
events. The processor time of the API process and of Redis is measured from the first job until the
last subscriber has the last event. What they use in the same time without jobs, for polls and
heartbeats, is subtracted.

- *API µs*: processor time per job: the enqueue, and the event for all subscribers;
- *per copy*: what a subscriber more costs, per event;
- *KiB*: how much the process has grown per subscriber that waits.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start
from loadtest.bench.batch import post
from loadtest.bench.wakeup import Connection
from ojs_cluster.server.embedded.servers import find_server

RATE = 10.0
QUEUE = "push"
WAIT_S = 60.0
_STREAM = (
    f"GET /ojs/v1/events/stream?channel=queue:{QUEUE}&types=job.enqueued HTTP/1.1\r\n"
    "Host: localhost\r\nAccept: text/event-stream\r\n\r\n"
).encode()
_HEAD = b"retry: 3000\n"
_EVENT = b"event: job.enqueued\n"


class Subscribers:
    """Open streams, read by one thread."""

    def __init__(
        self, target: Target, count: int, request: bytes = _STREAM, event: bytes = _EVENT
    ) -> None:
        self._event = event
        self._sockets = [socket.create_connection((target.host, target.port)) for _ in range(count)]
        self._selector = selectors.DefaultSelector()
        self.heads = self.events = 0
        for one in self._sockets:
            one.sendall(request)
            self._selector.register(one, selectors.EVENT_READ)
        self.read(lambda: self.heads >= count)

    def read(self, done: Callable[[], bool]) -> None:
        """Read until ``done()``."""
        deadline = time.monotonic() + WAIT_S
        while not done():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.heads} streams, {self.events} events")
            self.read_some(0.05)

    def read_some(self, seconds: float) -> None:
        """Read what has arrived, or arrives within some seconds."""
        for key, _ in self._selector.select(seconds):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            piece = sock.recv(262_144)
            self.heads += piece.count(_HEAD)
            self.events += piece.count(self._event)

    def read_until(self, moment: float) -> None:
        """Read what arrives until a moment of the monotonic clock."""
        while (left := moment - time.monotonic()) > 0:
            self.read_some(min(left, 0.05))

    def close(self) -> None:
        """Disconnect all."""
        self._selector.close()
        for one in self._sockets:
            one.close()


@contextlib.contextmanager
def subscribed(target: Target, count: int) -> Iterator[Subscribers]:
    """Open ``count`` streams for the block."""
    subscribers = Subscribers(target, count)
    try:
        yield subscribers
    finally:
        subscribers.close()


def wait_until_calm(target: Target) -> None:
    """Wait until the process has noticed that earlier subscribers have left."""
    for _ in range(60):
        before = cpu_s(target.api_pids)
        time.sleep(0.5)
        if cpu_s(target.api_pids) - before < 0.03:
            return


def resident_kib(target: Target) -> float:
    """Return the memory that the API process has."""
    total = 0
    for pid in target.api_pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total = max(total, int(line.split()[1]))
    return float(total)


def one_round(target: Target, count: int, jobs: int) -> tuple[float, float, float]:
    """Return the µs of the API and of Redis per job, and the KiB per subscriber."""
    producer = Connection(target)
    request = post("/ojs/v1/jobs", {"type": "bench.push", "args": [], "options": {"queue": QUEUE}})
    wait_until_calm(target)
    before = resident_kib(target)
    with contextlib.closing(producer), subscribed(target, count) as subscribers:
        grown = resident_kib(target) - before
        quiet = cost(target, lambda: subscribers.read_until(time.monotonic() + jobs / RATE))

        def enqueue() -> None:
            began = time.monotonic()
            for number in range(jobs):
                producer.ask(request, b" 201 ")
                subscribers.read_until(began + (number + 1) / RATE)
            subscribers.read(lambda: subscribers.events >= count * jobs)

        api, redis = (busy - idle for busy, idle in zip(cost(target, enqueue), quiet, strict=True))
    return api / jobs * 1e6, redis / jobs * 1e6, grown / count if count else 0.0


def cost(target: Target, work: Callable[[], None]) -> tuple[float, float]:
    """Return the processor time of the API and of Redis, in seconds, while ``work`` runs."""
    api, redis = cpu_s(target.api_pids), cpu_s(target.redis_pids)
    work()
    return cpu_s(target.api_pids) - api, cpu_s(target.redis_pids) - redis


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subscribers", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--jobs", type=int, default=100, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs and subscribers")
    options = parser.parse_args()
    if options.quick:
        options.jobs, options.rounds, options.subscribers = 30, 1, [1, 100]
    for name in ("OJS_PUSH_SUBSCRIBERS", "OJS_PUSH_SUBSCRIBERS_PER_CLIENT"):
        os.environ.setdefault(name, "100000")
    binary = find_server(options.server)
    counts = [0, *options.subscribers]
    found: dict[int, list[tuple[float, float, float]]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        one_round(target, 1, 50)  # warms up
        for _ in range(options.rounds):
            for count in counts:
                found[count].append(one_round(target, count, options.jobs))
    how = f"{options.jobs} jobs at {RATE:.0f}/s, medians of {options.rounds} rounds"
    print_setting(binary, how)
    rows = []
    base = [statistics.median(column) for column in zip(*found[0], strict=True)]
    for count in counts:
        api, redis, _ = (statistics.median(column) for column in zip(*found[count], strict=True))
        copy = f"{(api - base[0]) / count:.1f}" if count else "-"
        grown = f"{max(row[2] for row in found[count]):.0f}" if count else "-"
        costs = [f"{api:.0f}", f"{api / base[0]:.2f}", copy]
        rows.append([str(count), *costs, f"{redis:.0f}", f"{redis / base[1]:.2f}", grown])
    heads = ["subscribers", "API µs", "ratio", "per copy, µs", "Redis µs", "ratio", "KiB each"]
    print_table(heads, rows)


if __name__ == "__main__":
    main()
