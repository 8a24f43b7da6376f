"""Refuse requests that pages of other sites make with the rights of their visitor's browser.

A browser sends the requests of any page. Where a client needs no API key in a header, such a
request has the rights of the browser's place in the network (a server without API keys) or of its
client certificate. Two headers that no page can write tell where a request comes from:
``Sec-Fetch-Site``, and ``Origin``. Browsers send ``Origin`` with every request that may change
something.

A page can also point its own name at the server's address (DNS rebinding). The browser then counts
the server as the page's own site, and only ``Host`` discloses the page's name. Such a name needs a
dot and a public registration, so names without a registry pass. With TLS and client
certificates the browser refuses the server's certificate, and with API keys the page has none.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from ojs_cluster.http.errors import ForeignPage
from ojs_cluster.http.messages import Request
from ojs_cluster.http.request_body.decode import is_json

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{0,5})?")
_LOCAL_SUFFIXES: Final = (".localhost", ".internal", ".local", ".test", ".svc")
"""Ends of names that public registries do not have: of the machine itself (RFC 6761), of private
networks such as ``host.docker.internal``, of the local link (RFC 6762), and of Kubernetes."""


def check_host(request: Request, allowed: tuple[str, ...]) -> None:
    """Check the name by which a client of a server without API keys reaches it.

    Args:
        request: the request. Browsers always send ``Host``, so a request without it passes.
        allowed: the names that the operator allows; ``*.example.com`` stands for all below it.

    Raises:
        ForeignPage: a page may have pointed this name at the server.
    """
    host = request.headers.get("host")
    if host and not _is_local(host) and not _is_allowed(host, allowed):
        raise ForeignPage(
            f"this server has no API keys, and OJS_ALLOWED_HOSTS does not name '{host[:100]}'",
            field="headers.host",
        )


def check_sender(request: Request, origins: tuple[str, ...]) -> None:
    """Check that no page of another origin has sent a request that may change something.

    Raises:
        ForeignPage: a page of an origin that is neither the server's own nor one of
            ``origins`` has sent it.
    """
    if request.method in _SAFE_METHODS:
        return
    headers = request.headers
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin in origins:
        return
    # "none" is a request of the user, not of a page.
    foreign = site not in ("same-origin", "none") if site else not _is_own(origin, request)
    if foreign:
        raise ForeignPage(
            "pages of other origins may not use this API without an API key", field="headers.origin"
        )


def check_origin(request: Request, origins: tuple[str, ...]) -> None:
    """Check that the page that opens a WebSocket may use the API (spec: ojs-realtime 6).

    Browsers let a page of any origin open a WebSocket, and send the page's origin. Other clients
    send no origin.

    Raises:
        ForeignPage: the page has another origin than the server, and none of ``origins``.
    """
    origin = request.headers.get("origin")
    if origin not in origins and not _is_own(origin, request):
        raise ForeignPage("pages of this origin may not open WebSockets", field="origin")


def must_declare_json(request: Request) -> bool:
    """Return whether the media type of this request forbids a body.

    A page may send another site a body of some media types, or of none. It needs that site's
    permission for a body that is declared as JSON.
    """
    return request.method not in _SAFE_METHODS and not is_json(
        request.headers.get("content-type", "")
    )


def _is_own(origin: str | None, request: Request) -> bool:
    """Return whether an origin is the server's own, or absent.

    Only host and port are compared with the server's, because a proxy may end TLS.
    """
    if origin is None:
        return True
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and netloc.lower() == request.headers.get("host", "").lower()


def _is_local(host: str) -> bool:
    """Return whether a value of ``Host`` is an address, or a name without a registry."""
    name = _name_of(host)
    if name.startswith("["):
        return _is_address(name[1:-1])
    if "." not in name:
        return bool(name)
    return name.endswith(_LOCAL_SUFFIXES) or _is_address(name)


def _is_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    name = _name_of(host)
    return any(
        name.endswith(each[1:]) if each.startswith("*") else name == each for each in allowed
    )


def _name_of(host: str) -> str:
    """Return the name of a ``Host`` in lower case, without port and root; '' if malformed."""
    match = _HOST.fullmatch(host)
    return match[1].lower().removesuffix(".") if match else ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
