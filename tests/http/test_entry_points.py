"""Both entry points on a real socket: requests, responses, and clients that disconnect."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import h11
import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ojs_cluster.http.app import App
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.engine.fetch.long_poll import fetch_or_wait
from tests.http.api import OJS_TYPE, Api, Stream, dial, entry_points, open_app, serving, until


@dataclass(frozen=True, slots=True)
class Raw:
    """A raw HTTP/1.1 connection."""

    stream: Stream
    protocol: h11.Connection

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def reply(self, method: bytes = b"GET") -> tuple[int, dict[str, str], bytes]:
        """Read one response. ``method`` is the request's, as HEAD has no body."""
        body = b""
        response: h11.Response | None = None
        while True:
            event = self.protocol.next_event()
            if event is h11.NEED_DATA:
                self.protocol.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                response = event
                if method == b"HEAD":
                    break
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert response is not None
        headers = {name.decode(): value.decode() for name, value in response.headers}
        return response.status_code, headers, body


@asynccontextmanager
async def raw(port: int, *, expect: bytes = b"GET") -> AsyncIterator[Raw]:
    """Open a raw connection, ready to parse the response to one request of that method."""
    stream = await dial(port)
    protocol = h11.Connection(h11.CLIENT)
    protocol.send(h11.Request(method=expect, target="/", headers=[("Host", "x")]))
    protocol.send(h11.EndOfMessage())
    async with stream:
        yield Raw(stream, protocol)


async def exchange(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send these bytes on a new connection and read the response."""
    method = request.split(b" ", 1)[0]
    with trio.fail_after(60):
        async with raw(port, expect=b"HEAD" if method == b"HEAD" else b"GET") as connection:
            await connection.send(request)
            return await connection.reply(method)


def request(method: str, target: str, body: Any = None, *headers: str) -> bytes:
    """Return the bytes of one request."""
    raw_body = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: test", f"Content-Type: {OJS_TYPE}", *headers]
    if raw_body:
        lines.append(f"Content-Length: {len(raw_body)}")
    return "\r\n".join([*lines, "", ""]).encode() + raw_body


@pytest.fixture(autouse=True, params=["hypercorn", "lane"])
def entry_point(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run each test with hypercorn alone, and with the fast lane before it."""
    entry_points.lane = request.param == "lane"
    yield
    entry_points.lane = False


@pytest.fixture
async def app(standalone: Embedded) -> AsyncIterator[App]:
    async with open_app(standalone, bodies=BodyLimits(linger_s=0.5)) as opened:
        yield opened


@pytest.fixture
async def port(app: App) -> AsyncIterator[int]:
    async with serving(app) as number:
        yield number


async def test_a_job_is_enqueued_fetched_and_acked_over_http(app: App) -> None:
    async with (
        serving(app) as number,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{number}", timeout=60) as client,
    ):
        enqueued = await client.post("/ojs/v1/jobs", json={"type": "t", "args": [1]})
        assert enqueued.status_code == 201
        assert enqueued.headers["content-type"] == f'{OJS_TYPE}; alt="application/json"'
        assert enqueued.headers["location"] == f"/ojs/v1/jobs/{enqueued.json()['id']}"
        fetched = await client.post("/ojs/v1/workers/fetch", json={"queues": ["default"]})
        (job,) = fetched.json()["jobs"]
        body = {"job_id": job["id"], "lease_id": job["lease_id"], "result": {"ok": True}}
        acked = await client.post("/ojs/v1/workers/ack", json=body)
        assert acked.json()["state"] == "completed"
        assert fetched.headers["ojs-version"] == "1.0"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"ASSERT / HTTP/1.1", 404),
        (b"push /ojs/v1/jobs HTTP/1.1", 405),
        (b"get / HTTP/1.1", 404),
        (b"GET ?x HTTP/1.1", 404),
        (b"OPTIONS * HTTP/1.1", 404),
        (b"GET http://elsewhere/ojs/manifest HTTP/1.1", 200),
        (b"GET http://elsewhere HTTP/1.1", 404),
        (b"GET /ojs/v1/jobs/%2F..%2Fx HTTP/1.1", 404),
        (b"GET /ojs/v1/jobs/%00 HTTP/1.1", 404),
        (b"GET /ojs/v1/jobs/%zz?%zz=%zz HTTP/1.1", 404),
        (b"GET /ojs/manifest HTTP/1.0", 200),
    ],
)
async def test_every_request_line_gets_a_json_answer(port: int, line: bytes, status: int) -> None:
    found, headers, body = await exchange(port, line + b"\r\nHost: x\r\n\r\n")
    assert found == status
    assert headers["content-type"] == OJS_TYPE
    assert json.loads(body)


