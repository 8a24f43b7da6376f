"""HTTP/2 without a key costs little: headers that unpack, floods, idle connections."""

from __future__ import annotations

import errno
import math
import os
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from h2.errors import ErrorCodes

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http import connections as accept_module
from ojs_cluster.server.http.connections import (
    ConnectionLimits,
    Connections,
    max_connections_possible,
)
from ojs_cluster.server.http.frame_budget import PREFACE, FrameBudget
from tests.http.api import Stream, dial, entry_points, open_app, serving
from tests.security.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GET,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    frame,
)

KEY = "k" * 40
PATH = (b":path", b"/ojs/v1/queues")
LIVE = (b":path", b"/live")


@asynccontextmanager
async def served(
    standalone: Embedded, *, lane: bool = True, idle_s: float = 60.0, **listening: Any
) -> AsyncIterator[int]:
    """An API that wants a key, with HTTP/2 in clear text."""
    listening = {"h2c": True, **listening}
    async with (
        open_app(standalone, api_keys=(KEY,)) as app,
        serving(app, lane=lane, idle_s=idle_s, listening=listening) as port,
    ):
        yield port


@asynccontextmanager
async def http2(port: int) -> AsyncIterator[Http2Client]:
    async with await dial(port, alpn=entry_points.alpn) as stream:
        client = Http2Client(stream)
        await client.open()
        yield client


