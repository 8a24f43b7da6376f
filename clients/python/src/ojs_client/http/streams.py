"""Server-sent events over httpx2."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

from ojs_client.http.addresses import shown_address
from ojs_client.http.connections import NoResponse, NotSent
from ojs_client.http.response_parser import Response

_CONNECT_S: Final = 10.0
_IDLE_S: Final = 60.0
"""The server sends a comment every 10 s, so a stream that is silent for longer is broken."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Opens streams of one server.

    Args:
        url: the address of the server.
        headers: headers of each request.
        transport: how httpx2 reaches the server; None for the usual way.
    """

    url: str
    headers: Mapping[str, str]
    transport: Any

    @asynccontextmanager
    async def lines(
        self, path: str, params: Mapping[str, str], last_id: str
    ) -> AsyncIterator[AsyncIterator[str] | Response]:
        """Open a stream, and yield its lines, or the response of the server if it has none.

        Args:
            path: the path after the address of the server.
            params: the query.
            last_id: the id of the last event that was read; empty for none.

        Raises:
            NotSent: the server cannot be reached.
            NoResponse: the connection broke.
        """
        import httpx2

        headers = {**self.headers, "Accept": "text/event-stream"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        user = httpx2.URL(self.url)
        auth = (user.username, user.password) if user.userinfo else None
        timeout = httpx2.Timeout(_IDLE_S, connect=_CONNECT_S)
        http = httpx2.AsyncClient(transport=self.transport, auth=auth, timeout=timeout)
        try:
            async with (
                # The caller's transport is that of other requests, too, so it stays open.
                nullcontext() if self.transport is not None else http,
                http.stream(
                    "GET", shown_address(self.url) + path, params=params, headers=headers
                ) as response,
            ):
                if response.status_code == 200:
                    async with aclosing(_lines_of(response.aiter_text())) as lines:
                        yield lines
                    return
                body = await response.aread()
                found = dict(response.headers.items())
                yield Response(response.status_code, found, body, False)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NotSent(str(error) or type(error).__name__) from error
        except httpx2.HTTPError as error:
            raise NoResponse(str(error) or type(error).__name__) from error


async def _lines_of(pieces: AsyncIterator[str]) -> AsyncGenerator[str]:
    """Yield the lines of a stream. ``aiter_lines`` also splits at U+2028, which JSON may have."""
    rest = ""
    async for piece in pieces:
        *lines, rest = re.split(r"\r?\n", rest + piece)
        for line in lines:
            yield line
