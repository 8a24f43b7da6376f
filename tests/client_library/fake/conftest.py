"""A server and fake servers that run the same scenarios."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest

from ojs_cluster.server.embedded.servers import Embedded
from tests.client_library.fake.worlds import Play, in_loop
from tests.http.api import open_app, serving
from tests.http.conftest import patience
from tests.server.programs import free_port, program
from tests.support.servers import own_server

__all__ = ["patience"]


@pytest.fixture(params=["server", "fake-asyncio", "fake-trio"])
async def play(request: pytest.FixtureRequest) -> AsyncIterator[Play]:
    """Return a function that runs a scenario on a server or on a fake server."""
    kind, _, loop = request.param.partition("-")
    if kind == "fake":
        yield partial(in_loop, url=None, loop=loop)
        return
    backend: Embedded = request.getfixturevalue("standalone")
    async with open_app(backend) as app, serving(app, lane=True) as port:
        yield partial(in_loop, url=f"http://127.0.0.1:{port}", loop="asyncio")


@pytest.fixture(scope="session")
def scheduling_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with a scheduler, on a Redis of its own that no other test empties."""
    port = free_port()
    with own_server(tmp_path_factory.mktemp("fake"), cluster=False) as redis:
        env = {"REDIS_URL": redis.url, "OJS_PORT": str(port), "OJS_WORKERS": "1"}
        with program(["-m", "ojs_cluster.cli", "dev"], env=env) as running:
            running.wait_line("Ctrl-C stops everything")
            yield f"http://127.0.0.1:{port}"


@pytest.fixture(params=["server", "fake-asyncio", "fake-trio"])
def play_scheduled(request: pytest.FixtureRequest) -> Play:
    """Return what ``play`` returns, with a server that has a scheduler.

    The server keeps its data between tests, so each test has a queue of its own.
    """
    kind, _, loop = request.param.partition("-")
    if kind == "fake":
        return partial(in_loop, url=None, loop=loop)
    return partial(in_loop, url=request.getfixturevalue("scheduling_url"), loop="asyncio")
