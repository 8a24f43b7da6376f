"""What does a delivery of a webhook cost the scheduler, and does it keep its leases meanwhile?

    python -m loadtest.bench.webhooks [--subscriptions 1 10 100] [--deliveries 4000] [--quick]

One API process and one scheduler run over one standalone server. Every job is one event for each
subscription. The receivers are one process that answers at once and keeps connections open.

- *rate*: deliveries per second, from the first job until the last request has arrived;
- *µs*: processor time of the scheduler per delivery, without what it uses while it is idle;
- *lost*: leases that the scheduler has lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import selectors
import socket
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadtest.bench._processes import children_of, cpu_s, free_port, running
from loadtest.bench._table import print_setting, print_table
from loadtest.bench._target import Target, start_api
from ojs_cluster.server.embedded.servers import Embedded, find_server

WAIT_S = 180.0
_IDLE_S = 3.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
_END = b"\r\n\r\n"


def receive(port: int, count: Any) -> None:
    """Answer requests, one at a time on each connection, and count them."""
    selector = selectors.DefaultSelector()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    waiting: dict[socket.socket, bytes] = {}
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                accepted, _ = listener.accept()
                waiting[accepted] = b""
                selector.register(accepted, selectors.EVENT_READ)
                continue
            with contextlib.suppress(OSError):
                piece = sock.recv(65_536)
                if piece:
                    waiting[sock] = _answered(sock, waiting[sock] + piece, count)
                    continue
            selector.unregister(sock)
            del waiting[sock]
            sock.close()


def _answered(sock: socket.socket, data: bytes, count: Any) -> bytes:
    """Answer a request if it is complete; return what is not answered."""
    head = data.find(_END)
    if head < 0:
        return data
    found = re.search(rb"content-length: (\d+)", data[:head].lower())
    if len(data) < head + len(_END) + int(found[1] if found else 0):
        return data
    count.value += 1
    sock.sendall(_ANSWER)
    if b"connection: close" in data[:head].lower():
        sock.shutdown(socket.SHUT_WR)
    return b""


def post(target: Target, path: str, body: object) -> None:
    """Send a request to the API."""
    url = f"http://{target.host}:{target.port}{path}"
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert answer.status in (200, 201)


def lost_leases(port: int) -> float:
    """Return how many leases the scheduler has lost, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("ojs_scheduler_leases") and 'lost"' in line
    )


@contextlib.contextmanager
def scheduled(target: Target, redis_url: str, port: int) -> Iterator[list[int]]:
    """Run a scheduler for the block; yield its process ids."""
    env = {
        "REDIS_URL": redis_url,
        "OJS_HOST": "127.0.0.1",
        "OJS_SCHEDULER_PORT": str(port),
        "OJS_METRICS_OPEN": "true",
        "OJS_WEBHOOK_ALLOW_HTTP": "true",
        "OJS_WEBHOOK_ALLOW_CIDRS": "127.0.0.1/32",
        "PYTHONPATH": os.getcwd(),
    }
    with running(["-m", "ojs_cluster.cli", "scheduler"], port, env) as pid:
        yield [pid, *children_of(pid)]


def one_round(folder: Path, binary: Any, subscriptions: int, total: int) -> list[float]:
    """Return the rate, the µs per delivery and the lost leases."""
    with contextlib.ExitStack() as stack:
        embedded = Embedded(folder, binary=binary, masters=1, cluster=False, append_only=False)
        stack.enter_context(embedded)
        target = start_api(stack, embedded, "api")
        receiver_port, port = free_port(), free_port()
        count = multiprocessing.Value("q", 0)
        receiver = multiprocessing.Process(target=receive, args=(receiver_port, count))
        receiver.start()
        stack.callback(receiver.join)
        stack.callback(receiver.terminate)
        pids = stack.enter_context(scheduled(target, embedded.url, port))
        for number in range(subscriptions):
            url = f"http://127.0.0.1:{receiver_port}/{number}"
            post(target, "/ojs/v1/webhooks/subscriptions", {"url": url, "events": ["job.enqueued"]})
        time.sleep(3.0)  # the API process reads the subscriptions, and the scheduler leads
        before = cpu_s(pids)
        time.sleep(_IDLE_S)
        idle = (cpu_s(pids) - before) / _IDLE_S
        began, before = time.perf_counter(), cpu_s(pids)
        jobs, sent = max(1, total // subscriptions), 0
        while sent < jobs:
            batch = [
                {"type": "bench", "args": [], "options": {"queue": f"q{n % 64}"}}
                for n in range(sent, min(jobs, sent + 64))
            ]
            post(target, "/ojs/v1/jobs/batch", {"jobs": batch})
            sent += len(batch)
        while count.value < jobs * subscriptions:
            if time.perf_counter() > began + WAIT_S:
                raise SystemExit(f"{count.value} of {jobs * subscriptions} deliveries")
            time.sleep(0.01)
        took = time.perf_counter() - began
        used = cpu_s(pids) - before - idle * took
        return [
            jobs * subscriptions / took,
            used / (jobs * subscriptions) * 1e6,
            lost_leases(port),
        ]


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--subscriptions", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--deliveries", type=int, default=4000, help="per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="one short round")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.deliveries, options.subscriptions = 1, 500, [10]
    os.environ["OJS_WEBHOOK_ALLOW_HTTP"] = "true"
    os.environ["OJS_WEBHOOK_ALLOW_CIDRS"] = "127.0.0.1/32"
    binary = find_server(options.server)
    rows = []
    for count in options.subscriptions:
        found = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(one_round(Path(folder), binary, count, options.deliveries))
        rate, cost, _ = (statistics.median(column) for column in zip(*found, strict=True))
        lost = sum(row[2] for row in found)
        rows.append([str(count), f"{rate:.0f}", f"{cost:.0f}", f"{lost:.0f}"])
    print_setting(binary, f"{options.deliveries} deliveries, {options.rounds} rounds")
    print_table(["subscriptions", "rate/s", "µs", "lost"], rows)


if __name__ == "__main__":
    main()
