"""Convert ASGI messages to requests, and responses to ASGI messages."""

from __future__ import annotations

from hypercorn.typing import ASGISendCallable, HTTPScope, WebsocketScope

from ojs_cluster.http.messages import WITHOUT_BODY, Request, Response, join_headers
from ojs_cluster.http.pages import BrowserRequest

TLS_SUBJECT = "ojs.tls_subject"
"""Key of an ASGI scope whose value is the subject of the client's verified certificate."""


def read_head(scope: HTTPScope | WebsocketScope) -> Request:
    """Return the request of an HTTP or WebSocket scope, without its body."""
    headers = join_headers(
        [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in scope["headers"]
        ]
    )
    path = scope["raw_path"].decode("latin-1")
    if not path.startswith("/"):
        path = _origin_form(path)
    method = str(scope.get("method", "GET"))  # a WebSocket's scope has none
    query, subject = scope["query_string"].decode("latin-1"), dict(scope).get(TLS_SUBJECT, "")
    client = scope.get("client")
    peer = client[0] if client else ""
    return Request(method, path, query, headers, tls_subject=str(subject), peer=peer)


def read_browser_request(scope: HTTPScope) -> BrowserRequest:
    """Return the request of a browser, without its body."""
    return BrowserRequest(read_head(scope), scope["scheme"], scope["headers"])


def _origin_form(target: str) -> str:
    """Return the path of a request target in absolute form (RFC 9112 3.2.2).

    A target in any other form is returned unchanged.
    """
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return target
    _, _, path = rest.partition("/")
    return "/" + path


async def send_response(response: Response, send: ASGISendCallable) -> None:
    """Send a whole response."""
    await send_start(response, send)
    await send_body(response.body, send, more=False)


async def send_start(response: Response, send: ASGISendCallable) -> None:
    """Send the status and the headers, with the length of the body if it is known."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers
    ]
    known = response.stream is None and response.status not in WITHOUT_BODY
    if known and not any(name == b"content-length" for name, _ in headers):
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send(
        {
            "type": "http.response.start",
            "status": response.status,
            "headers": headers,
            "trailers": False,
        }
    )


async def send_body(body: bytes, send: ASGISendCallable, *, more: bool) -> None:
    """Send a piece of the body; ``more`` is whether other pieces follow."""
    await send({"type": "http.response.body", "body": body, "more_body": more})
