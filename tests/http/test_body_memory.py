"""Concurrent request bodies share one memory budget at both entry points."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.request_body.limits import BodyLimits
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving, until
from tests.http.test_entry_points import exchange, raw, request

ROOM = 300_000


def enqueue(size: int) -> bytes:
    """Return a request of at least ``size`` bytes."""
    return request("POST", "/ojs/v1/jobs", {"type": "large", "args": ["x" * size]})


LARGE = enqueue(200_000)
BEGUN, REST = LARGE[:100_000], LARGE[100_000:]


@pytest.fixture
async def app(standalone: Embedded) -> AsyncIterator[App]:
    bodies = BodyLimits(ROOM, ROOM, ROOM, timeout_s=600, linger_s=60)
    async with open_app(standalone, bodies=bodies) as app:
        yield app


async def budget_is(app: App, wanted: int) -> None:
    async def reached() -> bool:
        return app.body_memory.free == wanted

    await until(reached)


@pytest.fixture(params=[False, True], ids=["hypercorn", "lane"])
async def port(request: pytest.FixtureRequest, app: App) -> AsyncIterator[int]:
    async with serving(app, lane=request.param) as port:
        yield port


async def test_a_body_above_the_memory_budget_is_refused_until_memory_is_free(
    app: App, port: int
) -> None:
    held = ROOM - len(LARGE.partition(b"\r\n\r\n")[2])
    with trio.fail_after(120):
        async with raw(port) as connection:
            await connection.send(BEGUN)
            await budget_is(app, held)
            status, headers, body = await exchange(port, LARGE)
            error = json.loads(body)["error"]
            assert (status, headers["retry-after"]) == (503, "1")
            assert (error["code"], error["retryable"]) == ("backend_unavailable", True)
            assert error["details"]["outcome"] == "not_applied"
            assert (await exchange(port, enqueue(10)))[0] == 201
            await connection.send(REST)
            assert (await connection.reply())[0] == 201
        assert (await exchange(port, LARGE))[0] == 201
        await budget_is(app, ROOM)
    listed = await Api(app).get("/ojs/v1/jobs")
    assert len(listed.json["jobs"]) == 3


async def test_a_body_without_a_declared_length_is_counted_as_it_arrives(
    app: App, port: int
) -> None:
    head = request("POST", "/ojs/v1/jobs", None, "Transfer-Encoding: chunked")
    chunk = b"15F90\r\n%b\r\n" % (b" " * 90_000)
    with trio.fail_after(120):
        async with raw(port) as first, raw(port) as second:
            await first.send(head + 2 * chunk)
            await budget_is(app, ROOM - 180_000)
            await second.send(head + 2 * chunk + b"0\r\n\r\n")
            assert (await second.reply())[0] == 503
            assert app.body_memory.free == ROOM - 180_000
            await first.send(b"0\r\n\r\n")
            assert (await first.reply())[0] == 400
        await budget_is(app, ROOM)


async def test_a_client_that_disconnects_releases_its_body_memory(app: App, port: int) -> None:
    async with raw(port) as connection:
        await connection.send(BEGUN)
        await budget_is(app, ROOM - len(LARGE.partition(b"\r\n\r\n")[2]))
    await budget_is(app, ROOM)


async def test_one_request_of_the_largest_size_always_fits(standalone: Embedded) -> None:
    async with (
        open_app(standalone, bodies=BodyLimits(total_bytes=1024)) as app,
        serving(app) as port,
    ):
        assert (await exchange(port, LARGE))[0] == 201
