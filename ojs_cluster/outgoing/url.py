"""Split the URL of an outgoing request into what the request needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_MAX_URL: Final = 2048


@dataclass(frozen=True, slots=True)
class HttpUrl:
    """The parts of the URL of an outgoing request.

    Attributes:
        secure: whether the connection uses TLS.
        host: the host name or the address, without brackets.
        port: the port.
        authority: the value of the header ``Host``.
        target: path and query.
    """

    secure: bool
    host: str
    port: int
    authority: str
    target: str


def parse_http_url(text: str) -> HttpUrl:
    """Return the parts of an http or https URL.

    Raises:
        ValueError: no request can be sent to it. The message continues a sentence about the URL.
    """
    if not 1 <= len(text) <= _MAX_URL:
        raise ValueError(f"must have 1 to {_MAX_URL} characters")
    if not text.isascii() or not text.isprintable() or any(c in text for c in ' "<>\\^`{|}'):
        raise ValueError("has characters that must be percent-encoded, or a name without punycode")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in ("https", "http"):
        raise ValueError("must begin with https://")
    if not host or port == 0:
        raise ValueError("has no host, or port 0")
    if "@" in parts.netloc:
        raise ValueError("must not contain a user name or a password")
    if "%" in host:
        raise ValueError("must not contain a zone of an address")
    secure = parts.scheme == "https"
    bracketed = f"[{host}]" if ":" in host else host
    authority = bracketed if port is None else f"{bracketed}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpUrl(secure, host, port or (443 if secure else 80), authority, target)
