"""Shared by the tests of the Redis client."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import trio
from redis.crc import key_slot

from ojs_cluster.redis import Address, Client, ClientSettings, open_client
from ojs_cluster.server.embedded.servers import Embedded

PATIENT: Final[Mapping[str, Any]] = {"reply_timeout_s": 30.0, "call_timeout_s": 60.0}
"""What is slow on a busy machine must not look dead; a test about silence says how long it is."""


def slot_of(key: bytes) -> int:
    """Slot of a key, by redis-py."""
    return int(key_slot(key))


def key_on(embedded: Embedded, index: int, prefix: bytes = b"key") -> bytes:
    """A key that node ``index`` of a freshly formed cluster serves."""
    masters = embedded.master_count
    for number in range(1000):
        key = b"%s:%d" % (prefix, number)
        if slot_of(key) * masters // 16384 == index:
            return key
    raise AssertionError("no key found")


@contextlib.asynccontextmanager
async def client_of(embedded: Embedded, **overrides: Any) -> AsyncIterator[Client]:
    """A client of all nodes of ``embedded``."""
    settings = ClientSettings.from_url(embedded.url, **{**PATIENT, **overrides})
    async with open_client(settings) as client:
        yield client


def settings_for(port: int, **overrides: Any) -> ClientSettings:
    """Settings for one server on the loopback address."""
    return ClientSettings(nodes=(Address("127.0.0.1", port),), **{**PATIENT, **overrides})


async def eventually(
    condition: Callable[[], bool], *, timeout_s: float = 60.0, what: str = ""
) -> None:
    """Wait until ``condition`` holds; fail when it does not in time."""
    with trio.move_on_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - what tests wait for has no event of its own
            await trio.sleep(0.005)
        return
    raise AssertionError(f"did not happen within {timeout_s} s: {what}")


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Run a blocking observer beside the client under test."""
    return await trio.to_thread.run_sync(lambda: function(*args))


class Proxy:
    """A TCP proxy in front of one server, which can stall, swallow and cut."""

    def __init__(self, port: int, upstream: int) -> None:
        self.port = port
        self.connections = 0
        self.received = bytearray()  # from clients
        self._upstream = upstream
        self._open: set[trio.CancelScope] = set()
        self._flow = trio.Event()
        self._flow.set()
        self._cut_after: int | None = None
        self._stall_at: bytes | None = None

    def lead_to(self, upstream: int) -> None:
        """Forward new connections to another server; those there are stay where they are."""
        self._upstream = upstream

    def stall(self) -> None:
        """Hold replies back from now on."""
        self._flow = trio.Event()

    def stall_at(self, text: bytes) -> None:
        """Hold replies back as soon as a client has sent ``text``, once."""
        self._stall_at = text

    def resume(self) -> None:
        """Let held replies pass."""
        self._flow.set()

    def cut_after(self, count: int) -> None:
        """Let ``count`` more bytes of replies pass, then cut that connection, once."""
        self._cut_after = count

    @property
    def cut_made(self) -> bool:
        """Whether what ``cut_after`` asked for has happened."""
        return self._cut_after is None

    def cut(self) -> None:
        """Cut all connections now."""
        for scope in list(self._open):
            scope.cancel()

    async def serve(self, client: trio.SocketStream) -> None:
        """Forward both directions until one side ends or ``cut``."""
        self.connections += 1
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                async with (
                    client,
                    await trio.open_tcp_stream("127.0.0.1", self._upstream) as up,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._requests, client, up, scope)
                    nursery.start_soon(self._replies, up, client, scope)
            except* OSError:
                pass  # the upstream is down, so is this connection
            finally:
                self._open.discard(scope)

    async def _requests(
        self, client: trio.SocketStream, up: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in client:
                self.received += data
                if self._stall_at is not None and self._stall_at in self.received:
                    self._stall_at = None
                    self.stall()
                await up.send_all(data)
        scope.cancel()

    async def _replies(
        self, up: trio.SocketStream, client: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in up:
                await self._flow.wait()
                if self._cut_after is not None:
                    passed = data[: self._cut_after]
                    self._cut_after -= len(passed)
                    await client.send_all(passed)
                    if self._cut_after == 0:
                        self._cut_after = None
                        break
                else:
                    await client.send_all(data)
        scope.cancel()


@contextlib.asynccontextmanager
async def proxied(embedded: Embedded) -> AsyncIterator[Proxy]:
    """A proxy in front of a standalone server."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        proxy = Proxy(port, embedded.nodes[0].port)
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()


@contextlib.contextmanager
def silent_listener() -> Any:
    """A port that accepts connections and never says a word; yields the port number."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        yield sock.getsockname()[1]


async def gather(*functions: Callable[[], Awaitable[None]]) -> None:
    """Run all at once and wait for all."""
    async with trio.open_nursery() as nursery:
        for function in functions:
            nursery.start_soon(function)
