"""Responses and cookies for browsers, with the headers that keep other sites out."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import trio
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import BodyStream, Request, Response
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.http.routing.router import Route
from ojs_cluster.ui.settings import base_path
from ojs_cluster.ui.static_files import CACHE_CONTROL, StaticFile
from ojs_cluster.ui.visit import Download

SESSION: Final = "ojs_ui_session"
NOTE: Final = "ojs_ui_note"
_HTML: Final = "text/html; charset=utf-8"
_NOTE_S: Final = 60
_MAX_NOTE: Final = 300  # characters
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # Browsers send no usable Origin with a form of a page whose policy is no-referrer.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Note(NamedTuple):
    """What a page shows once, after an action."""

    text: str
    failed: bool


def respond(
    status: int, body: bytes, content_type: str = _HTML, location: str | None = None
) -> TrioResponse:
    """Return a response with the security headers."""
    headers = dict(_HEADERS)
    if location is not None:
        headers["Location"] = location
    return TrioResponse(body, status, headers, content_type=content_type)


def add_headers(response: TrioResponse) -> None:
    """Add the security headers that a response does not have yet."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def send_file(found: StaticFile, accepted: str) -> TrioResponse:
    """Return a static file, compressed if the browser accepts it."""
    compress = "gzip" in accepted
    response = respond(200, found.compressed if compress else found.content, found.content_type)
    response.headers["Cache-Control"] = CACHE_CONTROL
    response.headers["Vary"] = "Accept-Encoding"
    if compress:
        response.headers["Content-Encoding"] = "gzip"
    return response


def send_download(answer: Download) -> TrioResponse:
    """Return a file to save. Its name must not contain quotes."""
    response = respond(200, answer.content, answer.content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{answer.name}"'
    return response


class _StreamBody(ResponseBody):
    """Runs a stream while Quart sends its pieces."""

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._stack = AsyncExitStack()
        self._sender, self._receiver = trio.open_memory_channel[bytes](0)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._stack.callback(self._stream.close)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(self._run)
        self._stack.callback(nursery.cancel_scope.cancel)
        return self._receiver

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    async def _run(self) -> None:
        with self._sender:
            await self._stream.run(self._sender.send)


def send_stream(stream: BodyStream) -> TrioResponse:
    """Return a stream of server-sent events, which lasts until the browser leaves the page."""
    response = respond(200, b"", "text/event-stream")
    del response.headers["Content-Length"]
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    response.response = _StreamBody(stream)
    response.timeout = None
    return response


def set_cookie(
    response: TrioResponse, name: str, value: str, path: str, secure: bool, max_age_s: int
) -> None:
    """Set a cookie that no script can read and that no other site can send; 0 s removes it."""
    response.set_cookie(
        name, value, max_age_s, path=path, secure=secure, httponly=True, samesite="Strict"
    )


def set_note(response: TrioResponse, text: str, failed: bool, path: str, secure: bool) -> None:
    """Make the next page show a note."""
    raw = json.dumps([text[:_MAX_NOTE], failed]).encode()
    set_cookie(response, NOTE, urlsafe_b64encode(raw).decode(), path, secure, _NOTE_S)


def note_of(head: Request) -> Note | None:
    """Return the note that the page has to show."""
    try:
        text, failed = json.loads(urlsafe_b64decode(cookie_of(head, NOTE) or ""))
        return Note(str(text)[:_MAX_NOTE], bool(failed))
    except (ValueError, TypeError):
        return None


def cookie_of(head: Request, name: str) -> str | None:
    """Return the value of a cookie, None if there is none."""
    for part in head.headers.get("cookie", "").replace(",", ";").split(";"):
        found, _, value = part.strip().partition("=")
        if found == name:
            return value.strip('"')
    return None


def place_of(path: str, query: str, base: str) -> tuple[str, str]:
    """Return the relative address of the dashboard, and the address of the page below it.

    Args:
        path: the raw path of the request.
        query: the raw query of the request.
        base: the path under which a proxy may publish the server.
    """
    below = path
    for prefix in (f"{base}/ui/", "/ui/"):
        if path.startswith(prefix):
            below = path.removeprefix(prefix)
            break
    return "../" * below.count("/") or "./", f"{below}?{query}" if query else below


def base_of(text: str) -> str:
    """Return the base path in a forwarding header, empty if it is no path."""
    try:
        return base_path(text)
    except ValueError:
        return ""


def record_login(app: App, head: Request, principal: Principal) -> None:
    """Record a successful login in the audit."""
    route = Route("POST", "/ui/login", _no_handler, action="ui.login")
    app.audit.record_response(head, new_request_id(), route, (), principal, Response(303, b""))


async def _no_handler(*_: object) -> Response:
    return Response(404, b"")
