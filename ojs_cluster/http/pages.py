"""The pages of the dashboard, as both entry points find and call them.

A page is a view: it gets the request of a browser, and returns a response. So the fast lane serves
pages without hypercorn, and hypercorn serves the refreshes of open pages without Quart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec

from ojs_cluster.http.messages import Request, Response

RawHeaders = Iterable[tuple[bytes, bytes]]
_BODY_HEADERS: Final = ("content-length", "transfer-encoding")


class BrowserRequest(msgspec.Struct, frozen=True):
    """A request of a browser for a page.

    Attributes:
        head: the request without its body.
        scheme: ``http`` or ``https``, as the connection has it.
        raw_headers: the headers as they were received, repeated ones included. They can be read
            once.
    """

    head: Request
    scheme: str
    raw_headers: RawHeaders


PageView = Callable[..., Awaitable[Response]]
"""Answers a GET request. It is called with the ``BrowserRequest``, and with the parameters of the
path as keywords. Its response has no stream."""
FoundPage = tuple[PageView, Mapping[str, str]]
"""A view, and the parameters of the path."""


class Pages(Protocol):
    """The addresses of the pages."""

    def find_page(self, raw_path: str) -> FoundPage | None:
        """Return the page at a path that is not percent-decoded; None if there is no view."""
        ...


def has_body(headers: Mapping[str, str]) -> bool:
    """Return whether a request may have a body. The views read none."""
    return any(name in headers for name in _BODY_HEADERS)
