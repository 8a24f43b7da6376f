"""A load generator with little overhead: plain sockets, bare epoll, no parsing beyond ``find``.

The benchmarks start it as a process of its own, so that it shares no interpreter with the measured
server. It prints one line of JSON.

    python -m loadtest.bench._load HOST PORT --kind lifecycle --connections 32 --seconds 3
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import time
from collections.abc import Generator, Sequence
from functools import cache

END = b"\r\n\r\n"
LENGTH = b"content-length: "
_WARM_UP = 3
"""Requests of a connection in an open loop that do not count: one job of ``lifecycle``."""

# A generator that yields requests and receives the responses; one per connection.
Script = Generator[bytes, bytes, None]


def main() -> None:
    """Load the server for some seconds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--kind", choices=("lifecycle", "enqueue", "empty"), default="lifecycle")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, help="requests a second, in an open loop")
    parser.add_argument("--queues", nargs="*", help="names for the connections, used in turn")
    options = parser.parse_args()
    host, port = options.host, options.port
    scripts = [
        script_of(options.kind, host, queue)
        for queue in names_of(options.queues, options.connections)
    ]
    began, cpu = time.perf_counter(), time.process_time()
    if options.rate:
        times = drive_open(host, port, scripts, options.seconds, options.rate)
    else:
        times = drive(host, port, scripts, options.seconds)
    times.sort()
    print(
        json.dumps(
            {
                "requests": len(times),
                "seconds": time.perf_counter() - began,
                "own_cpu_us": (time.process_time() - cpu) / len(times) * 1e6,
                "p50_ms": statistics.median(times) * 1000,
                "p99_ms": times[int(len(times) * 0.99)] * 1000,
                "p999_ms": times[int(len(times) * 0.999)] * 1000,
            }
        )
    )


def names_of(queues: Sequence[str] | None, connections: int) -> list[str]:
    """Return a queue for each connection."""
    if not queues:
        return [f"bench-{n}" for n in range(connections)]
    return [queues[n % len(queues)] for n in range(connections)]


def script_of(kind: str, host: str, queue: str) -> Script:
    """Return what one connection sends."""
    if kind == "empty":
        return empty(host)
    return lifecycle(host, queue) if kind == "lifecycle" else enqueues(host, queue)


def empty(host: str) -> Script:
    """Send the smallest request in a loop."""
    request = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n" % host.encode()
    while True:
        check(request, (yield request), b" 200 ")


def post(host: str, path: str, body: bytes) -> bytes:
    """Return a request with the headers that real clients send."""
    head = f"POST {path} HTTP/1.1\r\n{_headers(host)}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@cache
def _headers(host: str) -> str:
    key = os.environ.get("OJS_API_KEY")
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"Host: {host}\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\n{authorization}"
    )


def enqueue_request(host: str, queue: str) -> bytes:
    """Return the request that enqueues a job."""
    job = {"type": "bench.lifecycle", "args": ["x" * 100], "options": {"queue": queue}}
    return post(host, "/ojs/v1/jobs", json.dumps(job).encode())


def enqueues(host: str, queue: str) -> Script:
    """Enqueue jobs in a loop; any response is accepted."""
    request = enqueue_request(host, queue)
    while True:
        yield request


def lifecycle(host: str, queue: str) -> Script:
    """Enqueue, fetch and acknowledge one job in a loop, on a queue of its own."""
    enqueue = enqueue_request(host, queue)
    asked = {"queues": [queue], "count": 1, "worker_id": queue}
    fetch = post(host, "/ojs/v1/workers/fetch", json.dumps(asked).encode())
    while True:
        check(enqueue, (yield enqueue), b" 201 ")
        fetched = yield fetch
        check(fetch, fetched, b" 200 ")
        # Servers without lease ids use the id of the worker.
        body = b'{"job_id":"%b","worker_id":"%b"' % (member(fetched, b"id"), queue.encode())
        lease = member(fetched, b"lease_id")
        body += b',"lease_id":"%b"}' % lease if lease else b"}"
        ack = post(host, "/ojs/v1/workers/ack", body)
        check(ack, (yield ack), b" 200 ")


