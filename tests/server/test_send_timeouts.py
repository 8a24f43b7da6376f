"""Clients that do not take what is sent to them are disconnected, and leave nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from ojs_cluster.server.config.load import load
from ojs_cluster.server.http.http_server import DrainTimes, hypercorn_config, serve
from ojs_cluster.server.http.listener import open_listener
from ojs_cluster.server.http.send_timeouts import SendTimeouts, TimedConnection

NEVER_S = 3000.0
LARGE = 64 * 1024 * 1024
STREAMS = 90


@asynccontextmanager
async def serving(
    app: Any,
    *,
    write_timeout_s: float,
    grace_s: float = 2.0,
    stop: trio.Event | None = None,
) -> AsyncIterator[int]:
    """Serve ``app`` as an API process does. A request in flight has no deadline but for writing."""
    listen = replace(load({"OJS_ALLOW_INSECURE_NO_AUTH": "1"}).listen, idle_timeout_s=0.5)
    listener = open_listener("127.0.0.1", 0, listen.backlog, NEVER_S)
    port: int = listener.getsockname()[1]
    stop = trio.Event() if stop is None else stop
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                serve,
                app,
                hypercorn_config(listen),
                [listener],
                stop=stop,
                times=DrainTimes(delay_s=0, grace_s=grace_s),
                write_timeout_s=write_timeout_s,
                h2c=True,
            )
        )
        try:
            yield port
        finally:
            stop.set()


async def answer(send: Any, size: int) -> None:
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * size})


def requests(
    *, window: int, streams: int = STREAMS, first: str = "/"
) -> tuple[H2Connection, bytes]:
    """An HTTP/2 client that reads a number of bytes of each response, and what it sends first."""
    client = H2Connection(config=H2Configuration(client_side=True, header_encoding="utf-8"))
    given = {SettingCodes.INITIAL_WINDOW_SIZE: window}
    client.local_settings = Settings(client=True, initial_values=given)
    client.initiate_connection()
    head = [(":method", "GET"), (":authority", "x"), (":scheme", "http")]
    for number in range(streams):
        path = (":path", first if number == 0 else "/")
        client.send_headers(2 * number + 1, [*head, path], end_stream=True)
    return client, client.data_to_send()


@asynccontextmanager
async def no_task_is_left() -> AsyncIterator[None]:
    """Check that after the block there are as many tasks as before it."""

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    await wait_all_tasks_blocked()
    before = tasks()
    yield
    with trio.fail_after(60):
        while tasks() > before:  # noqa: ASYNC110 - the end of tasks has no event
            await trio.sleep(0.02)


async def read_to_the_end(stream: trio.SocketStream, client: H2Connection | None = None) -> int:
    """How many bytes come before the server closes; ``client`` answers what it has to."""
    received = 0
    with trio.fail_after(60):
        try:
            while data := await stream.receive_some(65_536):
                received += len(data)
                if client is not None:
                    client.receive_data(data)
                    await stream.send_all(client.data_to_send())
        except trio.BrokenResourceError:
            pass
    return received


@pytest.mark.parametrize("size", [500, 100_000])
async def test_a_client_whose_window_stays_closed_is_disconnected(size: int) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, size)

    async with serving(app, write_timeout_s=0.2) as port, no_task_is_left():
        client, opening = requests(window=0)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(opening)
            await read_to_the_end(stream, client)


async def test_responses_that_come_after_the_client_was_given_up_leave_nothing_behind() -> None:
    given_up = trio.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["query_string"] == b"first":
            try:
                await answer(send, 500)
            finally:
                given_up.set()
        await given_up.wait()
        await answer(send, 500)

    async with serving(app, write_timeout_s=0.2) as port, no_task_is_left():
        _, opening = requests(window=0, first="/?first")
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(opening)
            await read_to_the_end(stream)


async def test_a_client_that_takes_its_responses_is_not_disconnected() -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer(send, 500)

    async with serving(app, write_timeout_s=NEVER_S) as port:
        client, opening = requests(window=65_535)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        ended = 0
        async with stream:
            await stream.send_all(opening)
            with trio.fail_after(60):
                while ended < STREAMS:
                    events = client.receive_data(await stream.receive_some())
                    ended += sum(type(event).__name__ == "StreamEnded" for event in events)


async def test_a_response_for_a_client_that_hung_up_waits_no_longer_than_for_a_reader() -> None:
    gone = trio.Event()

    async def app(_scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()  # a handler that writes goes on to its end
        await answer(send, 500)

    async with serving(app, write_timeout_s=0.2) as port, no_task_is_left():
        _, opening = requests(window=65_535)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(opening)
        await stream.aclose()
        with trio.fail_after(60):
            await gone.wait()


async def test_the_end_of_the_grace_period_cuts_a_reader_that_has_stopped() -> None:
    sending = trio.Event()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        sending.set()
        await answer(send, LARGE)

    stop = trio.Event()
    with trio.fail_after(120):
        async with serving(app, write_timeout_s=NEVER_S, grace_s=0.5, stop=stop) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await sending.wait()
    assert await read_to_the_end(stream) < LARGE
    await stream.aclose()


async def test_time_begins_anew_with_each_piece_that_is_taken(autojump_clock: MockClock) -> None:
    ours, theirs = memory_stream_pair()
    reader = TimedConnection(ours, SendTimeouts(10))
    # It takes a piece just in time, four times, and then no more.
    turns = 4

    async def wait_for_room() -> None:
        nonlocal turns
        turns -= 1
        await trio.sleep(9 if turns >= 0 else NEVER_S)

    ours.send_stream.send_all_hook = wait_for_room
    began = trio.current_time()
    with pytest.raises(trio.BrokenResourceError):
        await reader.send_all(b"x" * 10 * 65_536)
    assert trio.current_time() - began == pytest.approx(4 * 9 + 10)
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some()
    assert await theirs.receive_some(1) == b"x"
