"""The library's own connections, against servers that misbehave."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ojs_client.errors import ConnectionFailed
from ojs_client.http import connections
from ojs_client.http.connections import Address, Connections, NoResponse, NotSent
from ojs_client.http.response_parser import Response
from ojs_client.transport import Transport
from tests.client_library.http.served import LIMIT_S, REPLY, REQUEST, SURPLUS, Served, Stream, reply

LARGER_THAN_BUFFERS = 32 * 1024 * 1024
"""Length of a body in bytes that no buffers of sockets hold."""


def test_requests_share_a_connection(run: Any) -> None:
    async def scenario() -> None:
        served = Served(reply)
        async with served.running() as pool:
            for _ in range(3):
                assert (await pool.exchange(REQUEST, LIMIT_S)).body == b"{}"
            assert (served.connected, len(served.requests)) == (1, 3)
            await pool.close()
            await served.closed.wait()

    run(scenario)


def test_an_idle_connection_that_the_server_has_closed_is_not_used(run: Any) -> None:
    async def reply_and_close(stream: Stream, number: int) -> None:
        await stream.send(REPLY)
        await stream.aclose()

    async def scenario() -> None:
        served = Served(reply_and_close)
        async with served.running() as pool:
            await pool.exchange(REQUEST, LIMIT_S)
            await served.closed.wait()
            assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
            assert served.connected == 2

    run(scenario)


def test_connections_that_were_idle_for_long_are_closed(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IDLE_S", 0.0)

    async def scenario() -> None:
        served = Served(reply)
        async with served.running() as pool:
            assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
            await served.closed.wait()
            assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
            assert served.connected == 2

    run(scenario)


def test_bytes_after_a_response_end_the_connection(run: Any) -> None:
    async def reply_twice(stream: Stream, number: int) -> None:
        await stream.send(REPLY + SURPLUS)

    async def scenario() -> None:
        served = Served(reply_twice)
        async with served.running() as pool:
            for _ in range(2):
                assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
            assert served.connected == 2

    run(scenario)


def test_bytes_after_a_response_that_fills_a_chunk_end_the_connection(run: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    length = 64 * 1024 - len(head % 10_000)
    sent = anyio.Event()

    async def reply_twice(stream: Stream, number: int) -> None:
        await stream.send(head % length + bytes(length) + SURPLUS)
        sent.set()

    async def scenario() -> None:
        served = Served(reply_twice)
        async with served.running() as pool:
            for _ in range(2):
                assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200
                await sent.wait()
            assert served.connected == 2

    run(scenario)


def test_a_connection_that_ends_without_a_response_may_have_carried_the_request(run: Any) -> None:
    async def close(stream: Stream, number: int) -> None:
        await stream.aclose()

    async def scenario() -> None:
        served = Served(close)
        async with served.running() as pool:
            with pytest.raises(NoResponse, match="without a response"):
                await pool.exchange(REQUEST, LIMIT_S)

    run(scenario)


def test_no_response_in_time_closes_the_connection(run: Any) -> None:
    async def scenario() -> None:
        async def answer_the_first_of_each(stream: Stream, number: int) -> None:
            if number > 1 or len(served.requests) == 1:
                await stream.send(REPLY)

        served = Served(answer_the_first_of_each)
        async with served.running() as pool:
            await pool.exchange(REQUEST, LIMIT_S)
            with pytest.raises(NoResponse, match="no response in time"):
                await pool.exchange(REQUEST, 0.2)
            await served.closed.wait()
            assert (await pool.exchange(REQUEST, LIMIT_S)).status == 200

    run(scenario)


def test_a_cancelled_request_closes_its_connection(run: Any) -> None:
    asked = anyio.Event()

    async def wait(stream: Stream, number: int) -> None:
        asked.set()

    async def scenario() -> None:
        served = Served(wait)
        async with served.running() as pool, anyio.create_task_group() as group:
            group.start_soon(pool.exchange, REQUEST, LIMIT_S)
            await asked.wait()
            group.cancel_scope.cancel()
        await served.closed.wait()

    run(scenario)


def test_further_requests_wait_for_a_connection(run: Any) -> None:
    async def scenario() -> None:
        go, found = anyio.Event(), list[Response]()

        async def answer(stream: Stream, number: int) -> None:
            await go.wait()
            await stream.send(REPLY)

        async def exchange() -> None:
            found.append(await pool.exchange(REQUEST, LIMIT_S))

        served = Served(answer)
        async with served.running() as pool:
            async with anyio.create_task_group() as group:
                for _ in range(4):
                    group.start_soon(exchange)
                while served.connected < 2:  # noqa: ASYNC110 - the server sets no event
                    await anyio.sleep(0.01)
                with pytest.raises(NotSent, match="no connection in time"):
                    await pool.exchange(REQUEST, 0.1)
                go.set()
            assert (len(found), served.connected) == (4, 2)

    run(scenario)


def test_a_refused_connection_has_sent_nothing(run: Any) -> None:
    async def scenario() -> None:
        served = Served(reply)
        async with served.running():
            pass
        with pytest.raises(NotSent):
            await Connections(Address("127.0.0.1", served.port), 2).exchange(REQUEST, LIMIT_S)


def test_a_refusal_before_the_whole_body_is_read_arrives() -> None:
    """On asyncio it is lost, because the server closes the connection."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def refuse(stream: Stream, number: int) -> None:
        await stream.send(refusal)
        await stream.aclose()  # with unread bytes, so that the rest of the body cannot be sent

    async def scenario() -> None:
        served = Served(refuse)
        async with served.running() as pool:
            head = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % LARGER_THAN_BUFFERS
            response = await pool.exchange(head + bytes(LARGER_THAN_BUFFERS), LIMIT_S)
            assert response.status == 413

    anyio.run(scenario, backend="trio")


