"""Answer the refreshes of open pages without Quart.

Every open page of the dashboard asks for its present content every few seconds. Most of these
requests get the status 304, and Quart would take longer for them than everything else together: it
builds a request, a response and two contexts. So a refresh goes from hypercorn to the view of its
page. Quart's own table of addresses finds the view, so both serve the same addresses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map

from ojs_cluster.http.hypercorn.asgi import send_response
from ojs_cluster.http.messages import Response

RefreshView = Callable[..., Awaitable[Response]]
"""Answers a refresh. It is called with the ASGI scope, and the parameters of the path as keywords.
Its response has no stream."""
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class HasRefreshes(Protocol):
    """The part of the Quart application that a refresh uses.

    Attributes:
        url_map: the addresses of all pages.
        refreshes: the views that answer refreshes, by endpoint.
    """

    url_map: Map
    refreshes: Mapping[str, RefreshView]


def is_refresh(scope: HTTPScope) -> bool:
    """Return whether an open page asks for its content: a GET by htmx, without a body."""
    names = {name for name, _ in scope["headers"]}
    return scope["method"] == "GET" and b"hx-request" in names and not names & _BODY_HEADERS


class RefreshConnection(TrioASGIHTTPConnection):
    """One refresh and its response. Quart serves an address that has no view for refreshes."""

    app: HasRefreshes  # type: ignore[assignment]  # only these attributes are used

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the refresh."""
        found = self._find()
        if found is None:
            await super().__call__(receive, send)
            return
        view, params = found
        response: Response | None = None
        # The connection waits while messages to a request are not received, so they are received
        # until the response is sent.
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as viewing:
                # Only the view is cancelled when the client disconnects. hypercorn also sends
                # ``http.disconnect`` after a complete response.
                nursery.start_soon(_receive_all, receive, viewing)
                response = await view(self.scope, **params)
            if response is not None:
                with suppress(trio.BusyResourceError, trio.ClosedResourceError):
                    await send_response(response, send)
            nursery.cancel_scope.cancel()

    def _find(self) -> tuple[RefreshView, Mapping[str, str]] | None:
        try:
            endpoint, params = self.app.url_map.bind("").match(self.scope["path"], "GET")
        except HTTPException:
            return None
        view = self.app.refreshes.get(endpoint)
        return None if view is None else (view, params)


async def _receive_all(receive: ASGIReceiveCallable, viewing: trio.CancelScope) -> None:
    """Receive messages, and cancel the view when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    viewing.cancel()
