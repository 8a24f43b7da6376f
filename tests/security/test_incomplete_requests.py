"""Incomplete heads and bodies count against the memory budget, even small ones."""

from __future__ import annotations

import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.http.request_body.memory import MAX_SMALL_BODY
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving, until
from tests.http.test_entry_points import exchange, request

ROOM: Final = 512 * 1024
"""Bytes for all incomplete requests of the process."""
SIZE: Final = 60 * 1024
CLIENTS: Final = 60
GROWTH: Final = 64 * 1024 * 1024

BODY: Final = (
    b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n" % (SIZE + 100)
) + b" " * SIZE
CHUNKED: Final = (
    b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (SIZE, b" " * SIZE)
)
EDGE: Final = (
    b"POST /ojs/v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MAX_SMALL_BODY
    + b" " * SIZE
)
"""A small body that exceeds MAX_SMALL_BODY together with its head."""
HEAD: Final = b"GET /ojs/v1/queues HTTP/1.1\r\nHost: x\r\nX-Long: " + b"v" * SIZE
SHORT_HEAD: Final = b"GET /ojs/v1/queues HTTP/1.1\r\nHost: x\r\nX-Long: " + b"v" * 8000


@pytest.fixture
async def app(standalone: Embedded) -> AsyncIterator[App]:
    bodies = BodyLimits(ROOM, ROOM, ROOM, timeout_s=600, linger_s=0.1)
    async with open_app(standalone, bodies=bodies) as opened:
        yield opened


def resident() -> int:
    """The bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def attack(
    port: int, part: bytes, clients: int, nursery: trio.Nursery, counts: dict[str, int]
) -> None:
    """Send a part of a request on many connections, and count those that the server has ended."""

    async def one() -> None:
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(part)
                counts["sent"] += 1
                answer = b""
                while piece := await stream.receive_some(4096):
                    answer += piece
                counts["refused"] += b" 503 " in answer.partition(b"\r\n")[0]
        counts["ended"] += 1

    for _ in range(clients):
        nursery.start_soon(one)


KINDS: Final = {"body": BODY, "edge": EDGE, "chunked": CHUNKED, "head": HEAD}


async def is_bounded(app: App, port: int, part: bytes, clients: int, growth: int) -> None:
    """Attack, and check what stays open, what it costs, and that others are served."""
    counts = {"sent": 0, "ended": 0, "refused": 0}

    async def bounded() -> bool:
        return clients - counts["ended"] <= ROOM // len(part) + 1

    async def is_released() -> bool:
        return app.body_memory.incomplete_free == ROOM

    assert (await exchange(port, request("GET", "/ojs/v1/queues", None)))[0] == 200
    before = resident()
    async with trio.open_nursery() as nursery:
        await attack(port, part, clients, nursery, counts)
        await until(bounded, timeout_s=300)
        assert resident() - before < growth
        assert counts["refused"] > 0
        job = {"type": "t", "args": []}
        assert (await exchange(port, request("POST", "/ojs/v1/jobs", job)))[0] == 201
        nursery.cancel_scope.cancel()
    await until(is_released, timeout_s=300)


@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
@pytest.mark.parametrize("kind", KINDS)
async def test_many_incomplete_requests_use_bounded_memory(app: App, lane: bool, kind: str) -> None:
    async with serving(app, lane=lane, grace_s=0.1) as port:
        await is_bounded(app, port, KINDS[kind], CLIENTS, GROWTH)


@pytest.mark.soak
@pytest.mark.parametrize("lane", [False, True], ids=["hypercorn", "lane"])
async def test_thousands_of_incomplete_bodies_use_bounded_memory(app: App, lane: bool) -> None:
    """Clients and server are one process here, and all of it is counted."""
    async with serving(app, lane=lane, grace_s=0.1) as port:
        await is_bounded(app, port, BODY, 3000, 3000 * SIZE // 2)


async def test_incomplete_heads_in_the_fast_lane_are_counted(app: App) -> None:
    """They are smaller than heads that the fast lane returns to hypercorn at once."""
    async with serving(app, lane=True, grace_s=0.1) as port:
        await is_bounded(app, port, SHORT_HEAD, 2 * CLIENTS, GROWTH)
