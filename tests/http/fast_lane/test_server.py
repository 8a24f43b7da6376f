"""The fast lane: requests that it serves, requests for hypercorn, and the end of connections."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ojs_cluster.http import dispatch
from ojs_cluster.http.fast_lane import connection, driver
from ojs_cluster.http.fast_lane.parser import HeadCache
from ojs_cluster.http.fast_lane.plain.verb import PlainVerb
from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.routes.all_routes import ROUTES
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, Stream, dial, open_app, serving, until
from tests.http.test_entry_points import exchange, raw, request

ENQUEUE = request("POST", "/ojs/v1/jobs", {"type": "t", "args": []})
FETCH = request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "wait_ms": 20_000})
MANIFEST = request("GET", "/ojs/manifest")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the paths of the requests that the fast lane serves."""
    paths: list[str] = []
    run = dispatch.run

    async def counted(app: Any, call: Any, request: Any, deadline: Any) -> Any:
        paths.append(request.path)
        return await run(app, call, request, deadline)

    monkeypatch.setattr(connection, "run", counted)
    monkeypatch.setattr(driver, "run", counted)
    page = PlainVerb._encode

    def encode(self: PlainVerb, *args: Any) -> bytes:
        paths.append(self.admission.route.template)
        return page(self, *args)

    monkeypatch.setattr(PlainVerb, "_encode", encode)
    return paths


@pytest.fixture
async def port(api: Api) -> AsyncIterator[int]:
    async with serving(api.app, lane=True) as number:
        yield number


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Stream]:
    with trio.fail_after(30):
        async with await dial(port) as stream:
            yield stream


async def read_responses(stream: Stream, count: int) -> list[bytes]:
    """Read ``count`` responses whose bodies are JSON objects."""
    data = b""
    while data.count(b"HTTP/1.1 ") < count or not data.endswith(b"}"):
        piece = await stream.receive_some(65_536)
        assert piece, data
        data += piece
    return [b"HTTP/1.1 " + part for part in data.split(b"HTTP/1.1 ")[1:]]


def test_the_main_routes_of_workers_and_producers_are_fast() -> None:
    fast = {(route.method, route.template) for route in ROUTES if route.fast}
    assert {
        ("POST", "/ojs/v1/jobs"),
        ("POST", "/ojs/v1/jobs/batch"),
        ("POST", "/ojs/v1/workers/fetch"),
        ("POST", "/ojs/v1/workers/ack"),
        ("POST", "/ojs/v1/workers/nack"),
        ("POST", "/ojs/v1/workers/heartbeat"),
        ("GET", "/ojs/v1/jobs/{id}"),
        ("GET", "/ojs/v1/health"),
    } <= fast


async def test_plain_requests_for_fast_routes_never_reach_hypercorn(
    port: int, served: list[str]
) -> None:
    async with connected(port) as stream:
        for _ in range(3):
            await stream.send_all(ENQUEUE)
            (answer,) = await read_responses(stream, 1)
            assert answer.startswith(b"HTTP/1.1 201 ")
    assert served == ["/ojs/v1/jobs"] * 3


async def test_the_first_other_request_and_all_after_it_are_served_by_hypercorn(
    port: int, served: list[str]
) -> None:
    async with connected(port) as stream:
        await stream.send_all(ENQUEUE + MANIFEST + ENQUEUE)
        answers = await read_responses(stream, 3)
    assert [answer[9:12] for answer in answers] == [b"201", b"200", b"201"]
    assert served == ["/ojs/v1/jobs"]


async def test_http2_is_handed_over(api: Api) -> None:
    async with (
        serving(api.app, lane=True, listening={"h2c": True}) as port,
        connected(port) as stream,
    ):
        await stream.send_all(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
        )
        frame = await stream.receive_some(9)
        assert frame[3] == 4  # settings