async def test_a_smuggled_request_is_not_served(port: int) -> None:
    hidden = b"0\r\n\r\nGET /ojs/manifest HTTP/1.1\r\nHost: x\r\n\r\n"
    outer = (
        b"POST /ojs/v1/workers/fetch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Length: %d\r\n\r\n" % len(hidden)
    )
    with trio.fail_after(60):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(outer + hidden)
            received = b"".join([piece async for piece in stream])
    assert received.startswith(b"HTTP/1.1 400")
    assert received.count(b"HTTP/1.1") == 1
    assert b"headers.transfer-encoding" in received


async def test_the_connection_survives_unknown_methods_and_errors(port: int) -> None:
    with trio.fail_after(60):
        async with await dial(port) as stream:
            for method, target, status in (
                ("ASSERT", "/", 404),
                ("push", "/", 404),
                ("POST", "/ojs/v1/jobs", 400),
                ("HEAD", "/ojs/manifest", 200),
                ("OPTIONS", "/ojs/manifest", 204),
                ("GET", "/ojs/manifest", 200),
            ):
                protocol = h11.Connection(h11.CLIENT)
                protocol.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
                protocol.send(h11.EndOfMessage())
                connection = Raw(stream, protocol)
                await connection.send(request(method, target))
                assert (await connection.reply(method.encode()))[0] == status


async def test_head_has_the_length_and_no_body(port: int) -> None:
    with trio.fail_after(60):
        async with raw(port, expect=b"HEAD") as connection:
            await connection.send(request("HEAD", "/ojs/manifest", None, "Connection: close"))
            status, headers, _ = await connection.reply(b"HEAD")
            assert status == 200
            assert int(headers["content-length"]) > 100
            rest = connection.protocol.trailing_data[0]
            while data := await connection.stream.receive_some(1000):
                rest += data
            assert rest == b""


async def test_a_chunked_body_is_read(port: int) -> None:
    head = request("POST", "/ojs/v1/jobs", None, "Transfer-Encoding: chunked")
    body = b'9\r\n{"type":"\r\ne\r\nt","args":[1]}\r\n0\r\n\r\n'
    status, _, answer = await exchange(port, head + body)
    assert (status, json.loads(answer)["job"]["args"]) == (201, [1])


async def test_a_client_may_send_expect_continue(port: int) -> None:
    with trio.fail_after(60):
        async with raw(port) as connection:
            body = b'{"type":"t","args":[]}'
            head = request(
                "POST", "/ojs/v1/jobs", None, "Expect: 100-continue", f"Content-Length: {len(body)}"
            )
            await connection.send(head)
            first = await connection.stream.receive_some(1000)
            assert first.startswith(b"HTTP/1.1 100")
            await connection.send(body)
            assert (await connection.reply())[0] == 201


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_too_large_is_413_even_before_it_is_read(
    standalone: Embedded, chunked: bool
) -> None:
    async with (
        open_app(standalone, bodies=BodyLimits(max_bytes=1000, linger_s=0.2)) as small,
        serving(small) as number,
    ):
        if chunked:
            sent = request("POST", "/ojs/v1/jobs", None, "Transfer-Encoding: chunked")
            sent += b"bb8\r\n" + b"x" * 3000 + b"\r\n"
        else:
            sent = request("POST", "/ojs/v1/jobs", None, "Content-Length: 3000") + b"x"
        status, headers, body = await exchange(number, sent)
        assert (status, json.loads(body)["error"]["code"]) == (413, "payload_too_large")
        assert headers["content-type"] == OJS_TYPE


async def test_a_refused_body_that_still_comes_does_not_break_the_client(
    standalone: Embedded,
) -> None:
    async with open_app(standalone, api_keys=("k",)) as guarded, serving(guarded) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                await connection.send(
                    request("POST", "/ojs/v1/jobs", None, "Content-Length: 600000")
                )
                for _ in range(6):
                    await connection.send(b"x" * 100_000)
                status, headers, _ = await connection.reply()
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="ojs"')


async def test_a_body_that_stalls_is_408(standalone: Embedded) -> None:
    bodies = BodyLimits(timeout_s=0.2, linger_s=0.1)
    async with open_app(standalone, bodies=bodies) as app, serving(app) as number:
        head = request("POST", "/ojs/v1/jobs", None, "Content-Length: 100")
        status, _, body = await exchange(number, head + b'{"type"')
        assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")


