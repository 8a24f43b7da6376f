"""Connections of a worker that a test can watch, delay and break."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.lowlevel
import httpx2

Hook = Callable[[str, Any], Awaitable[None]]


async def nothing(path: str, body: Any) -> None:
    """Do nothing before or after a request."""


def from_server(path: str, body: Any) -> None:
    """Leave the request to the server."""


class Watched:
    """Passes requests on to the server.

    Args:
        before: called with path and body before a request is sent; it may raise an error of httpx2.
        after: called when the response has arrived; an error loses the response.
        instead: called with path and body; a response of it is that of a proxy, and the request
            does not reach the server.

    Attributes:
        counts: number of requests by the last part of their path.
    """

    def __init__(
        self,
        *,
        before: Hook = nothing,
        after: Hook = nothing,
        instead: Callable[[str, Any], httpx2.Response | None] = from_server,
    ) -> None:
        self._inner = httpx2.AsyncHTTPTransport(retries=0)
        self._before = before
        self._after = after
        self._instead = instead
        self.counts: Counter[str] = Counter()

    async def handle_async_request(self, request: Any) -> Any:
        path = request.url.path
        body = json.loads(request.content or b"null")
        self.counts[path.removeprefix("/ojs/v1/")] += 1
        await self._before(path, body)
        if (proxied := self._instead(path, body)) is not None:
            await anyio.lowlevel.checkpoint()  # as a response over the network
            return proxied
        response = await self._inner.handle_async_request(request)
        await response.aread()
        await self._after(path, body)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Watched:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._inner.__aexit__(*error)