def member(response: bytes, name: bytes) -> bytes:
    """Return the first string with this name in a JSON body; empty without one."""
    at = response.find(b'"%b":"' % name)
    if at < 0:
        return b""
    start = at + len(name) + 4
    return response[start : response.index(b'"', start)]


def check(request: bytes, response: bytes, status: bytes) -> None:
    """Raise an error if the measured server did not do the work."""
    if response[8:13] != status:
        raise SystemExit(f"expected{status.decode()}for {request!r}: {response!r}")


def drive(host: str, port: int, scripts: list[Script], seconds: float) -> list[float]:
    """Run every script on its own keep-alive connection; return the time of each request in
    seconds.

    Bare epoll is used because ``selectors`` took a tenth of the time, which the server lacks on a
    small machine.
    """
    times: list[float] = []
    poll, connections = select.epoll(), _connect(host, port, scripts)
    for number, connection in connections.items():
        poll.register(number, select.EPOLLIN)
        connection.send(time.perf_counter())
    until = time.perf_counter() + seconds
    while connections:
        for number, _ in poll.poll():
            connection = connections[number]
            if not connection.receive():
                continue
            now = time.perf_counter()
            times.append(now - connection.since)
            if now <= until and connection.request:
                connection.send(now)
            else:
                del connections[number]
                connection.sock.close()
    return times


def drive_open(
    host: str, port: int, scripts: list[Script], seconds: float, rate: float
) -> list[float]:
    """Send the requests of endless scripts at fixed times, independent of earlier responses.

    A request that finds every connection busy waits here. Its time counts from its scheduled time,
    so that a stall of the server counts for every request that had to wait. The first requests of
    each connection do not count, because a server has to learn of new connections, queues and
    workers, which in service rarely come hundreds at a time.
    """
    times: list[float] = []
    poll, connections = select.epoll(), _connect(host, port, scripts)
    for connection in connections.values():
        connection.warm_up()
    idle = list(connections)
    began, sent, total = time.perf_counter(), 0, max(1, int(seconds * rate))
    while len(times) < total:
        now = time.perf_counter()
        while idle and sent < total and began + sent / rate <= now:
            number = idle.pop()
            poll.register(number, select.EPOLLIN)  # of an idle one nothing is expected
            connections[number].send(began + sent / rate)
            sent += 1
        wait = max(0.0, began + sent / rate - time.perf_counter()) if idle else None
        for number, _ in poll.poll(wait if sent < total else None):
            connection = connections[number]
            if connection.receive():
                times.append(time.perf_counter() - connection.since)
                poll.unregister(number)
                idle.append(number)
    return times


class _Connection:
    """One script on one connection; ``request`` is empty after its last request."""

    __slots__ = ("_before", "_script", "request", "since", "sock")

    def __init__(self, sock: socket.socket, script: Script) -> None:
        self.sock = sock
        self.since = 0.0
        self.request = next(script)
        self._script = script
        self._before = b""

    def warm_up(self) -> None:
        """Send the first requests, one after the other."""
        for _ in range(_WARM_UP):
            self.send(0.0)
            while not self.receive():
                pass

    def send(self, since: float) -> None:
        self.since = since
        self.sock.sendall(self.request)

    def receive(self) -> bool:
        """Receive data; return whether the response is complete and the next request is known."""
        piece = self.sock.recv(65_536)
        if not piece:
            raise SystemExit("the server closed a connection")
        response = self._before + piece
        if not is_complete(response):
            self._before = response
            return False
        self._before = b""
        try:
            self.request = self._script.send(response)
        except StopIteration:  # it has done all it had to do
            self.request = b""
        return True


def _connect(host: str, port: int, scripts: list[Script]) -> dict[int, _Connection]:
    """Return connections by file descriptor."""
    connections = {}
    for script in scripts:
        sock = socket.create_connection((host, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[sock.fileno()] = _Connection(sock, script)
    return connections


def is_complete(response: bytes) -> bool:
    """Return whether the body is complete, by its Content-Length."""
    head = response.find(END)
    if head < 0:
        return False
    at = response.find(LENGTH, 0, head)
    if at < 0:
        at = response.lower().find(LENGTH, 0, head)
    at += len(LENGTH)
    return len(response) >= head + 4 + int(response[at : response.index(b"\r", at)])


if __name__ == "__main__":
    main()
