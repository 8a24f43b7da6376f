"""HTTP/2 frames that cost more than they seem to, and clients that only look like attackers."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.frame_budget import PREFACE, FrameBudget
from tests.http.api import open_app, serving
from tests.security.http2 import (
    DATA,
    END_HEADERS,
    GET,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2Client,
    frame,
)
from tests.security.test_http2 import KEY, LIVE, PATH, _ask, http2, port, served

__all__ = ["port"]

CONTINUATION = 9
PADDED = 0x8
AUTHORIZED = (b"authorization", b"Bearer " + KEY.encode())
POST = [(b":method", b"POST"), *GET[1:], (b":path", b"/ojs/v1/jobs")]


async def _end_of(client: Http2Client, data: bytes) -> None:
    """Send what the server must end the connection for."""
    with suppress(trio.BrokenResourceError):
        await client.stream.send_all(data)
    assert (await client.listen()).closed


async def test_unknown_settings_are_not_stored(port: int) -> None:
    """24 frames of them made 54 MB, and each empty SETTINGS after that took 3 ms."""
    frames = b"".join(
        frame(
            SETTINGS, 0, 0, b"".join(code.to_bytes(2) + bytes(4) for code in range(at, at + 2700))
        )
        for at in range(16, 62_000, 2700)
    )
    began = time.process_time()
    async with http2(port) as client:
        await _end_of(client, frames + frame(SETTINGS, 0, 0) * 900)
    assert time.process_time() - began < 1.5


async def test_a_few_unknown_settings_are_ignored(port: int) -> None:
    async with http2(port) as client:
        values = b"".join(code.to_bytes(2) + bytes(4) for code in range(0x0A0A, 0x0A1A))
        await client.stream.send_all(frame(SETTINGS, 0, 0, values) * 3 + client.head(1, *GET, LIVE))
        assert (await client.listen(until=1)).statuses == {1: 200}


async def test_a_frame_larger_than_allowed_is_not_collected(port: int) -> None:
    """h2 refuses it when all of it is there, 16 MB later."""
    async with http2(port) as client:
        head = (16_000_000).to_bytes(3) + bytes((DATA, 0)) + (1).to_bytes(4)
        await _end_of(client, head + b"x" * 100_000)


@pytest.mark.parametrize("octet", [b"\x20", b"\x00"])
async def test_a_header_block_of_many_frames_is_bounded(port: int, octet: bytes) -> None:
    """63 frames made 1 MB, which took 0.7 s to unpack."""
    piece = octet * 16_384
    async with http2(port) as client:
        block = frame(HEADERS, 0, 1, piece) + frame(CONTINUATION, 0, 1, piece) * 3
        await _end_of(client, block)


async def test_padding_is_no_data(port: int) -> None:
    async with http2(port) as client:
        await client.stream.send_all(client.head(1, *POST, ends=False))
        await client.listen(until=1)
        # Less than a window: nothing but the budget can end it.
        await _end_of(client, frame(DATA, PADDED, 1, b"\x3f" + bytes(63)) * 1023)


def test_padded_data_is_paid_for_what_it_carries_however_it_is_cut() -> None:
    full = frame(DATA, PADDED, 1, b"\x10" + b"x" * 64 + bytes(16))
    padding = frame(DATA, PADDED, 1, b"\x10" + b"x" * 63 + bytes(16))
    for size in (1, 7, 100_000):
        for sent, allowed in ((full * 2000, True), (padding * 1000, True), (padding * 1001, False)):
            budget = FrameBudget(0.0)
            data = PREFACE + sent
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert all(budget.spend(piece, 0.0) for piece in pieces) == allowed


def test_what_h2_keeps_of_a_header_block_is_counted_until_its_last_frame_is_complete() -> None:
    first = frame(HEADERS, 0, 1, b"x" * 16_384)
    last = frame(CONTINUATION, END_HEADERS, 1, b"x" * 100)
    for size in (1, 7, 100_000):
        budget = FrameBudget(0.0)

        def receive(data: bytes, budget: FrameBudget = budget, size: int = size) -> int:
            pieces = [data[at : at + size] for at in range(0, len(data), size)]
            assert all(budget.spend(piece, 0.0) for piece in pieces)
            return budget.buffered

        assert receive(PREFACE + first[:109]) == 100, "of a partial frame, what has come"
        assert receive(first[109:]) == 16_384
        assert receive(last[:10]) == 16_385, "the payload of the last frame is withheld"
        assert receive(last[10:]) == 0
        assert receive(frame(HEADERS, END_HEADERS, 3, b"x")) == 0


def test_the_frames_of_a_header_block_are_bounded_together() -> None:
    budget = FrameBudget(0.0)
    half = bytes(16_384)
    block = frame(HEADERS, 0, 1, half) + frame(CONTINUATION, 0, 1, half)
    assert budget.spend(PREFACE + block, 0.0)
    assert not budget.spend(frame(CONTINUATION, END_HEADERS, 1, b"x"), 0.0)


def test_a_frame_of_settings_costs_as_much_as_its_settings() -> None:
    settings = frame(SETTINGS, 0, 0, bytes(6 * 99))
    assert FrameBudget(0.0).spend(PREFACE + settings * 10, 0.0)
    assert not FrameBudget(0.0).spend(PREFACE + settings * 11, 0.0)


async def test_priorities_of_streams_are_ignored(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Their tree recurses, and refuses loops and more than a thousand streams by exceptions."""
    chain = [(at, at - 2 if at > 101 else 0) for at in range(101, 1701, 2)]
    async with http2(port) as client:
        for stream, on in [*chain, (101, 1699), (103, 1699)]:
            await client.stream.send_all(frame(PRIORITY, 0, stream, on.to_bytes(4) + b"\x10"))
        head = client.head(1701, *GET, LIVE)[9:]
        tied = END_HEADERS | 0x21, 1701, (1699).to_bytes(4) + b"\x10" + head
        await client.stream.send_all(frame(HEADERS, *tied))
        assert (await client.listen(until=1701)).statuses == {1701: 200}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("settings", [b"abc", b"AAAA", b"AAT_____"])
