"""Addresses of servers: which are valid, and how messages show them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

DEFAULT_URL: Final = "http://localhost:8080"
_BEFORE_LAST_AT: Final = re.compile(r"(?s)^(\w+://)?.*@")


def server_address(url: str) -> str:
    """Return the address of a server without its final slash.

    Raises:
        ValueError: it is no address of a server.
    """
    if _parts(url) is None:
        raise ValueError(
            f"{shown_address(url)!r} is no address of a server, such as {DEFAULT_URL}: it must "
            "begin with http:// or https://"
        )
    return url.rstrip("/")


def shown_address(url: str) -> str:
    """Return an address for logs and messages: without its user name and password."""
    parts = _parts(url)
    if parts is None:
        # In an invalid address, the password may be anywhere before the last @.
        return _BEFORE_LAST_AT.sub(r"\1***@", url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _parts(url: str) -> SplitResult | None:
    """Return the parts of an address; None if it is no address of a server."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname else None