async def test_http2_is_served(app: App) -> None:
    async with serving(app, listening={"h2c": True}) as number:
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                status, headers = await _http2_get(stream, "/ojs/manifest")
    assert status == "200"
    assert headers["content-type"] == OJS_TYPE


async def _http2_get(stream: trio.SocketStream, path: str) -> tuple[str, dict[str, str]]:
    from h2.connection import H2Connection
    from h2.events import ResponseReceived

    connection = H2Connection()
    connection.initiate_connection()
    connection.send_headers(
        1,
        [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "x")],
        end_stream=True,
    )
    await stream.send_all(connection.data_to_send())
    while True:
        for event in connection.receive_data(await stream.receive_some(65536)):
            if isinstance(event, ResponseReceived):
                headers = {_text(name): _text(value) for name, value in event.headers or ()}
                return headers.pop(":status"), headers
        await stream.send_all(connection.data_to_send())


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


async def test_an_unknown_websocket_gets_an_ojs_error(port: int) -> None:
    sent = request(
        "GET",
        "/ojs/v1/unknown",
        None,
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    status, headers, body = await exchange(port, sent)
    assert (status, headers["content-type"]) == (404, OJS_TYPE)
    assert json.loads(body)["error"]["code"] == "not_found"


async def test_pages_of_quart_are_served_behind_the_same_keys(
    standalone: Embedded, caplog: pytest.LogCaptureFixture
) -> None:
    from ojs_cluster.http.hypercorn.quart_app import create_quart_app

    async with open_app(standalone, api_keys=("k",)) as guarded:
        quart = create_quart_app(guarded)

        @quart.get("/page")
        async def page() -> str:
            return "hello"

        @quart.get("/broken")
        async def broken() -> str:
            raise RuntimeError("secret")

        async with serving(guarded, quart=quart) as number:
            key = "Authorization: Bearer k"
            assert (await exchange(number, request("GET", "/page")))[0] == 401
            status, _, body = await exchange(number, request("GET", "/page", None, key))
            assert (status, body) == (200, b"hello")
            caplog.set_level(logging.CRITICAL, "ojs_cluster")
            status, headers, body = await exchange(number, request("GET", "/broken", None, key))
            assert (status, headers["content-type"]) == (500, OJS_TYPE)
            assert b"secret" not in body


async def test_an_idle_connection_is_closed_in_time(app: App) -> None:
    async with serving(app, idle_s=2.0) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                await connection.send(request("GET", "/ojs/manifest"))
                assert (await connection.reply())[0] == 200
                assert await connection.stream.receive_some(10) == b""


async def test_a_client_that_only_stops_sending_still_gets_its_answer(port: int) -> None:
    with trio.fail_after(60):
        async with raw(port) as connection:
            await connection.send(request("POST", "/ojs/v1/jobs", {"type": "t", "args": []}))
            assert isinstance(connection.stream, trio.SocketStream)
            await connection.stream.send_eof()
            assert (await connection.reply())[0] == 201


async def test_a_write_is_finished_after_its_client_disconnected(api: Api) -> None:
    async with serving(api.app) as number:
        for n in range(10):
            jobs = [{"type": "t", "args": [], "options": {"queue": f"q{i}"}} for i in range(20)]
            async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
                await stream.send_all(request("POST", "/ojs/v1/jobs/batch", {"jobs": jobs}))
            await until(lambda wanted=20 * (n + 1): _count_is(api, wanted))


async def _count_is(api: Api, wanted: int) -> bool:
    queues = (await api.get("/ojs/v1/queues?limit=200")).json["queues"]
    return bool(sum(queue["available"] for queue in queues) == wanted)


async def test_a_client_that_disconnects_in_mid_body_starts_nothing(api: Api) -> None:
    async with serving(api.app) as number:
        head = request("POST", "/ojs/v1/jobs", None, "Content-Length: 500")
        async with await trio.open_tcp_stream("127.0.0.1", number) as stream:
            await stream.send_all(head + b'{"type":"t","args":[]}')
        await wait_all_tasks_blocked(0.05)
    assert (await api.get("/ojs/v1/jobs")).json["jobs"] == []


# --- long poll ---


async def test_a_waiting_fetch_gets_the_job_when_it_comes(any_api: Api) -> None:
    async with serving(any_api.app) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                body = {"queues": ["default"], "wait_ms": 20_000, "worker_id": "w"}
                await connection.send(request("POST", "/ojs/v1/workers/fetch", body))
                await until(lambda: _waiting(any_api.app))
                job = await any_api.enqueue()
                status, _, answer = await connection.reply()
    assert (status, json.loads(answer)["jobs"][0]["id"]) == (200, job["id"])


async def test_a_wait_in_vain_ends_empty(api: Api) -> None:
    with trio.fail_after(60):
        reply = await api.post("/ojs/v1/workers/fetch", {"queues": ["default"], "wait_ms": 50})
    assert (reply.status, reply.json) == (200, {"jobs": []})


async def test_a_drain_ends_waiting_fetches(api: Api) -> None:
    async with serving(api.app) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                body = {"queues": ["default"], "wait_ms": 600_000}
                await connection.send(request("POST", "/ojs/v1/workers/fetch", body))
                await until(lambda: _waiting(api.app))
                api.app.drain()
                status, _, answer = await connection.reply()
    assert (status, json.loads(answer)) == (200, {"jobs": []})


async def test_a_client_that_disconnects_while_it_waits_gets_no_job(any_api: Api) -> None:
    app = any_api.app
    async with serving(app) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                body = {"queues": ["default"], "wait_ms": 20_000, "worker_id": "gone"}
                await connection.send(request("POST", "/ojs/v1/workers/fetch", body))
                await until(lambda: _waiting(app))
            await until(lambda: _waiting(app, empty=True))
            job = await any_api.enqueue()
            state = (await any_api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"]
            assert state == "available"
            (fetched,) = await any_api.fetch(worker_id="other")
    assert (fetched["id"], fetched["attempt"]) == (job["id"], 1)


async def _waiting(app: App, *, empty: bool = False) -> bool:
    return (len(app.waiters) == 0) is empty


async def test_jobs_fetched_for_a_disconnected_client_are_released(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client disconnects while the reply to the fetch is on its way from Redis."""
    fetched, gone = trio.Event(), trio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        jobs = await fetch_or_wait(*args, **kwargs)
        await ensure_task()
        fetched.set()
        with trio.CancelScope(shield=True):
            await gone.wait()
        return jobs

    job = await api.enqueue()
    monkeypatch.setattr("ojs_cluster.http.handlers.workers.fetch.fetch_or_wait", slow)
    async with serving(api.app) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                await connection.send(
                    request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
                )
                await fetched.wait()
                assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"] == "active"
            await wait_all_tasks_blocked(0.05)
            gone.set()
            await until(_state_is(api, job["id"], "available"))
    monkeypatch.undo()
    (again,) = await api.fetch()
    assert (again["id"], again["attempt"]) == (job["id"], 1)


def _state_is(api: Api, job_id: str, state: str) -> Callable[[], Any]:
    async def check() -> bool:
        return bool((await api.get(f"/ojs/v1/jobs/{job_id}")).json["state"] == state)

    return check


async def test_a_delivered_job_is_not_released(api: Api) -> None:
    job = await api.enqueue()
    async with serving(api.app) as number:
        body = {"queues": ["default"], "worker_id": "w"}
        status, _, answer = await exchange(number, request("POST", "/ojs/v1/workers/fetch", body))
        assert (status, len(json.loads(answer)["jobs"])) == (200, 1)
        await wait_all_tasks_blocked(0.05)
    assert (await api.get(f"/ojs/v1/jobs/{job['id']}")).json["state"] == "active"


async def test_jobs_that_cannot_be_sent_are_released(api: Api) -> None:
    """The client asks for more than the socket buffer holds, reads nothing, and disconnects."""
    jobs = [await api.enqueue(args=["x" * 1_000_000]) for _ in range(9)]  # 8 MiB: one fetch
    async with serving(api.app) as number:
        with trio.fail_after(60):
            async with raw(number) as connection:
                body = {"queues": ["default"], "count": 9}
                await connection.send(request("POST", "/ojs/v1/workers/fetch", body))
                await until(_state_is(api, jobs[-1]["id"], "active"))
                await wait_all_tasks_blocked(0.05)
            for job in jobs:
                await until(_state_is(api, job["id"], "available"))


async def test_clients_that_disconnect_after_the_response_keep_their_jobs(api: Api) -> None:
    async with serving(api.app) as number:
        for _ in range(30):
            job = await api.enqueue()
            sent = request("POST", "/ojs/v1/workers/fetch", {"queues": ["default"]})
            _, _, answer = await exchange(number, sent)
            assert json.loads(answer)["jobs"][0]["id"] == job["id"]
        await wait_all_tasks_blocked(0.05)
    stats = (await api.get("/ojs/v1/queues/default/stats")).json
    assert (stats["active"], stats["available"]) == (30, 0)
