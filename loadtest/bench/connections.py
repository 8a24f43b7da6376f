"""The cost of a connection: requests on connections of their own, against one connection.

    python -m loadtest.bench.connections [--requests 5000] [--rounds 5] [--quick]

One API process runs over one standalone server. In each round, the same number of jobs is enqueued
over one connection, then over a connection per job with ``Connection: close``, one after the other
and by 16 clients at once. Processor time per request of the API process is read from /proc.

*Gone* is a client that has sent its request and closed its connection before the server accepts
it: while the API process is stopped, ``--gone`` of them connect. Their row has what each costs
after the process continues, and the last line how long a request to ``/health`` behind them takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loadtest.bench._load import check, enqueue_request, is_complete
from loadtest.bench._processes import cpu_s
from loadtest.bench._table import print_setting, print_table, ratio
from loadtest.bench._target import Target, start
from ojs_cluster.server.embedded.servers import find_server

_QUEUE = "bench-connections"


def kept(target: Target, requests: int) -> None:
    """Send all requests over one connection."""
    request = enqueue_request(target.host, _QUEUE)
    with socket.create_connection((target.host, target.port)) as sock:
        for _ in range(requests):
            sock.sendall(request)
            response = b""
            while not is_complete(response):
                response += sock.recv(65_536)
            check(request, response, b" 201 ")


def closed(target: Target, requests: int, clients: int) -> None:
    """Send each request over a connection of its own, ``clients`` of them at once."""
    request = enqueue_request(target.host, _QUEUE).replace(
        b"Accept: */*\r\n", b"Accept: */*\r\nConnection: close\r\n"
    )
    poll, open_sockets, begun = select.epoll(), dict[int, tuple[socket.socket, bytes]](), 0
    while begun < requests or open_sockets:
        while begun < requests and len(open_sockets) < clients:
            sock = socket.create_connection((target.host, target.port))
            sock.sendall(request)
            poll.register(sock.fileno(), select.EPOLLIN)
            open_sockets[sock.fileno()] = sock, b""
            begun += 1
        for number, _ in poll.poll():
            sock, response = open_sockets[number]
            piece = sock.recv(65_536)
            open_sockets[number] = sock, response + piece
            if not piece:
                check(request, response, b" 201 ")
                del open_sockets[number]
                sock.close()


def gone(target: Target, clients: int) -> tuple[float, float]:
    """Return the processor time of a client that is gone, and the time of a request behind them.

    Both are in seconds.
    """
    request = enqueue_request(target.host, _QUEUE)
    before = cpu_s(target.api_pids)
    for pid in target.api_pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(clients):
            with socket.create_connection((target.host, target.port), 60) as sock:
                sock.sendall(request)
        behind = socket.create_connection((target.host, target.port))
    finally:
        for pid in target.api_pids:
            os.kill(pid, signal.SIGCONT)
    began = time.perf_counter()
    with behind:
        behind.sendall(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
        response = behind.recv(65_536)
    took = time.perf_counter() - began
    if response[8:13] != b" 200 ":
        raise SystemExit(f"/health: {response!r}")
    return (cpu_s(target.api_pids) - before) / clients, took


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gone", type=int, default=3000, help="clients that are gone")
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of 1000 requests")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.rounds, options.gone = 1000, 3, 500
    binary = find_server(options.server)
    ways: dict[str, Callable[[Target, int], None]] = {
        "one connection": kept,
        "a connection each, 16 clients": partial(closed, clients=16),
        "a connection each, one client": partial(closed, clients=1),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        target = start(stack, Path(folder), binary, "standalone")
        for number in range(options.rounds + 1):
            for name, send in ways.items():
                before = cpu_s(target.api_pids)
                send(target, options.requests)
                if number:  # the first round only warms up
                    found[name].append((cpu_s(target.api_pids) - before) / options.requests * 1e6)
        left = [gone(target, options.gone) for _ in range(options.rounds)]
    print_setting(binary, f"medians of {options.rounds} rounds of {options.requests} requests")
    first = found["one connection"]
    rows = [[name, f"{statistics.median(us):.0f}", ratio(us, first)] for name, us in found.items()]
    used, took = (statistics.median(column) for column in zip(*left, strict=True))
    rows.append([f"{options.gone} clients that are gone", f"{used * 1e6:.0f}"])
    rows[-1].append(f"{used * 1e6 / statistics.median(first):.2f}")
    print_table(["enqueues over", "API us", "ratio"], rows)
    print(f"\n/health behind the clients that are gone: {took * 1000:.0f} ms")


if __name__ == "__main__":
    main()
