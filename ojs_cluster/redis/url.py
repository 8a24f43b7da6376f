"""Parser of ``REDIS_URL``: a Redis URL that may name several start nodes.

    redis://user:password@10.0.0.1:7001,10.0.0.2:7001,10.0.0.3
    rediss://10.0.0.1:7001/?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/c.pem&ssl_keyfile=/etc/k.pem
    redis://10.0.0.1:7001,redis://10.0.0.2:7001

A URL of one node means the same as to redis-py's ``parse_url``; a test compares the two. This
module does not call redis-py: its import takes a sixth of a process's start-up time. Credentials
and options apply to all nodes and are written once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

DEFAULT_PORT = 6379

# redis-py's spelling -> field of TlsSettings
_TLS_FILES = {
    "ssl_ca_certs": "ca_file",
    "ssl_ca_path": "ca_path",
    "ssl_certfile": "cert_file",
    "ssl_keyfile": "key_file",
    "ssl_password": "key_password",
}
_SECRET_PARAMETERS = {"password", "ssl_password"}
_KNOWN = {"host", "port", "db", "username", "password", "client_name"}
_FALSE = {"0", "F", "FALSE", "N", "NO"}
"""Values of ``ssl_check_hostname`` that switch it off, in upper case, as in redis-py."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A parsed URL.

    Attributes:
        nodes: host and port of each start node.
        secure: whether the scheme is ``rediss``.
        tls: the fields of ``TlsSettings`` that the query names.
    """

    nodes: tuple[tuple[str, int], ...]
    secure: bool
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    client_name: str | None = None
    tls: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a URL with one or more comma separated nodes.

    Raises:
        ValueError: no or unknown scheme, bad port, unknown query parameter, or nodes that
            have different schemes. The message contains no part of the URL.
    """
    pieces = re.split(r",(?=rediss?://)", url.strip())
    scheme, rest = _split_scheme(pieces[0])
    if any(_split_scheme(piece)[0] != scheme for piece in pieces[1:]):
        raise ValueError("all nodes of a Redis URL must share one scheme")
    # Split off the user information first: a password may contain commas.
    authority, tail = _split_authority(rest)
    user_info, at, hosts = authority.rpartition("@")
    names = hosts.split(",")
    if not re.fullmatch(r"/?\d*", tail.partition("?")[0]):
        raise ValueError("the path of a Redis URL must be a database number")
    for piece in pieces[1:]:
        more, more_tail = _split_authority(_split_scheme(piece)[1])
        if "@" in more and more.rpartition("@")[0] != user_info:
            raise ValueError("all nodes of a Redis URL must share one user and password")
        tail = tail if len(tail) > 1 else more_tail
        names += more.rpartition("@")[2].split(",")
    if not all(names):
        raise ValueError("a Redis URL must name at least one host, and no empty one")
    parsed = [_parse_one(f"{scheme}://{user_info}{at}{name}{tail}") for name in names]
    return _combine(parsed, secure=scheme == "rediss")


def secrets_in(url: str) -> frozenset[str]:
    """Return the passwords and passphrases of a URL that ``parse_redis_url`` accepts.

    Includes both their encoded and decoded forms: a log line may quote either.
    """
    found: set[str] = set()
    for piece in re.split(r",(?=rediss?://)", url.strip()):
        authority, tail = _split_authority(_split_scheme(piece)[1])
        found.add(authority.rpartition("@")[0].partition(":")[2])
        for item in tail.partition("?")[2].split("&"):
            name, _, value = item.partition("=")
            if unquote_plus(name) in _SECRET_PARAMETERS:
                found.add(value)
    for raw in list(found):
        found |= {unquote(raw), unquote_plus(raw)}
    return frozenset(text for text in found if text)


def _split_scheme(url: str) -> tuple[str, str]:
    scheme, separator, rest = url.partition("://")
    if scheme in ("redis+sentinel", "rediss+sentinel"):
        raise ValueError(
            "Redis Sentinel is not supported: give the address of a proxy, a Service or a DNS name "
            "that follows the master"
        )
    if not separator or scheme not in ("redis", "rediss"):
        raise ValueError("a Redis URL must start with redis:// or rediss://")
    return scheme, rest


def _split_authority(rest: str) -> tuple[str, str]:
    """Split at the first ``/`` or ``?``; the second part begins with it."""
    match = re.search(r"[/?]", rest)
    return (rest, "") if match is None else (rest[: match.start()], rest[match.start() :])


def _parse_one(url: str) -> dict[str, Any]:
    """Return the parts of a URL of one node, under redis-py's names and with its defaults.

    Raises:
        ValueError: malformed host, port, query or database number.
    """
    try:
        parts = urlsplit(url)
        found: dict[str, Any] = {name: values[0] for name, values in parse_qs(parts.query).items()}
        # The query wins over the path when both name a database.
        found["db"] = int(found.get("db") or parts.path.strip("/") or 0)
        found["port"] = parts.port or DEFAULT_PORT
        found["host"] = unquote(parts.hostname or "localhost")
    except ValueError:
        # The original message can quote the malformed part, which may be a password.
        raise ValueError("a Redis URL has a malformed host, port or query") from None
    if "ssl_check_hostname" in found:
        found["ssl_check_hostname"] = found["ssl_check_hostname"].upper() not in _FALSE
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            found[name] = unquote(value)
    return found


def _combine(parsed: list[dict[str, Any]], *, secure: bool) -> RedisUrl:
    first = parsed[0]
    unknown = first.keys() - _KNOWN - _TLS_FILES.keys() - {"ssl_check_hostname", "ssl_cert_reqs"}
    if unknown:
        raise ValueError(f"unknown parameters in a Redis URL: {', '.join(sorted(unknown))}")
    tls: dict[str, Any] = {new: first[old] for old, new in _TLS_FILES.items() if old in first}
    if "ssl_check_hostname" in first:
        tls["check_hostname"] = first["ssl_check_hostname"]
    if "ssl_cert_reqs" in first:
        if first["ssl_cert_reqs"] not in ("required", "none"):
            raise ValueError("ssl_cert_reqs in a Redis URL must be required or none")
        tls["verify"] = first["ssl_cert_reqs"] == "required"
    if tls and not secure:
        raise ValueError("ssl parameters in a Redis URL need the rediss:// scheme")
    return RedisUrl(
        nodes=tuple((p["host"], p["port"]) for p in parsed),
        secure=secure,
        username=first.get("username") or None,
        password=first.get("password") or None,
        db=first["db"],
        client_name=first.get("client_name"),
        tls=tls,
    )
