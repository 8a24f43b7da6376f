"""Serve the document. It is generated once per process, at its first request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
import orjson
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response


class _Generated(msgspec.Struct, frozen=True):
    """The document as bytes, and its entity tag."""

    body: bytes
    etag: str


class DocumentEndpoint:
    """The handler of the document."""

    def __init__(self, build: Callable[[], Mapping[str, Any]]) -> None:
        """Create the handler.

        Args:
            build: builds the document. The first request calls it, because other processes, such
                as the scheduler, do not need the document.
        """
        self._build = build
        self._generated: _Generated | None = None
        self._generating = trio.Lock()

    async def get(self, _app: App, request: Request) -> Response:
        """Return the OpenAPI 3.1 document that describes this API.

        A client that sends the `ETag` of its copy as `If-None-Match` gets 304 while the copy is
        current.
        """
        generated = await self._get()
        headers = (
            ("Content-Type", "application/json"),
            ("ETag", generated.etag),
            ("Cache-Control", "no-cache"),
        )
        if _matches(request.headers.get("if-none-match", ""), generated.etag):
            return Response(304, b"", headers[1:])
        return Response(200, generated.body, headers)

    async def _get(self) -> _Generated:
        if self._generated is None:
            async with self._generating:
                if self._generated is None:
                    # In a thread, because it takes longer than the event loop may be blocked.
                    self._generated = await trio.to_thread.run_sync(self._generate)
        return self._generated

    def _generate(self) -> _Generated:
        body = orjson.dumps(self._build())
        return _Generated(body, f'"{sha256(body).hexdigest()[:32]}"')


def _matches(header: str, etag: str) -> bool:
    """Return whether an If-None-Match names the tag (RFC 9110, 13.1.2: a weak comparison)."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or "*" in tags
