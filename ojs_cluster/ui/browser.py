"""Responses and cookies for browsers, with the headers that keep other sites out."""

from __future__ import annotations

import gzip
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Literal, NamedTuple

from msgspec import structs
from werkzeug.http import dump_cookie

from ojs_cluster.core.access.scopes import Principal
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import BodyStream, Headers, Request, Response, accepts_gzip
from ojs_cluster.http.request_ids import new_request_id
from ojs_cluster.http.routing.router import Route
from ojs_cluster.ui.settings import base_path
from ojs_cluster.ui.static_files import CACHE_CONTROL, StaticFile
from ojs_cluster.ui.visit import Download, Visit

SESSION: Final = "ojs_ui_session"
SIGN_ON: Final = "ojs_ui_sign_on"
"""The cookie of a login by OpenID Connect that has begun."""
NOTE: Final = "ojs_ui_note"
_HOST_PREFIX: Final = "__Host-"
"""Browsers accept a cookie with this prefix from this host alone, and over TLS only. So no other
host of the domain, and no attacker in the network, can give the browser a session."""
STRICT_TRANSPORT: Final = ("Strict-Transport-Security", "max-age=31536000")
"""Makes browsers use TLS for this host from now on."""
_HTML: Final = "text/html; charset=utf-8"
_MIN_COMPRESSED: Final = 1000
"""Size in bytes from which a response is compressed."""
_MAX_COMPRESSED: Final = 256 * 1024
"""Size in bytes up to which a response is compressed: larger ones would hold the event loop."""
_LEVEL: Final = 4
"""Level of the compression: a page of 100 kB takes a millisecond."""
_NOTE_S: Final = 60
CHOICE_S: Final = 365 * 86_400
"""For how long a browser keeps a choice of its user, in seconds."""
_MAX_NOTE: Final = 300  # characters
_MAX_NOTE_COOKIE: Final = 4096  # characters: browsers keep no longer cookie
SECURITY_HEADERS: Final = {
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
_HEADERS: Final = tuple(SECURITY_HEADERS.items())
_FILE_HEADERS: Final = (
    *((name, value) for name, value in _HEADERS if name != "Cache-Control"),
    ("Cache-Control", CACHE_CONTROL),
    ("Vary", "Accept-Encoding"),
)


class Note(NamedTuple):
    """What a page shows once, after an action."""

    text: str
    failed: bool


def respond(
    status: int, body: bytes, content_type: str = _HTML, *, more: Headers = (), location: str = ""
) -> Response:
    """Return a response with the security headers.

    Args:
        status: the status.
        body: the body.
        content_type: the type of the body.
        more: further headers.
        location: the header ``Location``; empty for none.

    Raises:
        ValueError: the value of a header has a line break or another control character. hypercorn
            refuses such a header, but the fast lane would send it.
    """
    target = (("Location", location),) if location else ()
    for name, value in (*target, *more):
        if not value.isprintable():
            raise ValueError(f"the value of the header {name} has a control character")
    return Response(status, body, (*_HEADERS, ("Content-Type", content_type), *target, *more))


def compressed(response: Response, accepted: str) -> Response:
    """Return a response compressed, unless it is small, large, a stream, or refused by the browser.

    Pages have no secret beside what a request can put into them: forms are checked by their origin.

    Args:
        response: the response.
        accepted: the header ``Accept-Encoding``.
    """
    size = len(response.body)
    if not _MIN_COMPRESSED <= size <= _MAX_COMPRESSED or response.stream:
        return response
    if not accepts_gzip(accepted):
        return response
    body = gzip.compress(response.body, _LEVEL, mtime=0)
    more = (("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding"))
    return structs.replace(response, body=body, headers=(*response.headers, *more))


def send_file(found: StaticFile, accepted: str) -> Response:
    """Return a static file, compressed if the browser accepts it."""
    headers = (*_FILE_HEADERS, ("Content-Type", found.content_type))
    if accepts_gzip(accepted):
        return Response(200, found.compressed, (*headers, ("Content-Encoding", "gzip")))
    return Response(200, found.content, headers)


def send_download(answer: Download) -> Response:
    """Return a file to save. Its name must not contain quotes."""
    disposition = f'attachment; filename="{answer.name}"'
    more = (("Content-Disposition", disposition),)
    return respond(200, answer.content, answer.content_type, more=more)


def send_stream(stream: BodyStream) -> Response:
    """Return a stream of server-sent events, which lasts until the browser leaves the page."""
    unbuffered = ("X-Accel-Buffering", "no")  # nginx would buffer the events
    headers = (*_HEADERS, ("Content-Type", "text/event-stream"), unbuffered)
    return Response(200, b"", headers, stream=stream)


def cookie(
    name: str,
    value: str,
    path: str,
    secure: bool,
    max_age_s: int,
    *,
    same_site: Literal["Strict", "Lax"] = "Strict",
) -> tuple[str, str]:
    """Return the header that sets a cookie; 0 s removes it.

    No script can read the cookie, and no other site can send it. With ``Lax`` a link or a redirect
    of another site sends it.
    """
    text = dump_cookie(
        name, value, max_age_s, path=path, secure=secure, httponly=True, samesite=same_site
    )
    return "Set-Cookie", text


def own_cookie(
    name: str,
    value: str,
    visit: Visit,
    path: str,
    max_age_s: int,
    *,
    secure: bool = False,
    same_site: Literal["Strict", "Lax"] = "Strict",
) -> tuple[str, str]:
    """Return the header that sets a cookie which decides who the user is; 0 s removes it.

    Args:
        name: the name of the cookie, without a prefix.
        value: the value.
        visit: the request.
        path: the path of the cookie, unless it has a prefix, which needs another one.
        max_age_s: how long the browser keeps the cookie, in seconds.
        secure: whether the browser sends the cookie over TLS only, however this request came.
        same_site: as for ``cookie``.
    """
    if visit.has_own_tls:
        name, path = _HOST_PREFIX + name, "/"
    secure = secure or visit.is_secure
    return cookie(name, value, path, secure, max_age_s, same_site=same_site)


def own_cookie_of(head: Request, name: str, *, has_own_tls: bool) -> str | None:
    """Return the value of a cookie that ``own_cookie`` has set, None if there is none."""
    return cookie_of(head, _HOST_PREFIX + name if has_own_tls else name)


def note_cookie(text: str, failed: bool, path: str, secure: bool) -> tuple[str, str]:
    """Return the header that makes the next page show a note."""
    raw = json.dumps([text[:_MAX_NOTE], failed]).encode()
    return cookie(NOTE, urlsafe_b64encode(raw).decode(), path, secure, _NOTE_S)


def note_of(head: Request) -> Note | None:
    """Return the note that the page has to show."""
    value = cookie_of(head, NOTE) or ""
    if not value or len(value) > _MAX_NOTE_COOKIE:
        return None
    try:
        text, failed = json.loads(urlsafe_b64decode(value))
        return Note(str(text)[:_MAX_NOTE], bool(failed))
    except (ValueError, TypeError, RecursionError):
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
    route = Route("POST /ui/login", _no_handler, action="ui.login")
    app.audit.record_response(head, new_request_id(), route, (), principal, Response(303, b""))


async def _no_handler(*_: object) -> Response:
    return Response(404, b"")
