"""How fast does a job reach a waiting worker while the server is half full?

    python -m loadtest.bench.wakeup [--jobs 400] [--rounds 3] [--quick]

One API process runs over one standalone server. Another process loads it with half of its full rate
with jobs of other queues, in an open loop. A worker waits in a long poll, and a producer on another
connection enqueues one job at a time.

- *wake-up*: from the start of the enqueue until the worker has the job: the network time of two
  requests, the enqueue itself, the message, and the fetch;
- *plain*: the round trip of an enqueue without a waiting worker, at the same times: the cost of
  network and load;
- *above*: the difference of the two percentiles.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from loadtest.bench._load import END, check, is_complete
from loadtest.bench._table import print_setting, print_table, quantile
from loadtest.bench._target import Target, start
from loadtest.bench.batch import post
from ojs_cluster.server.embedded.servers import find_server

PAUSE_S = 0.005
QUEUE = "wakeup"


class Connection:
    """One keep-alive connection with one request at a time."""

    def __init__(self, target: Target) -> None:
        self._socket = socket.create_connection((target.host, target.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def ask(self, request: bytes, status: bytes) -> Any:
        """Return the body of the response."""
        self._socket.sendall(request)
        response = b""
        while not is_complete(response):
            piece = self._socket.recv(65_536)
            if not piece:
                raise SystemExit("the server closed a connection")
            response += piece
        check(request, response, status)
        return json.loads(response[response.index(END) + 4 :])


def one_round(target: Target, jobs: int) -> tuple[list[float], list[float]]:
    """Return the ms of wake-ups and of plain requests."""
    arrived: dict[str, float] = {}
    waiting = threading.Semaphore(0)

    def work() -> None:
        worker = Connection(target)
        body = {"queues": [QUEUE], "count": 1, "worker_id": "w", "wait_ms": 20_000}
        fetch = post("/ojs/v1/workers/fetch", body)
        while len(arrived) < jobs:
            waiting.release()
            for job in worker.ask(fetch, b" 200 ")["jobs"]:
                arrived[job["id"]] = time.perf_counter()
                done = {"job_id": job["id"], "worker_id": "w", "lease_id": job["lease_id"]}
                worker.ask(post("/ojs/v1/workers/ack", done), b" 200 ")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    producer = Connection(target)
    job: dict[str, Any] = {"type": "bench.wakeup", "args": [], "options": {"queue": QUEUE}}
    waking = post("/ojs/v1/jobs", job)
    plain = post("/ojs/v1/jobs", {**job, "options": {"queue": "no-worker-waits"}})
    sent: dict[str, float] = {}
    trips: list[float] = []
    for _ in range(jobs):
        waiting.acquire()
        time.sleep(PAUSE_S)  # the poll is there by now, or the job's way is that much shorter
        now = time.perf_counter()
        producer.ask(plain, b" 201 ")
        trips.append((time.perf_counter() - now) * 1000)
        now = time.perf_counter()
        sent[producer.ask(waking, b" 201 ")["job"]["id"]] = now
    thread.join()
    return [(arrived[i] - at) * 1000 for i, at in sent.items()], trips


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=400, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="fewer jobs")
    options = parser.parse_args()
    if options.quick:
        options.jobs = 200
    binary = find_server(options.server)
    found: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        target.load(1.0, 32)  # warms up
        for _ in range(options.rounds):
            full = target.load(1.0, 32)
            half = full["requests"] / full["seconds"] / 2
            load = target.load_command(600, 64, half)
            with subprocess.Popen(load, stdout=subprocess.DEVNULL) as process:
                try:
                    time.sleep(0.5)
                    wakeups, trips = one_round(target, options.jobs)
                finally:
                    process.terminate()
            figures = [quantile(v, q) for v in (wakeups, trips) for q in (0.5, 0.99)]
            found.append([half, *figures, figures[0] - figures[2], figures[1] - figures[3]])
    print_setting(binary, f"{options.jobs} jobs a round, medians of {options.rounds} rounds")
    heads = [
        "requests/s beside",
        "wake-up p50 ms",
        "p99",
        "plain p50 ms",
        "p99",
        "above p50",
        "p99",
    ]
    row = [statistics.median(values) for values in zip(*found, strict=True)]
    print_table(heads, [[f"{row[0]:.0f}", *(f"{value:.2f}" for value in row[1:])]])


if __name__ == "__main__":
    main()
