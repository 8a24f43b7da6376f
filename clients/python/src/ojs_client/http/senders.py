"""Send requests to one server: over this library's own connections, or over httpx2.

httpx2 carries the requests when the caller gives a transport of it, when the environment names a
proxy for the server, and when the address has a user name, a query or a name that is not ASCII.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from ojs_client.http.addresses import shown_address
from ojs_client.http.connections import Address, Connections, NoResponse, NotSent
from ojs_client.http.response_parser import Response

_CACHED_PATHS: Final = 64
"""Number of encoded paths that are kept. Requests of a worker have few paths."""
_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[0-9A-Za-z._\-]+|[0-9a-fA-F:.]+")
_HEADER: Final = re.compile(
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?"
)
_SAFE: Final = "/%:@!$&'()*+,;=-._~"
_WITHOUT_BODY: Final = ("GET", "DELETE")
"""Methods that need no Content-Length without a body."""


class Sender(Protocol):
    """Sends requests to one server."""

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: Mapping[str, str] | None,
        limit_s: float,
    ) -> Response:
        """Send a request once and return its response, whatever its status is.

        Args:
            method: the HTTP method.
            path: the path after the address of the server.
            content: the body; None for none.
            params: the query.
            limit_s: how long it may take, in seconds.

        Raises:
            NotSent: the request has certainly not reached the server.
            NoResponse: no response has arrived.
        """
        ...

    async def open(self) -> None:
        """Open the connections."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def sender_for(
    url: str, headers: Mapping[str, str], *, max_connections: int, transport: Any
) -> Sender:
    """Return a sender of requests to a server.

    Args:
        url: the address of the server.
        headers: headers of each request.
        max_connections: the maximum number of connections.
        transport: how httpx2 reaches the server; None for the usual way.

    Raises:
        httpx2.InvalidURL: the address is invalid.
    """
    if transport is None and _is_plain(parts := urlsplit(url), headers):
        return _Direct(parts, headers, max_connections)
    return _OverHttpx(url, headers, max_connections, transport)


def _is_plain(url: SplitResult, headers: Mapping[str, str]) -> bool:
    """Return whether a request needs nothing that only httpx2 has."""
    host = url.hostname or ""
    return (
        url.scheme in _PORTS
        and _HOST.fullmatch(host) is not None
        and not (url.username or url.password or url.query or url.fragment)
        and all(_HEADER.fullmatch(f"{name}: {value}") for name, value in headers.items())
        and not _has_proxy(url.scheme, host)
    )


def _has_proxy(scheme: str, host: str) -> bool:
    """Return whether requests to a host go through a proxy."""
    if sys.platform == "linux" and not any(name.lower().endswith("_proxy") for name in os.environ):
        return False
    from urllib.request import getproxies, proxy_bypass  # takes as long as the rest of the client

    proxies = getproxies()
    return (scheme in proxies or "all" in proxies) and not proxy_bypass(host)


class _Direct:
    """Sends requests over the library's own connections."""

    def __init__(self, url: SplitResult, headers: Mapping[str, str], max_connections: int) -> None:
        tls = None
        if url.scheme == "https":
            import httpx2

            tls = httpx2.create_ssl_context()
            tls.set_alpn_protocols(["http/1.1"])
        host = url.hostname or ""
        default = _PORTS[url.scheme]
        port = url.port or default
        self._connections = Connections(Address(host, port, tls), max_connections)
        name = f"[{host}]" if ":" in host else host
        given = {name.lower() for name in headers}
        lines = (
            [] if "host" in given else [f"Host: {name if port == default else f'{name}:{port}'}"]
        )
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._headers = "".join(f"{line}\r\n" for line in lines).encode("ascii")
        prefix = url.path
        self._encoded = lru_cache(maxsize=_CACHED_PATHS)(
            lambda path: quote(prefix + path, safe=_SAFE).encode()
        )

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: Mapping[str, str] | None,
        limit_s: float,
    ) -> Response:
        target = self._encoded(path)
        if params:
            target += b"?" + urlencode(params).encode()
        length = b""
        if content is not None or method not in _WITHOUT_BODY:
            length = b"Content-Length: %d\r\n" % len(content or b"")
        request = b"%b %b HTTP/1.1\r\n%b%b\r\n%b" % (
            *(method.encode(), target, self._headers, length, content or b""),
        )
        return await self._connections.exchange(request, limit_s)

    async def open(self) -> None:
        """Connections open when they are needed."""

    async def close(self) -> None:
        await self._connections.close()


class _OverHttpx:
    """Sends requests by httpx2."""

    def __init__(
        self, url: str, headers: Mapping[str, str], max_connections: int, transport: Any
    ) -> None:
        import httpx2

        # httpx2 logs the address of each request, so a password must not be part of it.
        self._url = shown_address(url)
        user = httpx2.URL(url)
        self._http = httpx2.AsyncClient(
            base_url=self._url,
            auth=(user.username, user.password) if user.userinfo else None,
            headers=headers,
            limits=httpx2.Limits(
                max_connections=max_connections, max_keepalive_connections=max_connections
            ),
            transport=transport,
        )

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None,
        params: Mapping[str, str] | None,
        limit_s: float,
    ) -> Response:
        import httpx2

        url = self._url + path
        try:
            response = await self._http.request(
                method, url, content=content, params=params, timeout=limit_s
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise NotSent(str(error) or type(error).__name__) from error
        except httpx2.HTTPError as error:
            raise NoResponse(str(error) or type(error).__name__) from error
        headers = dict(response.headers.items())
        return Response(response.status_code, headers, response.content, False)

    async def open(self) -> None:
        await self._http.__aenter__()

    async def close(self) -> None:
        await self._http.__aexit__()