async def test_an_upgrade_is_handed_over(api: Api) -> None:
    upgrade = request("GET", "/ojs/v1/jobs/x", None, "Connection: Upgrade", "Upgrade: h2c")
    upgrade = upgrade.replace(b"\r\n\r\n", b"\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
    # hypercorn does not see that a client leaves before the preface that belongs after an upgrade.
    async with (
        serving(api.app, lane=True, listening={"h2c": True}) as number,
        connected(number) as stream,
    ):
        await stream.send_all(upgrade)
        assert (await stream.receive_some(100)).startswith(b"HTTP/1.1 101 ")


async def test_a_process_that_is_not_ready_serves_nothing_in_the_fast_lane() -> None:
    lane = FastLane(stop=trio.Event(), idle_timeout_s=5)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with (
        listener,
        await trio.testing.open_stream_to_socket_listener(listener),
        await listener.accept() as stream,
    ):
        assert await lane.serve(stream) == b""


@pytest.mark.parametrize("sent", [b"", b"POST /ojs"], ids=["nothing", "half a head"])
async def test_a_connection_accepted_in_the_last_moment_is_closed(api: Api, sent: bytes) -> None:
    """Its task may begin after the idle connections are closed."""
    assert await _last_connection(api, sent) == b""


async def test_the_request_of_a_connection_accepted_in_the_last_moment_is_served(api: Api) -> None:
    answer = await _last_connection(api, ENQUEUE)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nconnection: close\r\n" in answer


async def _last_connection(api: Api, sent: bytes) -> bytes:
    """Send bytes, let a drained fast lane serve them, and return its response."""
    stop = trio.Event()
    stop.set()
    lane = FastLane(stop=stop, idle_timeout_s=60)
    lane.open(api.app)
    lane.drain()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with (
        listener,
        await trio.testing.open_stream_to_socket_listener(listener) as client,
        await listener.accept() as stream,
    ):
        with trio.fail_after(60):
            await client.send_all(sent)
            assert await lane.serve(stream) is None
            return b"".join([piece async for piece in client])


async def test_a_body_in_pieces(port: int, served: list[str]) -> None:
    jobs = [{"type": "t", "args": ["x" * 10_000]} for _ in range(20)]
    sent = request("POST", "/ojs/v1/jobs/batch", {"jobs": jobs})
    async with connected(port) as stream:
        for at in range(0, len(sent), 40_000):
            await stream.send_all(sent[at : at + 40_000])
            await wait_all_tasks_blocked()
        (answer,) = await read_responses(stream, 1)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert served == ["/ojs/v1/jobs/batch"]


async def test_the_next_request_may_come_while_a_fetch_waits(port: int, api: Api) -> None:
    async with connected(port) as stream:
        await stream.send_all(FETCH)
        await until(lambda: _waiting(api))
        await stream.send_all(ENQUEUE)
        await wait_all_tasks_blocked()
        job = await api.enqueue()
        fetched, enqueued = await read_responses(stream, 2)
    assert job["id"].encode() in fetched
    assert enqueued.startswith(b"HTTP/1.1 201 ")


async def _waiting(api: Api) -> bool:
    return len(api.app.waiters) > 0


async def test_an_empty_fetch_keeps_the_connection_alive(port: int) -> None:
    sent = request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"], "wait_ms": 20})
    async with connected(port) as stream:
        for _ in range(5):
            await stream.send_all(sent)
            (answer,) = await read_responses(stream, 1)
            assert answer.endswith(b'{"jobs":[]}')


# -- how connections end ---------------------------------------------------------------------


async def test_a_connection_in_mid_head_is_closed_in_time(api: Api) -> None:
    async with serving(api.app, lane=True, idle_s=0.2) as number, connected(number) as stream:
        with suppress(trio.BrokenResourceError):  # it was closed before we could send
            await stream.send_all(b"POST /ojs")
            assert await stream.receive_some(10) == b""


async def test_a_request_in_progress_is_not_idle(api: Api) -> None:
    lane = FastLane(stop=trio.Event(), idle_timeout_s=600)
    async with serving(api.app, lane=lane) as number, connected(number) as stream:
        await stream.send_all(FETCH)
        await until(lambda: _waiting(api))
        lane._close_idle_since(perf_counter())
        job = await api.enqueue()
        (answer,) = await read_responses(stream, 1)
    assert job["id"].encode() in answer


async def test_a_late_body_is_read_and_keeps_the_connection_alive(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = trio.Event()

    def body_timeout(timeout_s: float) -> Any:
        late.set()
        return dispatch.body_timeout(timeout_s)

    monkeypatch.setattr(connection, "body_timeout", body_timeout)
    async with (
        open_app(standalone, bodies=BodyLimits(timeout_s=0.05, linger_s=60)) as app,
        serving(app, lane=True) as number,
        connected(number) as stream,
    ):
        await stream.send_all(ENQUEUE[:-3])
        await late.wait()
        await stream.send_all(ENQUEUE[-3:])
        (refused,) = await read_responses(stream, 1)
        assert refused.startswith(b"HTTP/1.1 408 ")
        await stream.send_all(ENQUEUE)
        (answer,) = await read_responses(stream, 1)
        assert answer.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_a_drain_closes_idle_connections_and_finishes_the_others(
    api: Api, lane: bool
) -> None:
    stop = trio.Event()
    async with (
        serving(api.app, lane=lane, stop=stop, grace_s=60) as number,
        connected(number) as idle,
        connected(number) as begun,
        raw(number) as busy,
    ):
        await idle.send_all(request("GET", "/health"))
        await read_responses(idle, 1)
        await begun.send_all(b"POST /ojs/v1/jo")
        await busy.send(FETCH)
        await until(lambda: _waiting(api))
        stop.set()
        assert await idle.receive_some(10) == b""
        assert await begun.receive_some(10) == b""
        job = await api.enqueue()
        with trio.fail_after(30):
            status, headers, body = await busy.reply()
            assert await busy.stream.receive_some(10) == b""
    assert (status, headers["connection"]) == (200, "close")
    assert json.loads(body)["jobs"][0]["id"] == job["id"]


async def test_a_request_that_was_not_read_when_the_drain_began_is_answered(api: Api) -> None:
    stop = trio.Event()
    lane = FastLane(stop=stop, idle_timeout_s=60)
    async with (
        serving(api.app, lane=lane, stop=stop, grace_s=60) as number,
        connected(number) as stream,
    ):
        await stream.send_all(ENQUEUE)
        await read_responses(stream, 1)
        stop.set()
        # The server is not run before the drain has begun.
        _send_now(stream, ENQUEUE)
        lane.drain()
        (answer,) = await read_responses(stream, 1)
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b"\r\nconnection: close\r\n" in answer
        assert await stream.receive_some(10) == b""


def _send_now(stream: Stream, data: bytes) -> None:
    """Send without a checkpoint."""
    assert isinstance(stream, trio.SocketStream)
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as same:
        same.setblocking(False)
        assert same.send(data) == len(data)


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_connections_that_wait_to_be_accepted_when_the_drain_begins_are_served(
    api: Api, lane: bool
) -> None:
    stop = trio.Event()
    async with serving(api.app, lane=lane, stop=stop, grace_s=60) as number:
        clients = []
        for _ in range(20):  # without a checkpoint, so the server does not run between them
            sock = socket.create_connection(("127.0.0.1", number))
            sock.sendall(ENQUEUE)
            clients.append(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
        stop.set()
        for client in clients:
            async with client:
                with trio.fail_after(60):
                    (answer,) = await read_responses(client, 1)
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_the_end_of_the_grace_period_cancels_waiting_requests(api: Api, lane: bool) -> None:
    stop = trio.Event()
    async with (
        serving(api.app, lane=lane, stop=stop, grace_s=0.3) as number,
        connected(number) as stream,
    ):
        await stream.send_all(FETCH)
        await until(lambda: _waiting(api))
        stop.set()  # without ``App.drain``, so fetches keep waiting
        assert await stream.receive_some(10) == b""
    assert len(api.app.waiters) == 0


async def test_a_bug_in_one_connection_does_not_affect_others(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(api.app, lane=True) as number:
        with monkeypatch.context() as patched:

            def broken(heads: HeadCache, data: bytes) -> None:
                raise RuntimeError("a bug")

            patched.setattr(HeadCache, "read", broken)
            async with connected(number) as stream:
                await stream.send_all(ENQUEUE)
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some(10) == b""
        assert (await exchange(number, ENQUEUE))[0] == 201