@pytest.fixture(params=[True, False], ids=["lane", "hypercorn"])
async def port(standalone: Embedded, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    async with served(standalone, lane=request.param) as number:
        yield number


LIVE_REQUEST = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"


async def _ask(stream: Stream) -> None:
    """Check that the process answers on this connection."""
    await stream.send_all(LIVE_REQUEST)
    answer = b""
    with trio.fail_after(120):
        while not answer.endswith(b"}"):
            piece = await stream.receive_some(4096)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200"), answer


# -- headers --------------------------------------------------------------------------------------


def _amplified(client: Http2Client, stream: int, times: int) -> bytes:
    """Return a request of 57 bytes that refers to one long value ``times`` times."""
    return client.head(stream, *GET, PATH, *[(b"x-long", b"v" * 3900)] * times)


async def test_headers_that_unpack_to_more_than_their_bound_end_the_connection(port: int) -> None:
    async with http2(port) as client:
        await client.stream.send_all(_amplified(client, 1, 1))
        assert (await client.listen(until=1)).statuses == {1: 401}
        attack = _amplified(client, 3, 14)
        assert len(attack) < 100
        await client.stream.send_all(attack)
        assert (await client.listen()).goodbye == ErrorCodes.ENHANCE_YOUR_CALM
        assert client.heard.statuses == {1: 401}


async def test_a_connection_of_refused_requests_ends_after_a_few(port: int) -> None:
    """What is refused for want of a key costs as much as what is served."""
    async with http2(port) as client:
        requests = b"".join(client.head(stream, *GET, PATH) for stream in range(1, 199, 2))
        with suppress(trio.BrokenResourceError):
            await client.stream.send_all(requests)
        heard = await client.listen()
    assert heard.goodbye == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(heard.statuses) <= 8
    assert set(heard.statuses.values()) <= {401}


async def test_preflights_of_an_allowed_origin_do_not_end_the_connection(
    standalone: Embedded,
) -> None:
    """Browsers send them without a key, one for each path of a page."""
    ui = b"https://admin.example.com"
    asked = [(b":method", b"OPTIONS"), *GET[1:]]
    wanted = (b"access-control-request-method", b"POST")
    async with (
        open_app(standalone, api_keys=(KEY,), cors_origins=(ui.decode(),)) as app,
        serving(app, lane=False, listening={"h2c": True}) as port,
        http2(port) as client,
    ):
        streams = range(1, 41, 2)
        for stream in streams:
            path = (b":path", b"/ojs/v1/jobs/%d" % stream)
            await client.stream.send_all(client.head(stream, *asked, path, wanted, (b"origin", ui)))
            heard = await client.listen(until=stream)
        assert heard.statuses == dict.fromkeys(streams, 204)
    for others in ((wanted, (b"origin", b"https://other")), ((b"origin", ui),)):
        async with (
            open_app(standalone, api_keys=(KEY,), cors_origins=(ui.decode(),)) as app,
            serving(app, lane=False, listening={"h2c": True}) as port,
            http2(port) as client,
        ):
            for stream in range(1, 41, 2):
                with suppress(trio.BrokenResourceError):
                    await client.stream.send_all(client.head(stream, *asked, PATH, *others))
            assert (await client.listen()).goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_few_requests_without_a_key_are_under_way_on_a_connection(port: int) -> None:
    """100 probes without their end held 3 MB, for 6 KB that were sent. A key lifts the bound."""
    streams = range(1, 41, 2)
    async with http2(port) as client:
        heads = [client.head(stream, *GET, LIVE, ends=False) for stream in streams]
        await client.stream.send_all(b"".join(heads))
        heard = await client.listen(until=streams[-1])
        assert heard.resets == dict.fromkeys(streams[8:], ErrorCodes.REFUSED_STREAM)
        with_key = (b"authorization", b"Bearer " + KEY.encode())
        await client.stream.send_all(client.head(41, *GET, PATH, with_key))
        assert (await client.listen(until=41)).statuses == {41: 200}
        await client.stream.send_all(client.head(43, *GET, LIVE))
        assert (await client.listen(until=43)).statuses == {41: 200, 43: 200}
        await client.stream.send_all(frame(DATA, END_STREAM, 1))
        assert (await client.listen(until=1)).statuses[1] == 200


async def test_the_amplification_of_many_connections_is_bounded(port: int) -> None:
    """100 of them once took 10 s of CPU and 430 MB. Other clients are served during the attack."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    done = 0

    async def attack() -> None:
        nonlocal done
        with suppress(OSError, trio.BrokenResourceError):
            async with http2(port) as client:
                first = _amplified(client, 1, 1)
                rest = [_amplified(client, stream, 3) for stream in range(3, 199, 2)]
                await client.stream.send_all(first + b"".join(rest))
                await client.listen()
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(attack)
        async with await dial(port) as probe:
            while done < 100:
                await _ask(probe)
                await trio.sleep(0.05)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    # Clients and server are one process here, and each client's own h2 is most of it.
    assert grown_mb < 100
    assert time.process_time() - began < 30


# -- floods ---------------------------------------------------------------------------------------

FLOODS: dict[str, bytes] = {
    "ping": frame(PING, 0, 0, b"12345678"),
    "settings": frame(SETTINGS, 0, 0),
    "window": frame(WINDOW_UPDATE, 0, 0, (10_000).to_bytes(4)),
    "priority": frame(PRIORITY, 0, 99, (0).to_bytes(4) + b"\x10"),
    "unknown": frame(0xBB, 0, 0, b"x"),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_frames_ends_the_connection(port: int, flood: str) -> None:
    async with http2(port) as client:
        with suppress(trio.BrokenResourceError):
            await client.stream.send_all(FLOODS[flood] * 5000)
        heard = await client.listen()
    assert heard.closed
    assert heard.goodbye in (ErrorCodes.ENHANCE_YOUR_CALM, None)  # None: cut while we still sent


async def test_a_rapid_reset_ends_the_connection(port: int) -> None:
    async with http2(port) as client:
        authorized = (b"authorization", b"Bearer " + KEY.encode())
        pieces = []
        for stream in range(1, 6001, 2):
            block = client.encoder.encode([*GET, PATH, authorized], huffman=False)
            pieces.append(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
            pieces.append(frame(RST_STREAM, 0, stream, ErrorCodes.CANCEL.to_bytes(4)))
        with suppress(trio.BrokenResourceError):
            await client.stream.send_all(b"".join(pieces))
        assert (await client.listen()).closed


async def test_a_flood_of_empty_data_ends_the_connection(port: int) -> None:
    async with http2(port) as client:
        post = [(b":method", b"POST"), *GET[1:], (b":path", b"/ojs/v1/jobs")]
        post.append((b"authorization", b"Bearer " + KEY.encode()))
        await client.stream.send_all(client.head(1, *post, ends=False))
        with suppress(trio.BrokenResourceError):
            await client.stream.send_all(frame(DATA, 0, 1) * 5000)
        assert (await client.listen()).closed


async def test_a_client_that_works_sends_as_many_frames_as_it_likes(port: int) -> None:
    """Each answer pays for the frames around it."""
    authorized = (b"authorization", b"Bearer " + KEY.encode())
    async with http2(port) as client:
        for stream in range(1, 1201, 2):
            await client.stream.send_all(
                client.head(stream, *GET, PATH, authorized)
                + FLOODS["window"]
                + FLOODS["ping"]
                + frame(WINDOW_UPDATE, 0, stream, (1).to_bytes(4))
            )
            heard = await client.listen(until=stream)
            assert heard.statuses[stream] == 200
    assert heard.goodbye is None


def test_a_budget_counts_frames_however_they_are_cut() -> None:
    flood = PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 1, b"x" * 100) + FLOODS["ping"] * 1200
    budgets = [FrameBudget(0.0) for _ in range(3)]
    spent = []
    for budget, size in zip(budgets, (1, 7, len(flood)), strict=True):
        pieces = [flood[at : at + size] for at in range(0, len(flood), size)]
        allowed = [budget.spend(piece, 0.0) for piece in pieces]
        spent.append(allowed.index(False) * size)
    # After the preface and two other frames a thousand pings, less the one for the settings.
    edge = len(PREFACE) + 9 + 109 + 999 * 17
    assert spent[0] == edge + 8
    assert edge <= spent[1] + 7 <= edge + 24
    assert spent[2] == 0


def test_a_budget_fills_by_time_and_by_work() -> None:
    ping = FLOODS["ping"]
    budget = FrameBudget(0.0)
    assert budget.spend(PREFACE + ping * 1000, 0.0)
    assert not budget.spend(ping, 0.0)
    budget = FrameBudget(0.0)
    assert budget.spend(PREFACE + ping * 1000, 0.0)
    assert budget.spend(ping * 20, 1.0)
    budget.earn_request()
    assert budget.spend(ping * 10, 1.0)
    budget.earn_sent(1024 * 1024)
    assert budget.spend(ping * 512, 1.0)
    assert not budget.spend(ping, 1.0)


# -- malformed requests ---------------------------------------------------------------------------

MALFORMED = {
    "path that is no text": [*GET, (b":path", b"/\xff")],
    "method that is no text": [(b":method", b"\xff"), *GET[1:], LIVE],
    "no path": [*GET],
    "no method": [*GET[1:], LIVE],
    "upper case name": [*GET, LIVE, (b"X-Loud", b"1")],
    "connection header": [*GET, LIVE, (b"connection", b"close")],
    "pseudo header last": [*GET, (b"a", b"b"), LIVE],
    "length that is none": [*GET, LIVE, (b"content-length", b"4x")],
    "length with a sign": [*GET, LIVE, (b"content-length", b"-4")],
    "lengths that differ": [*GET, LIVE, (b"content-length", b"4"), (b"content-length", b"5")],
    "length without end": [*GET, LIVE, (b"content-length", b"4" * 5000)],
}


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_malformed_request_ends_its_stream_alone(port: int, kind: str) -> None:
    """``serving`` fails the test when anything is reported as an error, a stack trace included."""
    async with http2(port) as client:
        await client.stream.send_all(
            client.head(1, *MALFORMED[kind], ends=False)
            + frame(DATA, END_STREAM, 1, b"body")
            + client.head(3, *GET, LIVE)
        )
        assert (await client.listen(until=3)).statuses == {3: 200}
        assert client.heard.resets == {1: ErrorCodes.PROTOCOL_ERROR}
        assert client.heard.goodbye is None


AUTHORIZED = (b"authorization", b"Bearer " + KEY.encode())
POST = [(b":method", b"POST"), *GET[1:], (b":path", b"/ojs/v1/jobs")]


@pytest.mark.parametrize("sent", [b"", b"b", b"bod", b"bodys", b"b" * 5000])
async def test_a_body_of_another_length_than_announced_ends_its_stream_alone(
    port: int, sent: bytes
) -> None:
    async with http2(port) as client:
        await client.stream.send_all(
            client.head(1, *POST, AUTHORIZED, (b"content-length", b"4"), ends=False)
            + frame(DATA, 0, 1, sent[:1])
            + frame(DATA, END_STREAM, 1, sent[1:])
            + client.head(3, *GET, LIVE)
        )
        assert (await client.listen(until=3)).statuses == {3: 200}
        assert client.heard.resets == {1: ErrorCodes.PROTOCOL_ERROR}
        assert client.heard.goodbye is None


async def test_a_request_that_announces_a_body_and_ends_is_malformed(port: int) -> None:
    async with http2(port) as client:
        await client.stream.send_all(
            client.head(1, *GET, LIVE, (b"content-length", b"4"))
            + client.head(3, *GET, LIVE, (b"content-length", b"0"))
        )
        assert (await client.listen(until=3)).statuses == {3: 200}
        assert client.heard.resets == {1: ErrorCodes.PROTOCOL_ERROR}


async def test_a_body_that_comes_after_its_refusal_is_discarded_whatever_its_length(
    port: int,
) -> None:
    async with http2(port) as client:
        await client.stream.send_all(client.head(1, *GET, PATH, AUTHORIZED))
        await client.listen(until=1)
        streams = range(3, 43, 2)
        for stream in streams:
            head = client.head(stream, *POST, (b"content-length", b"9"), ends=False)
            await client.stream.send_all(head)
            assert (await client.listen(until=stream)).statuses[stream] == 401
        rests = [frame(DATA, END_STREAM, stream, b"x" * (stream % 12)) for stream in streams]
        await client.stream.send_all(b"".join(rests) + client.head(43, *GET, LIVE))
        assert (await client.listen(until=43)).statuses[43] == 200
        assert (client.heard.resets, client.heard.goodbye) == ({}, None)


async def test_the_rest_of_a_refused_body_ends_no_other_stream(port: int) -> None:
    async with http2(port) as client:
        post = [(b":method", b"POST"), *GET[1:], (b":path", b"/ojs/v1/jobs")]
        await client.stream.send_all(client.head(1, *post, ends=False))
        assert (await client.listen(until=1)).statuses == {1: 401}
        await client.stream.send_all(
            frame(DATA, 0, 1, b"x" * 1000)
            + frame(DATA, END_STREAM, 1, b"x" * 1000)
            + client.head(3, *GET, LIVE)
        )
        assert (await client.listen(until=3)).statuses[3] == 200


# -- clear text -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [True, False])
async def test_http2_in_clear_text_is_off_unless_asked_for(
    standalone: Embedded, lane: bool
) -> None:
    async with served(standalone, lane=lane, h2c=False) as port:
        async with await dial(port) as stream:
            await stream.send_all(PREFACE + frame(SETTINGS, 0, 0))
            received = b""
            with trio.fail_after(60), suppress(trio.BrokenResourceError):
                while piece := await stream.receive_some(4096):
                    received += piece
            assert received == b"" or received.startswith(b"HTTP/1.1 4")
        async with await dial(port) as stream:
            await stream.send_all(
                b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            )
            with trio.fail_after(60):
                assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")


async def test_http2_in_clear_text_can_be_upgraded_to(port: int) -> None:
    async with await dial(port) as stream:
        await stream.send_all(
            b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        await stream.send_all(PREFACE + frame(SETTINGS, 0, 0))
        answer = b""
        with trio.fail_after(60):
            while b'"status"' not in answer:
                piece = await stream.receive_some(4096)
                assert piece, answer
                answer += piece
        assert answer.startswith(b"HTTP/1.1 101")


# -- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [True, False])
async def test_a_connection_that_asks_for_nothing_is_closed_in_time(
    standalone: Embedded, lane: bool
) -> None:
    async with served(standalone, lane=lane, idle_s=0.5) as port, http2(port) as client:
        assert (await client.listen()).closed


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize(
    "head", [b"GET /live HTTP/1.1\r\nHost: x", b"G", b"GET /ojs/v1/q HTTP/1.1\r\n"]
)
async def test_a_slow_head_is_closed_long_before_an_idle_connection(
    standalone: Embedded, lane: bool, head: bytes
) -> None:
    async with (
        served(standalone, lane=lane, idle_s=3000, head_timeout_s=0.5) as port,
        await dial(port) as idle,
        await dial(port) as slow,
    ):
        await slow.send_all(head)
        with trio.fail_after(120), suppress(trio.BrokenResourceError):
            assert await slow.receive_some(4096) == b""
        await _ask(idle)


async def test_a_request_that_waits_is_no_slow_head(standalone: Embedded) -> None:
    """Its body comes late; its head was there at once."""
    async with (
        served(standalone, idle_s=3, head_timeout_s=3) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        body = b'{"type":"t","args":[]}'
        head = (
            b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % KEY.encode()
        )
        await stream.send_all(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        await trio.sleep(5)  # longer than a head may take, and than a connection may be idle
        await stream.send_all(body[5:])
        with trio.fail_after(60):
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 201")


async def test_connections_of_a_client_are_bounded(standalone: Embedded) -> None:
    async with served(standalone, max_connections_per_client=2) as port:
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as first,
            await trio.open_tcp_stream("127.0.0.1", port) as second,
        ):
            for stream in (first, second):
                await _ask(stream)
            async with await trio.open_tcp_stream("127.0.0.1", port) as third:
                with trio.fail_after(60), suppress(trio.BrokenResourceError):
                    assert await third.receive_some(4096) == b""
        await _served_again(port)


async def _served_again(port: int) -> None:
    """Wait until the server has noticed the end of earlier connections."""
    with trio.fail_after(60):
        while True:
            with suppress(trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
                    if (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200"):
                        return
            await trio.sleep(0.02)


async def test_more_connections_than_a_process_has_wait_for_their_turn(
    standalone: Embedded,
) -> None:
    async with (
        served(standalone, max_connections=1) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as first,
    ):
        await _ask(first)
        async with await trio.open_tcp_stream("127.0.0.1", port) as second:
            await second.send_all(LIVE_REQUEST)
            with trio.move_on_after(0.3) as nothing:
                await second.receive_some(4096)
            assert nothing.cancelled_caught
            await first.aclose()
            with trio.fail_after(60):
                assert (await second.receive_some(4096)).startswith(b"HTTP/1.1 200")


async def test_a_drain_does_not_wait_for_a_connection_without_a_stream(
    standalone: Embedded,
) -> None:
    stop = trio.Event()
    async with open_app(standalone, api_keys=(KEY,)) as app:
        with trio.fail_after(100):  # the grace period is longer
            async with (
                serving(app, lane=True, stop=stop, grace_s=3000, listening={"h2c": True}) as port,
                await dial(port, alpn=entry_points.alpn) as stream,
            ):
                client = Http2Client(stream)
                await client.open()
                await stream.receive_some(9)
                stop.set()
                assert (await client.listen()).closed


async def test_every_listener_continues_when_connections_are_free_again() -> None:
    """Only the last of two waiting listeners was woken once."""
    connections = Connections(ConnectionLimits(max_connections=1))
    accepted: list[trio.SocketStream] = []
    first, second, third = [
        (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] for _ in range(3)
    ]

    async def accept(listener: trio.SocketListener) -> None:
        descriptor = listener.socket.fileno()
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            accepted.extend(await connections.accept(sock))

    async with first, second, third, trio.open_nursery() as nursery:
        async with await trio.testing.open_stream_to_socket_listener(first):
            await accept(first)
        nursery.start_soon(accept, second)
        nursery.start_soon(accept, third)
        await trio.testing.wait_all_tasks_blocked()
        for number, listener in enumerate((second, third), 2):
            connections.ended()
            async with await trio.testing.open_stream_to_socket_listener(listener):
                with trio.fail_after(60):
                    while len(accepted) < number:  # noqa: ASYNC110 - a list has no event
                        await trio.sleep(0.01)
    for stream in accepted:
        await trio.aclose_forcefully(stream)


async def test_connections_that_wait_are_accepted_together_up_to_the_limits() -> None:
    connections = Connections(ConnectionLimits(max_connections=11))
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listener:
        listener.setblocking(False)
        waiting = [socket.create_connection(listener.getsockname()) for _ in range(12)]
        streams = await connections.accept(listener)
        assert len(streams) == 8  # other processes may take the rest
        streams += await connections.accept(listener)
        assert len(streams) == 11
        with trio.move_on_after(0.05) as full:
            await connections.accept(listener)
        assert full.cancelled_caught
        connections.ended()
        streams += await connections.accept(listener)
        assert len(streams) == 12
    for stream in streams:
        stream.socket.close()
    for sock in waiting:
        sock.close()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EMFILE, errno.EHOSTUNREACH])
async def test_an_error_of_one_connection_does_not_end_the_listener(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    connections = Connections(ConnectionLimits())
    errors = [OSError(number, "refused by the test")]

    def accept_now(listener: socket.socket) -> trio.SocketStream:
        if errors:
            raise errors.pop()
        return accept(listener)

    accept = accept_module.accept_now
    monkeypatch.setattr(accept_module, "accept_now", accept_now)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            (stream,) = await connections.accept(listener)
            stream.socket.close()


async def test_connections_are_served_before_a_wait_for_descriptors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = Connections(ConnectionLimits())
    accept, calls = accept_module.accept_now, 0

    def accept_now(listener: socket.socket) -> trio.SocketStream:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.EMFILE, "refused by the test")
        return accept(listener)

    monkeypatch.setattr(accept_module, "accept_now", accept_now)
    monkeypatch.setattr(accept_module, "_RETRY_ACCEPT_S", math.inf)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()):
            with trio.fail_after(5):
                (stream,) = await connections.accept(listener)
            stream.socket.close()


def test_as_many_connections_as_files_allow() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 600), hard))
        assert max_connections_possible(100) == 100
        assert max_connections_possible(10_000) == min(soft, 600) - 256
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_addresses_are_counted_and_forgotten() -> None:
    connections = Connections(ConnectionLimits(max_per_client=1))
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener):
        accepted = await listener.accept()
        with connections.admit(accepted) as first, connections.admit(accepted) as second:
            assert (first, second) == (True, False)
        with connections.admit(accepted) as third:
            assert third
        assert not connections._counts_by_client
        await accepted.aclose()
