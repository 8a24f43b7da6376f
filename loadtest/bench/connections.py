"""The cost of a connection: requests on connections of their own, against one connection.

    python -m loadtest.bench.connections [--requests 5000] [--rounds 5] [--quick]

One API process runs over one standalone server. In each round, the same number of jobs is enqueued
over one connection, then over a connection per job with ``Connection: close``, one after the other
and by 16 clients at once. Processor time per request of the API process is read from /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import select
import socket
import statistics
import tempfile
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


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", default="auto")
    parser.add_argument("--quick", action="store_true", help="three rounds of 1000 requests")
    options = parser.parse_args()
    if options.quick:
        options.requests, options.rounds = 1000, 3
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
    print_setting(binary, f"medians of {options.rounds} rounds of {options.requests} requests")
    first = found["one connection"]
    rows = [[name, f"{statistics.median(us):.0f}", ratio(us, first)] for name, us in found.items()]
    print_table(["enqueues over", "API us", "ratio"], rows)


if __name__ == "__main__":
    main()
