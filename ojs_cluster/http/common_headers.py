"""The headers that every response has, and the line of the access log."""

from __future__ import annotations

import logging
import time
from typing import Final

from ojs_cluster.http.app import App
from ojs_cluster.http.cors import cors_headers
from ojs_cluster.http.messages import WITHOUT_BODY, Headers, Request, Response

log = logging.getLogger("ojs.http")

MEDIA_TYPE: Final = "application/openjobspec+json"

OJS_VERSION: Final = "1.0"

_BARE: Final[Headers] = (("Content-Type", MEDIA_TYPE), ("OJS-Version", OJS_VERSION))
# The Python SDK reads a body only if its type contains "application/json". The conformance suites
# compare the type exactly. So clients that are SDKs get a type of their own. SDKs send the header
# OJS-Version, or "Accept: */*" when the user gave them an HTTP client. The suites send neither.
_FOR_SDKS: Final[Headers] = (
    ("Content-Type", f'{MEDIA_TYPE}; alt="application/json"'),
    ("OJS-Version", OJS_VERSION),
)
COMMON_HEADERS: Final = (_BARE, _FOR_SDKS)
"""The first headers of nearly every response, in both variants."""


def add_common_headers(
    request: Request,
    response: Response,
    request_id: str,
    began: float,
    app: App | None = None,
    principal: str | None = None,
    cors_origins: tuple[str, ...] = (),
) -> Response:
    """Return the response with the headers that every response has.

    A response to HEAD, and one with a status without a body, loses its body.

    Every response passes through here, so this function writes the access log line.

    Args:
        request: the request.
        response: its response. If its first header is Content-Type, it replaces the common one.
        request_id: the request's id.
        began: when the request began, in seconds of the performance counter.
        app: the process; without it the log line has the address of the peer.
        principal: the name of the client's API key, for the log line.
        cors_origins: the allowed origins of pages, for responses without ``app``.
    """
    if log.isEnabledFor(logging.DEBUG):
        extra = {
            "request_id": request_id,
            "status": response.status,
            "ms": round((time.perf_counter() - began) * 1000, 3),
            "principal": principal,
            "address": request.peer if app is None else app.audit.client_of(request),
        }
        log.debug("%s %s %d", request.method, request.path, response.status, extra=extra)
    given = request.headers
    common = _FOR_SDKS if "ojs-version" in given or given.get("accept") == "*/*" else _BARE
    if response.headers and response.headers[0][0] == "Content-Type":
        common = common[1:]
    headers: Headers = (*common, ("X-Request-Id", request_id), *response.headers)
    origins = cors_origins if app is None else app.settings.cors_origins
    if origins:
        headers = (*headers, *cors_headers(origins, request))
    body = response.body
    if request.method == "HEAD":
        headers = (*headers, ("Content-Length", str(len(body))))
        body = b""
    elif response.status in WITHOUT_BODY:
        headers = headers[1:]
    return Response(response.status, body, headers, response.undo, stream=response.stream)
