"""A round-robin reverse proxy in front of API nodes: haproxy, or a small one in Python.

``OJS_TEST_PROXY`` (auto, haproxy, python) chooses. Both distribute requests, not connections, over
the nodes. Neither repeats a request whose outcome is unknown: the client decides about that.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ojs_cluster.server.embedded.ports import reserve_any
from ojs_cluster.server.supervision.process_spawner import spawn
from tests.support.servers import wait_until

HOST = "127.0.0.1"
UPSTREAM_TIMEOUT_S = 60

Address = tuple[str, int]


@dataclass(slots=True)
class InFlight:
    """Number of requests per node that have no response yet."""

    _count: Counter[Address] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(
        self, nodes: Sequence[Address], start: int, tried: Collection[Address]
    ) -> Address | None:
        """Choose a node for a request, until ``done``; None when all were tried.

        After a node was removed from ``nodes`` and has no request left, it gets no further request.
        """
        with self._lock:
            left = [node for node in nodes if node not in tried]
            if not left:
                return None
            chosen = left[start % len(left)]
            self._count[chosen] += 1
            return chosen

    def done(self, node: Address) -> None:
        with self._lock:
            self._count[node] -= 1

    def of(self, node: Address) -> int:
        with self._lock:
            return self._count[node]


@contextlib.contextmanager
def proxy(
    directory: Path,
    nodes: Sequence[Address],
    choice: str | None = None,
    in_flight: InFlight | None = None,
) -> Iterator[str]:
    """Run a proxy in front of ``nodes``; yield its base URL.

    Args:
        directory: for the proxy's configuration and log.
        nodes: where requests go. The Python proxy reads the list for each request, so it may
            change, as
            endpoints of a Service do.
        choice: "haproxy", "python", or "auto" (haproxy when it is on PATH).
        in_flight: counts requests; only for the Python proxy.
    """
    choice = choice or os.environ.get("OJS_TEST_PROXY", "auto")
    if choice == "haproxy" or (choice == "auto" and shutil.which("haproxy")):
        with _haproxy(directory, nodes) as url:
            yield url
    else:
        with _python_proxy(nodes, in_flight or InFlight()) as url:
            yield url


_HAPROXY = """
global
    maxconn 4096
defaults
    mode http
    balance roundrobin
    option redispatch 1
    retries 2
    retry-on conn-failure
    timeout connect 2s
    timeout client {timeout_s}s
    timeout server {timeout_s}s
frontend front
    bind {host}:{port}
    default_backend nodes
backend nodes
{servers}
"""


@contextlib.contextmanager
def _haproxy(directory: Path, nodes: Sequence[Address]) -> Iterator[str]:
    program = shutil.which("haproxy")
    if program is None:
        raise FileNotFoundError("haproxy is not on PATH")
    with contextlib.ExitStack() as stack:
        reserved = reserve_any()
        stack.callback(reserved.release)
        config = directory / "haproxy.cfg"
        servers = "".join(f"    server n{i} {h}:{p}\n" for i, (h, p) in enumerate(nodes))
        config.write_text(
            _HAPROXY.format(
                host=HOST, port=reserved.port, servers=servers, timeout_s=UPSTREAM_TIMEOUT_S
            )
        )
        process = spawn([program, "-db", "-f", str(config)], output=directory / "haproxy.log")
        try:
            wait_until(lambda: _accepts(reserved.port), what="haproxy listens")
            yield f"http://{HOST}:{reserved.port}"
        finally:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _python_proxy(nodes: Sequence[Address], in_flight: InFlight) -> Iterator[str]:
    server = _Server((HOST, 0), _Handler)
    server.nodes = nodes
    server.in_flight = in_flight
    server.turn = itertools.count()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    nodes: Sequence[Address]
    in_flight: InFlight
    turn: Iterator[int]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that disconnects during its response."""


class _Handler(BaseHTTPRequestHandler):
    """Forwards each request to the next node that accepts a connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Any:
        # The base class calls do_<METHOD>. A proxy forwards every method, known or not.
        if name.startswith("do_"):
            return self._forward
        raise AttributeError(name)

    def _forward(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else None
        in_flight, start = self.server.in_flight, next(self.server.turn)
        tried: list[Address] = []
        while node := in_flight.choose(self.server.nodes, start, tried):
            tried.append(node)
            try:
                upstream = http.client.HTTPConnection(*node, timeout=UPSTREAM_TIMEOUT_S)
                try:
                    upstream.connect()
                except OSError:
                    continue  # nothing was sent: the next node may have it
                with contextlib.closing(upstream):
                    self._exchange(upstream, body)
                return
            finally:
                in_flight.done(node)
        self._refuse(503, "no node accepts connections")

    def _exchange(self, upstream: http.client.HTTPConnection, body: bytes | None) -> None:
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        try:
            upstream.request(self.command, self.path, body=body, headers=headers)
            response = upstream.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._refuse(502, f"the node broke off: {error!r}")
            return
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self._finish(content, has_body=response.status != HTTPStatus.NO_CONTENT)

    def _refuse(self, status: int, reason: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "text/plain")
        self._finish(reason.encode())

    def _finish(self, content: bytes, *, has_body: bool = True) -> None:
        if has_body:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the nodes have logs."""
