"""Pages of the dashboard in the fast lane: its requests, and what a page leaves behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from ojs_cluster.http.fast_lane.server import FastLane
from ojs_cluster.http.messages import Response
from ojs_cluster.http.pages import BrowserRequest, FoundPage
from ojs_cluster.redis.deadline import Deadline, current_deadline, start_deadline
from tests.http.api import Api

GET = "GET /ui/a HTTP/1.1\r\nHost: x\r\n"


class _Pages:
    """One page, which notes its requests and the deadlines of its task."""

    def __init__(self) -> None:
        self.asked: list[BrowserRequest] = []
        self.deadlines: list[Deadline] = []
        self.waits = False
        self.ended = trio.Event()

    def find_page(self, raw_path: str) -> FoundPage | None:
        return (self._view, {"name": "a"}) if raw_path == "/ui/a" else None

    async def _view(self, request: BrowserRequest, name: str) -> Response:
        self.asked.append(request)
        self.deadlines.append(current_deadline())
        start_deadline().at = 0.0
        if self.waits:
            request.head.on_wait()
            try:
                await trio.sleep_forever()
            finally:
                self.ended.set()
        return Response(200, name.encode())


@asynccontextmanager
async def _served(
    api: Api, pages: _Pages, rest: list[bytes | None]
) -> AsyncIterator[trio.abc.Stream]:
    """Yield the client of a connection; add what ``FastLane.serve`` returns to ``rest``."""
    lane = FastLane(stop=trio.Event(), idle_timeout_s=60)
    lane.open(api.app, pages)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]

    async def serve(stream: trio.SocketStream) -> None:
        rest.append(await lane.serve(stream))
        await stream.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, listener:
            client = await trio.testing.open_stream_to_socket_listener(listener)
            nursery.start_soon(serve, await listener.accept())
            async with client:
                yield client


async def test_pages_follow_each_other_on_a_connection(api: Api) -> None:
    pages, rest = _Pages(), list[bytes | None]()
    sent = [f"{GET}Name: {number}\r\n\r\n" for number in range(2)]
    sent.append(f"{GET}Connection: close\r\n\r\n")
    async with _served(api, pages, rest) as client:
        await client.send_all("".join(sent).encode())
        answer = b"".join([piece async for piece in client])
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.endswith(b"Connection: close\r\n\r\na")
    assert [request.head.headers.get("name") for request in pages.asked] == ["0", "1", None]
    assert list(pages.asked[0].raw_headers) == [(b"host", b"x"), (b"name", b"0")]
    assert {request.scheme for request in pages.asked} == {"http"}
    assert all(deadline.at > 0 for deadline in pages.deadlines), "of an earlier page"
    assert rest == [None]


async def test_pages_in_one_piece_take_turns_with_other_tasks(api: Api) -> None:
    pages, rest, turns = _Pages(), list[bytes | None](), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += not rest and bool(pages.asked)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, _served(api, pages, rest) as client:
        nursery.start_soon(other)
        await client.send_all(
            f"{GET}\r\n".encode() * 200 + f"{GET}Connection: close\r\n\r\n".encode()
        )
        answer = b"".join([piece async for piece in client])
        nursery.cancel_scope.cancel()
    assert answer.count(b"HTTP/1.1 200 ") == 201
    assert turns >= 200


@pytest.mark.parametrize(
    "sent",
    [
        GET.replace("/a", "/b") + "\r\n",
        GET.replace("GET", "POST") + "\r\n",
        f"{GET}X-User: ann\r\nx-user: boss\r\n\r\n",
        f"{GET}Content-Length: 0\r\n\r\n",
        f"{GET}Content-Length: 1\r\n\r\nx",
        f"{GET}Connection: close\r\n\r\nGET",
    ],
    ids=["no page", "form", "repeated header", "empty body", "body", "after the last one"],
)
async def test_other_requests_are_left_to_hypercorn(api: Api, sent: str) -> None:
    pages, rest = _Pages(), list[bytes | None]()
    async with _served(api, pages, rest) as client:
        await client.send_all(sent.encode())
        assert await client.receive_some() == b""
    assert rest == [sent.encode()]
    assert not pages.asked


async def test_a_page_whose_client_disconnects_is_cancelled(api: Api) -> None:
    pages, rest = _Pages(), list[bytes | None]()
    pages.waits = True
    async with _served(api, pages, rest) as client:
        await client.send_all(f"{GET}\r\n".encode())
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        await pages.ended.wait()
    assert rest == [None]
