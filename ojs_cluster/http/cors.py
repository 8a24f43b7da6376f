"""Cross-origin requests of browsers (spec: ojs-http-binding 20).

A browser sends a page's request to another origin only if that origin allows it, and lets the page
read the response only if the response names the page's origin. ``OJS_CORS_ORIGINS`` names the
origins. Without this variable no response has CORS headers.

Responses never allow credentials, because clients send their API key in a header, not in a cookie.
A wildcard is not accepted, because the spec forbids it for endpoints that need an API key.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.routing.router import NO_DATA, Route

_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS: Final = "Content-Type, Accept, Authorization, X-Request-Id, OJS-Version"
_RESPONSE_HEADERS: Final = (
    "Location, OJS-Version, Retry-After, X-OJS-Queue-Bound, X-OJS-Queue-Depth, X-RateLimit-Limit, "
    "X-RateLimit-Remaining, X-RateLimit-Reset, X-OJS-Unknown-Parameters, X-Request-Id"
)
_MAX_AGE_S: Final = "86400"
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9-]{1,100}(?:, ?[A-Za-z0-9-]{1,100}){0,30}")
_VARY: Final[Headers] = (("Vary", "Origin"),)


def is_preflight(origins: tuple[str, ...], request: Request) -> bool:
    """Return whether a browser asks if a page of one of ``origins`` may send a request.

    Browsers send no API key with a preflight request. So the server answers it without an API key,
    and with the same response for every path.
    """
    return (
        request.method == "OPTIONS"
        and "access-control-request-method" in request.headers
        and request.headers.get("origin") in origins
    )


def cors_headers(origins: tuple[str, ...], request: Request) -> Headers:
    """Return the headers that a response needs while some origins are allowed."""
    origin = request.headers.get("origin")
    if origin is None or origin not in origins:
        return _VARY
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", _RESPONSE_HEADERS),
        *_VARY,
    )


async def _answer_preflight(_app: App, request: Request) -> Response:
    return preflight_response(request)


def preflight_response(request: Request) -> Response:
    """Return the response to a preflight, without the headers that every response has."""
    wanted = request.headers.get("access-control-request-headers", "")
    names = wanted if _HEADER_NAMES.fullmatch(wanted) else _REQUEST_HEADERS
    return Response(
        204,
        b"",
        (
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", names),
            ("Access-Control-Max-Age", _MAX_AGE_S),
        ),
    )


PREFLIGHT: Final = Route("OPTIONS *", _answer_preflight, replace(NO_DATA, open=True))
"""The route of every preflight request. It is not in the table, because it has no path."""