def test_a_request_has_path_query_headers_and_length(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OJS_API_KEY", raising=False)

    async def scenario() -> None:
        served = Served(reply)
        async with served.running():
            url = f"http://127.0.0.1:{served.port}/prefix/"
            async with Transport(url, api_key="k", headers={"X-A": "b"}) as transport:
                await transport.request("GET", "/jobs/ä b", params={"wait": "a&b"})
                await transport.request("POST", "/jobs", {"a": 1})
                await transport.request("POST", "/none")
        get, post, none = served.requests
        assert get.startswith(b"GET /prefix/ojs/v1/jobs/%C3%A4%20b?wait=a%26b HTTP/1.1\r\n")
        assert b"Host: 127.0.0.1:%d\r\n" % served.port in get
        assert b"Authorization: Bearer k\r\n" in get
        assert b"X-A: b\r\n" in get
        assert b"Content-Length" not in get
        assert post.endswith(b'Content-Length: 7\r\n\r\n{"a":1}')
        assert none.endswith(b"Content-Length: 0\r\n\r\n")

    run(scenario)


def test_a_proxy_of_the_environment_is_used(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        served = Served(reply)
        async with served.running():
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{served.port}")
            monkeypatch.delenv("no_proxy", raising=False)
            async with Transport("http://ojs.example") as transport:
                await transport.request("GET", "/jobs")
        assert served.requests[0].startswith(b"GET http://ojs.example/ojs/v1/jobs HTTP/1.1\r\n")

    run(scenario)


def test_a_key_that_is_no_header_is_an_error(run: Any) -> None:
    async def scenario() -> None:
        served = Served(reply)
        async with served.running():
            url = f"http://127.0.0.1:{served.port}"
            async with Transport(url, api_key="key\r\nX: y", retry_for_s=0) as transport:
                with pytest.raises(ConnectionFailed):
                    await transport.request("GET", "/jobs")
        assert served.requests == []

    run(scenario)
