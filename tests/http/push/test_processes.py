"""Streams of real API processes: many subscribers, and the end of a process."""

from __future__ import annotations

import contextlib
import json
import resource
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from ojs_cluster.server.embedded.servers import Embedded
from tests.http.push.reading import events
from tests.http.push.sockets import websocket
from tests.support.nodes import ApiNode

MOST = 2000
IDLE_KIB = 64
"""KiB of a subscriber that waits, measured as 42."""
SLOW_KIB = 64
"""KiB of a subscriber that reads nothing. It shares the piece that it is sent with others;
measured as 44."""


@contextmanager
def running(node: ApiNode) -> Iterator[ApiNode]:
    node.start()
    try:
        yield node
    finally:
        node.stop()


def resident_kib(node: ApiNode) -> int:
    [pid] = node.api_processes()
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def post(node: ApiNode, path: str, body: object) -> None:
    request = urllib.request.Request(  # noqa: S310 - our own http
        f"{node.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own http
        assert answer.status in (200, 201)


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * MOST:
        pytest.skip(f"a process may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("subscribers", [500, pytest.param(MOST, marks=pytest.mark.soak)])
async def test_subscribers_take_bounded_memory(
    standalone: Embedded, tmp_path: Path, many_files: None, subscribers: int
) -> None:
    """They read nothing while more events happen than any buffer holds."""
    env = {
        "OJS_PUSH_SUBSCRIBERS": str(subscribers),
        "OJS_PUSH_SUBSCRIBERS_PER_CLIENT": str(2 * MOST),
        "OJS_WRITE_TIMEOUT": "10m",
    }
    node = ApiNode("node", tmp_path, standalone.url, workers=1, env=env)
    in_thread = trio.to_thread.run_sync
    with running(node):
        async with contextlib.AsyncExitStack() as stack:
            target = "/ojs/v1/events/stream"
            async with events(node.port, target):
                pass  # what the first stream imports and caches
            before = resident_kib(node)
            reads = f"{target}?queue=q&types=queue.paused"
            reader = await stack.enter_async_context(events(node.port, reads))
            for _ in range(subscribers - 1):
                stream = await stack.enter_async_context(events(node.port, target))
                assert stream.status == 200
            idle = resident_kib(node)
            async with events(node.port, target) as refused:
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")

            job = {"type": "a.type", "args": [], "options": {"queue": "q"}}
            for _ in range(5):
                batch = {"jobs": [job] * 100}
                await in_thread(partial(post, node, "/ojs/v1/jobs/batch", batch))
            await in_thread(partial(post, node, "/ojs/v1/queues/q/pause", {}))
            assert (await reader.take(1))[0].kind == "queue.paused"
            slow = resident_kib(node)

    print(f"{(idle - before) / subscribers:.0f}, {(slow - before) / subscribers:.0f} KiB each")
    assert idle - before < subscribers * IDLE_KIB
    assert slow - before < subscribers * SLOW_KIB


async def test_a_process_that_is_stopped_tells_its_clients(
    standalone: Embedded, tmp_path: Path
) -> None:
    node = ApiNode("node", tmp_path, standalone.url, workers=2)
    with running(node):
        async with (
            events(node.port, "/ojs/v1/events/stream") as stream,
            websocket(node.port) as socket,
        ):
            await socket.ask({"action": "subscribe", "channel": "all"})

            await trio.to_thread.run_sync(node.process.stop)

            assert [event.kind for event in await stream.rest()] == ["server.shutdown"]
            assert (await socket.next())["event"] == "server.shutdown"
            assert await socket.next() is None
            assert socket.close_code == 1001
    assert "Traceback" not in node.process.log_tail(200)
    assert "unexpected" not in node.process.log_tail(200)