async def test_an_upgrade_with_settings_that_are_none_ends_quietly(
    port: int, settings: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: %b\r\n\r\n" % settings
        )
        with trio.fail_after(60), suppress(trio.BrokenResourceError):
            while await stream.receive_some(4096):
                pass
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_proxy_s_connection_outlives_requests_without_a_key(port: int) -> None:
    async with http2(port) as client:
        await client.stream.send_all(client.head(1, *GET, PATH, AUTHORIZED))
        await client.listen(until=1)
        for stream in range(3, 43, 2):
            await client.stream.send_all(client.head(stream, *GET, PATH))
            assert (await client.listen(until=stream)).statuses[stream] == 401
        await client.stream.send_all(client.head(43, *GET, PATH, AUTHORIZED))
        assert (await client.listen(until=43)).statuses[43] == 200


async def test_an_unchecked_header_does_not_count_as_a_key(port: int) -> None:
    async with http2(port) as client:
        wrong = (b"authorization", b"Bearer wrong")
        await client.stream.send_all(client.head(1, *GET, LIVE, wrong))
        assert (await client.listen(until=1)).statuses == {1: 200}
        await _end_of(client, b"".join(client.head(n, *GET, PATH) for n in range(3, 199, 2)))
    assert client.heard.goodbye == ErrorCodes.ENHANCE_YOUR_CALM


async def test_a_client_may_acknowledge_each_frame_of_a_large_answer(
    standalone: Embedded,
) -> None:
    size = 24 * 1024 * 1024

    async def large(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(size)})

    got = 0
    async with (
        open_app(standalone) as app,
        serving(app, quart=large, lane=False, listening={"h2c": True}) as port,  # type: ignore[arg-type]
        http2(port) as client,
    ):
        reader: H2Connection = client._reader
        await client.stream.send_all(client.head(1, *GET, LIVE))
        with trio.fail_after(120):
            while got < size:
                data = await client.stream.receive_some(65_536)
                assert data, f"cut after {got} bytes"
                for event in reader.receive_data(data):
                    if isinstance(event, DataReceived) and event.data:
                        got += len(event.data)
                        reader.increment_flow_control_window(len(event.data), 1)
                        more = len(event.data).to_bytes(4)
                        await client.stream.send_all(
                            frame(WINDOW_UPDATE, 0, 0, more) + frame(WINDOW_UPDATE, 0, 1, more)
                        )


async def test_a_connection_in_use_is_not_idle(standalone: Embedded) -> None:
    """It was closed between two requests, once it was as old as idle ones become."""
    async with (
        served(standalone, lane=False, idle_s=8) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        end = trio.current_time() + 11
        while trio.current_time() < end:
            await _ask(stream)
            await trio.sleep(0.3)


async def test_a_request_that_waits_behind_a_late_head_is_no_slow_head(
    standalone: Embedded,
) -> None:
    """The rest of its head came with a second request, which has to wait for its answer."""
    answer = trio.Event()

    async def waits(_scope: Any, _receive: Any, send: Any) -> None:
        await answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    async with (
        open_app(standalone) as app,
        serving(
            app,
            quart=waits,  # type: ignore[arg-type]
            lane=False,
            listening={"head_timeout_s": 5.0},
        ) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as stream,
    ):
        await stream.send_all(b"GET /live HTTP/1.1\r\n")
        await trio.sleep(0.1)
        await stream.send_all(b"Host: x\r\n\r\nGET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(6)  # longer than a head may take
        answer.set()
        with trio.fail_after(60):
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")


async def test_a_drain_cuts_no_handler_whose_client_has_reset_its_stream(
    standalone: Embedded,
) -> None:
    began, go, cut, done = (trio.Event() for _ in range(4))
    stop = trio.Event()

    async def writes(_scope: Any, _receive: Any, _send: Any) -> None:
        began.set()
        try:
            await go.wait()
        except trio.Cancelled:
            cut.set()
            raise
        done.set()

    async with (
        open_app(standalone) as app,
        serving(
            app,
            quart=writes,  # type: ignore[arg-type]
            lane=False,
            stop=stop,
            grace_s=3000,
            listening={"h2c": True},
        ) as port,
        http2(port) as client,
    ):
        await client.stream.send_all(client.head(1, *GET, LIVE))
        with trio.fail_after(60):
            await began.wait()
        await client.stream.send_all(frame(RST_STREAM, 0, 1, ErrorCodes.CANCEL.to_bytes(4)))
        await trio.sleep(0.2)
        stop.set()
        with trio.move_on_after(2):
            await cut.wait()
        go.set()
        with trio.fail_after(60):
            await done.wait()
