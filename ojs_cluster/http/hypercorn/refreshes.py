"""Answer the refreshes of open pages without Quart.

Every open page of the dashboard asks for its present content every few seconds. Most of these
requests get the status 304, and Quart would take longer for them than everything else together: it
builds a request, a response and two contexts. So a refresh goes from hypercorn to the view of its
page. Quart's own table of addresses finds the view, so both serve the same addresses.
Over HTTP/1.1 the fast lane serves most pages (``http/fast_lane``). So these refreshes come over
HTTP/2, or on a connection that has sent a form.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart_trio.asgi import TrioASGIHTTPConnection

from ojs_cluster.http.hypercorn.asgi import read_browser_request, send_response
from ojs_cluster.http.messages import Response
from ojs_cluster.http.pages import FoundPage

_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class HasViews(Protocol):
    """The part of the Quart application that a refresh uses."""

    def find_view(self, path: str) -> FoundPage | None:
        """Return the page at a decoded path; None if it has no view."""
        ...


def is_refresh(scope: HTTPScope) -> bool:
    """Return whether an open page asks for its content: a GET of its script, without a body."""
    names = {name for name, _ in scope["headers"]}
    return scope["method"] == "GET" and b"hx-request" in names and not names & _BODY_HEADERS


class RefreshConnection(TrioASGIHTTPConnection):
    """One refresh and its response. Quart serves an address that has no view."""

    app: HasViews  # type: ignore[assignment]  # only this method is used

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Answer the refresh."""
        found = self.app.find_view(self.scope["path"])
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
                response = await view(read_browser_request(self.scope), **params)
            if response is not None:
                with suppress(trio.BusyResourceError, trio.ClosedResourceError):
                    await send_response(response, send)
            nursery.cancel_scope.cancel()


async def _receive_all(receive: ASGIReceiveCallable, viewing: trio.CancelScope) -> None:
    """Receive messages, and cancel the view when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    viewing.cancel()
