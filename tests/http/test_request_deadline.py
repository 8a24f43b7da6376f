"""Each request has one deadline: a stopped or slow master delays no response beyond it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import h11
import pytest
import trio

from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.http.routing.router import Route
from ojs_cluster.redis.settings import Address
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving
from tests.http.every_route import DEFINITION, body_of, path_of, prepared
from tests.support.patience import cancelled_after_turns
from tests.support.servers import flush, own_server

CALL_S: Final = 2.0
LATE_S: Final = 4.0
"""An answer may come this long after the deadline. It is less than the time of the calls that a
request would wait for without one."""
LONGER_S: Final = {"/ojs/v1/jobs/bulk": 10.0}
"""How much longer the work on the many jobs of one request may take."""


@pytest.fixture(autouse=True)
def patience() -> None:
    """The shorter times of the product are part of what these tests check."""


@pytest.fixture(scope="module", params=["standalone", "cluster"])
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Embedded]:
    """Servers of these tests' own. No master is taken for dead while it is stopped."""
    clustered = request.param == "cluster"
    directory = tmp_path_factory.mktemp(request.param)
    with own_server(directory, cluster=clustered, node_timeout_ms=120_000) as running:
        yield running


@pytest.fixture
def server(servers: Embedded) -> Embedded:
    """The same without any key."""
    flush(servers)
    return servers


async def ask(port: int, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    """Send one request on a connection of its own; returns the status and the answer."""
    takes_body = method in ("POST", "PUT", "PATCH") or path.endswith(("/jobs", "/dead-letter"))
    content = json.dumps(body).encode() if takes_body and method != "GET" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    received = bytearray()
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(head.encode() + b"\r\n" + content)
        async for piece in stream:
            received += piece
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(bytes(received))
    connection.receive_data(b"")
    response = connection.next_event()
    assert isinstance(response, h11.Response), (method, path, bytes(received))
    data = b""
    while isinstance(event := connection.next_event(), h11.Data):
        data += event.data
    answer = json.loads(data) if data[:1] == b"{" else {}
    return response.status_code, answer


def is_honest(route: Route, status: int, answer: dict[str, Any]) -> bool:
    """Whether an answer says what happened: it was done, or 503 with what is known of it."""
    if route.open or status < 400 or status == 426:  # a WebSocket's path needs no Redis for that
        return True
    outcome = answer.get("error", {}).get("details", {}).get("outcome")
    return status == 503 and outcome in ("not_applied", "unknown")


async def ask_all(port: int, routes: Sequence[Route], ids: dict[str, str]) -> list[str]:
    """Ask for all routes at once; returns what is wrong with the answers."""
    wrong: list[str] = []

    async def one(route: Route) -> None:
        name = f"{route.method} {route.template}"
        patience = CALL_S + LATE_S + LONGER_S.get(route.template, 0.0)
        async with cancelled_after_turns(patience) as scope:
            body = body_of(route, ids["job"])
            status, answer = await ask(port, route.method, path_of(route, ids), body)
            if not is_honest(route, status, answer):
                wrong.append(f"{name}: {status} {answer}")
        if scope.cancelled_caught:
            wrong.append(f"{name}: no answer")

    async with trio.open_nursery() as nursery:
        for route in routes:
            nursery.start_soon(one, route)
    return wrong


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_every_route_answers_in_time_while_the_masters_are_stopped(
    server: Embedded, lane: bool
) -> None:
    redis = {"call_timeout_s": CALL_S, "reply_timeout_s": 1.0, "connect_timeout_s": 1.0}
    overview = [route for route in ROUTES if route.template.endswith("/admin/stats")]
    routes = [*(route for route in ROUTES if not route.test_hook), *overview * 5]
    async with open_app(server) as patient:
        ids = await prepared(Api(patient))
    async with open_app(server, redis=redis) as app:
        await Api(app).post("/ojs/v1/jobs", DEFINITION)  # it has read what processes keep
        async with serving(app, lane=lane, grace_s=0.1) as port:
            for node in server.nodes:
                server.pause(node)
            try:
                wrong = await ask_all(port, routes, ids)
            finally:
                for node in server.nodes:
                    server.resume(node)
    assert not wrong


@dataclass(slots=True)
class SlowRelay:
    """Passes bytes to a server and back; what comes back may be held for a while."""

    to_port: int
    hold_s: float = 0.0

    async def handle(self, client: trio.SocketStream) -> None:
        """Relay one connection."""
        server = await trio.open_tcp_stream("127.0.0.1", self.to_port)
        async with client, server, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, client, server, False)
            nursery.start_soon(self._pass, server, client, True)

    async def _pass(self, source: trio.SocketStream, to: trio.SocketStream, back: bool) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes | bytearray]](10_000)

        async def deliver() -> None:
            async for at, data in receive:
                await trio.sleep_until(at)
                await to.send_all(data)
            await to.send_eof()

        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with trio.open_nursery() as nursery, send:
                nursery.start_soon(deliver)
                async for data in source:
                    await send.send((trio.current_time() + back * self.hold_s, data))


STEPS: Final = 24
SEVERAL: Final[dict[str, dict[str, Any]]] = {
    "/ojs/v1/jobs/batch": {
        "jobs": [
            {"type": f"t{i}", "args": [], "options": {"queue": f"several{i}", "unique": {}}}
            for i in range(STEPS)
        ]
    },
    "/ojs/v1/workers/fetch": {
        "queues": [f"several{i}" for i in range(STEPS)],
        "count": 3,
        "worker_id": "w",
    },
}
"""Requests that need several calls, one after the other."""


@pytest.mark.parametrize("path", SEVERAL)
async def test_several_slow_calls_of_one_request_have_one_deadline(
    standalone: Embedded, path: str
) -> None:
    """Each reply comes in time, but all of them together do not."""
    relay = SlowRelay(standalone.nodes[0].port)
    times = ("call_timeout_s", "reply_timeout_s", "connect_timeout_s")
    redis = dict.fromkeys(times, CALL_S)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, relay.handle, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        nodes = (Address("127.0.0.1", port),)
        async with open_app(standalone, redis={"nodes": nodes, **redis}) as app:
            api = Api(app)
            relay.hold_s = CALL_S * 0.35
            async with cancelled_after_turns(CALL_S + LATE_S) as scope:
                reply = await api.post(path, SEVERAL[path])
            relay.hold_s = 0.0
            assert not scope.cancelled_caught, "no answer"
            assert reply.status == 503
            assert reply.error["details"]["outcome"] in ("not_applied", "unknown")
        nursery.cancel_scope.cancel()


async def test_a_long_poll_waits_as_long_as_it_was_told_to(standalone: Embedded) -> None:
    redis = {"call_timeout_s": 3.0, "reply_timeout_s": 3.0}
    async with open_app(standalone, redis=redis) as app:
        api = Api(app)
        body = {"queues": ["later"], "worker_id": "w", "wait_ms": 60_000}
        replies: list[Any] = []

        async def wait_for_a_job() -> None:
            replies.append(await api.post("/ojs/v1/workers/fetch", body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_a_job)
            await trio.sleep(4.0)  # longer than a call may take
            assert not replies
            job = await api.enqueue(options={"queue": "later"})
    assert replies[0].json["jobs"][0]["id"] == job["id"]
