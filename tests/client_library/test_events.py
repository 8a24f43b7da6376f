"""A stream of events continues after a broken connection, and ends when it cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import httpx2
import pytest

from ojs_client import ApiError, Client, ConnectionFailed
from ojs_client.backoff import Backoff

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stream(httpx2.AsyncByteStream):
    def __init__(self, content: bytes, *, breaks: bool = False) -> None:
        self._content = content
        self._breaks = breaks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for index in range(0, len(self._content), 7):  # lines are split between chunks
            yield self._content[index : index + 7]
        if self._breaks:
            raise httpx2.ReadError("reset")


def event(number: int, name: str = "job.completed") -> bytes:
    return b'id: %d\nevent: %b\ndata: {"job_id":"j%d"}\n\n' % (number, name.encode(), number)


def client_of(*answers: httpx2.Response | Exception, asked: list[str]) -> Client:
    left = iter(answers)

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.headers.get("last-event-id", ""))
        found = next(left)
        if isinstance(found, Exception):
            raise found
        return found

    transport = httpx2.MockTransport(answer)
    return Client("http://server", transport=transport, retry_for_s=0.5)


async def test_a_stream_continues_after_its_last_event() -> None:
    asked: list[str] = []
    client = client_of(
        httpx2.Response(200, stream=Stream(event(1) + b"id: 5\n\n:heartbeat\n\n", breaks=True)),
        httpx2.ConnectError("refused"),
        httpx2.Response(503, json={"error": {"code": "busy", "message": "", "retryable": True}}),
        httpx2.Response(200, stream=Stream(event(6) + event(7, "server.shutdown"))),
        httpx2.Response(200, stream=Stream(event(8))),
        asked=asked,
    )
    async with client, client.events() as events:
        assert [(await anext(events)).job_id for _ in range(3)] == ["j1", "j6", "j8"]
    assert asked == ["", "5", "5", "5", "7"]


async def test_an_event_may_contain_what_python_takes_for_the_end_of_a_line() -> None:
    data = 'data: {"job_id":"a\u2028b\u0085c"}\r\n\r\n'.encode()
    client = client_of(
        httpx2.Response(200, stream=Stream(b"event: job.failed\r\n" + data)), asked=[]
    )
    async with client, client.events() as events:
        assert (await anext(events)).job_id == "a\u2028b\u0085c"


async def test_the_stream_of_a_job_continues_after_a_restart_of_the_server() -> None:
    client = client_of(
        httpx2.Response(200, stream=Stream(event(1, "job.started") + event(2, "server.shutdown"))),
        httpx2.Response(200, stream=Stream(event(3))),
        httpx2.Response(204),
        asked=[],
    )
    async with client, client.events(job_id="j") as events:
        assert [found.name async for found in events] == ["job.started", "job.completed"]


async def test_a_stream_that_ends_at_once_is_opened_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float] = []

    def next_s(backoff: Backoff, at_least_s: float | None = None) -> float:
        limits.append(backoff.first_s * 2**backoff.failures)
        backoff.failures += 1
        return 0.0

    monkeypatch.setattr(Backoff, "next_s", next_s)
    empty = [httpx2.Response(200, stream=Stream(b"id: 9\n\n:open\n\n")) for _ in range(5)]
    stop = httpx2.Response(200, stream=Stream(event(7, "server.shutdown")))
    client = client_of(*empty, stop, httpx2.Response(204), asked=[])
    async with client, client.events(job_id="j") as events:
        assert [each async for each in events] == []
    assert limits == sorted(set(limits)), "doubles each time"
    assert len(limits) == 6


async def test_a_stream_ends_if_the_server_stays_away() -> None:
    asked: list[str] = []
    away = (httpx2.ConnectError("refused") for _ in range(100))
    client = client_of(httpx2.Response(200, stream=Stream(event(1))), *away, asked=asked)
    async with client, client.events() as events:
        with anyio.fail_after(60):
            assert (await anext(events)).id == "1"
            with pytest.raises(ConnectionFailed):
                await anext(events)
    assert len(asked) > 2


async def test_a_refused_stream_is_an_error_at_its_begin() -> None:
    refused = httpx2.Response(403, json={"error": {"code": "forbidden", "message": "no"}})
    client = client_of(refused, asked=[])
    async with client:
        with pytest.raises(ApiError, match="403 forbidden"):
            async with client.events():
                raise AssertionError


async def test_the_stream_of_an_ended_job_has_no_events() -> None:
    client = client_of(httpx2.Response(204), asked=[])
    async with client, client.events(job_id="j1") as events:
        assert [each async for each in events] == []
