"""A server for the library's tests, and event loops of both kinds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import pytest
import trio

from ojs_client import Client
from ojs_cluster.http.app import App
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import open_app, serving

LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and the event loop in which the test uses the library.

    The server runs in the test's own loop, the library in a thread, in a loop of the kind ``loop``.
    """

    app: App
    url: str
    loop: str

    async def run(self, scenario: Callable[[Client], Awaitable[Any]]) -> Any:
        """Call ``scenario`` with a client of the server, and return what it returns."""

        async def limited() -> Any:
            with anyio.fail_after(LIMIT_S):
                async with Client(self.url) as client:
                    return await scenario(client)

        return await trio.to_thread.run_sync(partial(anyio.run, limited, backend=self.loop))


@pytest.fixture(params=["asyncio", "trio"])
async def server(request: pytest.FixtureRequest, backend: Embedded) -> AsyncIterator[Server]:
    """Serve the API on a standalone server and on a cluster, for asyncio and for trio."""
    async with open_app(backend) as app, serving(app, lane=True) as port:
        yield Server(app, f"http://127.0.0.1:{port}", request.param)
