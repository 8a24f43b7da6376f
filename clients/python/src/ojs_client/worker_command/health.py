"""The health endpoint of ``ojs-worker``: ``/health`` for probes, ``/metrics`` for Prometheus."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["ok", "draining", "failing"]

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_LIMIT_S = 10.0
_MAX_REQUESTS = 16
"""Number of connections at the same time. A further one, such as a probe, ends the oldest."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the processes work.

    Attributes:
        status: ``failing`` if none of them has reported for half a minute.
        processes: the number of processes that should run.
        alive: the number of those that have reported.
    """

    status: Status
    processes: int
    alive: int


def serve(
    address: tuple[str, int], health: Callable[[], Health], metrics: Callable[[], str]
) -> Callable[[], None]:
    """Listen on a port, and return the function that serves it without end.

    Args:
        address: host and port; an empty host for all addresses.
        health: returns the health.
        metrics: returns the metrics.

    Raises:
        OSError: the port cannot be opened.
    """
    served: dict[socket.socket, None] = {}

    class Handler(BaseHTTPRequestHandler):
        timeout = _LIMIT_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/health":
                found = health()
                failing = found.status == "failing"
                status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
                self._send(status, "application/json", json.dumps(asdict(found)))
            elif path == "/metrics":
                self._send(HTTPStatus.OK, _TEXT, metrics())
            else:
                self._send(HTTPStatus.NOT_FOUND, _TEXT, "there are /health and /metrics\n")

        def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Log no requests."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET
        daemon_threads = True

        def process_request(self, request: Any, client_address: Any) -> None:
            while len(served) >= _MAX_REQUESTS:
                oldest = next(iter(list(served)), None)
                if oldest is not None and served.pop(oldest, oldest) is None:
                    with suppress(OSError):  # its thread may have closed it
                        oldest.shutdown(socket.SHUT_RDWR)
            served[request] = None
            super().process_request(request, client_address)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                served.pop(request, None)

        def handle_error(self, *_: Any) -> None:
            """Print no traceback: a check of the port may close its connection at once."""

        def server_bind(self) -> None:
            if self.address_family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            TCPServer.server_bind(self)  # that of HTTPServer asks the DNS for a name

    host, port = address
    if ":" in host or (not host and socket.has_dualstack_ipv6()):
        Server.address_family = socket.AF_INET6
    return Server((host, port), Handler).serve_forever
