"""One task per connection closes it at the end of the process, if no request runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
import trio.testing
from hypercorn.config import Config
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import EventWrapper, TrioSingleTask, WorkerContext
from hypercorn.utils import wrap_app

from ojs_cluster.http.request_body.memory import BodyMemoryBudget, BodyReservation
from ojs_cluster.server.http.hypercorn_connection import BoundedServer
from ojs_cluster.server.http.hypercorn_internals import IdleWatch


class _Watched:
    """An ``IdleWatch`` with what it needs."""

    def __init__(self) -> None:
        self.terminated = EventWrapper()
        self.closed = 0
        self.watch = IdleWatch(self.terminated, self._close)
        self.tasks = TaskGroup()
        self.restart = partial(self.watch.restart, self.tasks, None)

    async def _close(self) -> None:
        self.closed += 1
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def watched() -> AsyncIterator[_Watched]:
    made = _Watched()
    with trio.fail_after(60):
        async with made.tasks:
            yield made


def test_the_watch_has_the_methods_that_hypercorn_calls() -> None:
    called = {name for name in vars(TrioSingleTask) if not name.startswith("_")}
    assert called <= set(dir(IdleWatch))
    assert hasattr(TCPServer, "_initiate_server_close")
    assert hasattr(TCPServer, "_read_data")


async def test_an_idle_connection_is_closed_once_at_the_end_of_the_process() -> None:
    async with watched() as one:
        for _ in range(3):
            await one.restart()
            await one.watch.stop()
        await one.restart()
        await trio.testing.wait_all_tasks_blocked()
        assert one.closed == 0
        await one.terminated.set()
        await trio.testing.wait_all_tasks_blocked()
        await one.restart()
    assert one.closed == 1


async def test_a_connection_with_a_request_is_closed_after_its_response() -> None:
    async with watched() as one:
        await one.restart()
        await one.watch.stop()
        await one.terminated.set()
        await trio.testing.wait_all_tasks_blocked()
        assert one.closed == 0
        await one.restart()
        await one.watch.stop()  # another request has arrived before the close
        await trio.testing.wait_all_tasks_blocked()
        assert one.closed == 0
        await one.restart()
    assert one.closed == 1


async def test_the_task_ends_with_the_connection() -> None:
    async with watched() as one:
        await one.restart()
        await trio.testing.wait_all_tasks_blocked()
        one.watch.end()
        await one.restart()
    assert one.closed == 0


async def test_a_connection_ends_when_its_client_leaves_between_requests() -> None:
    """Without the watch hypercorn waits for its idle timeout."""
    config = Config()
    config.keep_alive_timeout = 600

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener, await trio.testing.open_stream_to_socket_listener(listener) as client:
        stream: Any = await listener.accept()
        with trio.fail_after(60), BodyReservation(BodyMemoryBudget(1 << 20)) as reservation:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    await BoundedServer(
                        wrap_app(app, 0, "asgi"),
                        config,
                        WorkerContext(None),
                        stream,
                        h2c=False,
                        admits=lambda *_: True,
                        reservation=reservation,
                    )

                nursery.start_soon(serve)
                for _ in range(2):
                    await client.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    received = b""
                    while not received.endswith(b"ok"):
                        received += await client.receive_some()
                await client.aclose()
