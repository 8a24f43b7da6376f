"""The proxies of the deployment tests."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from ojs_cluster.server.embedded.ports import reserve_any
from tests.support.proxy import HOST, InFlight, proxy
from tests.support.servers import wait_until


class Echo(BaseHTTPRequestHandler):
    """Responds with its own port, the request and its body."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(204 if self.path == "/none" else 201)
        self.send_header("X-Port", str(self.connection.getsockname()[1]))
        self.send_header("X-Asked", f"{self.command} {self.path} {self.headers.get('X-Id')}")
        if self.path != "/none":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path != "/none":
            self.wfile.write(body)

    do_DELETE = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    with ThreadingHTTPServer((HOST, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield HOST, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(params=["haproxy", "python"])
def choice(request: pytest.FixtureRequest) -> str:
    if request.param == "haproxy" and not shutil.which("haproxy"):
        pytest.skip("haproxy is not on PATH")
    return str(request.param)


def test_requests_of_one_connection_are_distributed(tmp_path: Path, choice: str) -> None:
    with (
        echo_server() as first,
        echo_server() as second,
        proxy(tmp_path, [first, second], choice) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        ports = [client.post("/x", content=b"b").headers["X-Port"] for _ in range(4)]

    assert set(ports) == {str(first[1]), str(second[1])}
    assert ports[0] != ports[1]
    assert ports[:2] == ports[2:]


def test_requests_and_responses_are_unchanged(tmp_path: Path, choice: str) -> None:
    body = bytes(range(256)) * 400
    with (
        echo_server() as node,
        proxy(tmp_path, [node], choice) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        answer = client.post("/a%2Fb?q=1", content=body, headers={"X-Id": "7"})
        empty = client.delete("/none")

    assert (answer.status_code, answer.content) == (201, body)
    assert answer.headers["X-Asked"] == "POST /a%2Fb?q=1 7"
    assert (empty.status_code, empty.content) == (204, b"")


def test_a_node_that_refuses_connections_is_skipped(tmp_path: Path, choice: str) -> None:
    dead = reserve_any()
    with (
        contextlib.ExitStack() as stack,
        echo_server() as node,
        proxy(tmp_path, [(HOST, dead.port), node], choice) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        stack.callback(dead.release)
        statuses = {client.post("/x").status_code for _ in range(6)}

    assert statuses == {201}


def test_concurrent_requests_do_not_cause_a_refusal(tmp_path: Path) -> None:
    dead = reserve_any()
    with (
        contextlib.ExitStack() as stack,
        echo_server() as node,
        proxy(tmp_path, [(HOST, dead.port), node], "python") as url,
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        stack.callback(dead.release)
        statuses = set(pool.map(lambda _: client.post("/x").status_code, range(200)))

    assert statuses == {201}


def test_a_removed_node_gets_no_request_after_those_in_flight(tmp_path: Path) -> None:
    in_flight = InFlight()
    with echo_server() as first, echo_server() as second:
        nodes = [first, second]
        with (
            proxy(tmp_path, nodes, "python", in_flight) as url,
            httpx.Client(base_url=url, timeout=60) as client,
            ThreadPoolExecutor(4) as pool,
        ):
            gone = threading.Event()
            after: list[str] = []

            def ask() -> None:
                while len(after) < 20:
                    was_gone = gone.is_set()
                    port = client.post("/x").headers["X-Port"]
                    if was_gone:
                        after.append(port)

            asking = [pool.submit(ask) for _ in range(4)]
            try:
                wait_until(lambda: in_flight.of(first) > 0, what="the node has a request")
                nodes.remove(first)
                wait_until(lambda: in_flight.of(first) == 0, what="its requests are done")
            finally:
                gone.set()
            for one in asking:
                one.result(60)

    assert set(after) == {str(second[1])}


def test_without_any_node_the_answer_is_503(tmp_path: Path, choice: str) -> None:
    dead = reserve_any()
    with (
        contextlib.ExitStack() as stack,
        proxy(tmp_path, [(HOST, dead.port)], choice) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        stack.callback(dead.release)
        assert client.post("/x").status_code == 503
