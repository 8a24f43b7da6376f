"""Parser of ``REDIS_URL``: a Redis URL that may name several start nodes.

    redis://user:password@10.0.0.1:7001,10.0.0.2:7001,10.0.0.3
    rediss://10.0.0.1:7001/?ssl_ca_certs=/etc/ca.pem&ssl_certfile=/etc/c.pem&ssl_keyfile=/etc/k.pem
    redis://10.0.0.1:7001,redis://10.0.0.2:7001

Credentials and options appear once and apply to all nodes. A URL with one node has the same meaning
as in redis-py's ``parse_url``; a test compares both. This module does not use redis-py, because
importing redis-py would take a sixth of the start-up time of a process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, unquote_plus, urlsplit

DEFAULT_PORT = 6379

# The parameters of redis-py and the fields of TlsSettings that they set.
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
"""Values of ``ssl_check_hostname`` that mean False, in upper case, as in redis-py."""


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
    """Parse a URL with one or more comma-separated nodes.

    Raises:
        ValueError: the URL is not valid. The message does not contain any value of the URL.
    """
    pieces = re.split(r",(?=rediss?://)", url.strip())
    scheme, rest = _split_scheme(pieces[0])
    if any(_split_scheme(piece)[0] != scheme for piece in pieces[1:]):
        raise ValueError("all nodes of a Redis URL must share one scheme")
    # The user information is split off before the hosts, because a password may contain commas.
    authority, tail = _split_authority(rest)
    user_info, at, hosts = authority.rpartition("@")
    names = hosts.split(",")
    if not re.fullmatch(r"/?\d*", tail.partition("?")[0]):
        raise ValueError("the path of a Redis URL must be a database number")
    for piece in pieces[1:]:
        authority, piece_tail = _split_authority(_split_scheme(piece)[1])
        if "@" in authority and authority.rpartition("@")[0] != user_info:
            raise ValueError("all nodes of a Redis URL must share one user and password")
        # One of the URLs may have a database number and options, which apply to all nodes.
        tail = tail if len(tail) > 1 else piece_tail
        names += authority.rpartition("@")[2].split(",")
    if not all(names):
        raise ValueError("a Redis URL must name at least one host, and no host may be empty")
    parsed = [_parse_one(f"{scheme}://{user_info}{at}{name}{tail}") for name in names]
    return _combine(parsed, secure=scheme == "rediss")


def secrets_in(url: str) -> frozenset[str]:
    """Return the passwords and passphrases of a URL that ``parse_redis_url`` accepts.

    The result has them percent-encoded and decoded, because a log line may contain either form.
    """
    secrets: set[str] = set()
    for piece in re.split(r",(?=rediss?://)", url.strip()):
        authority, tail = _split_authority(_split_scheme(piece)[1])
        secrets.add(authority.rpartition("@")[0].partition(":")[2])
        for item in tail.partition("?")[2].split("&"):
            name, _, value = item.partition("=")
            if unquote_plus(name) in _SECRET_PARAMETERS:
                secrets.add(value)
    for encoded in list(secrets):
        secrets |= {unquote(encoded), unquote_plus(encoded)}
    return frozenset(text for text in secrets if text)


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
    """Return the text before the first ``/`` or ``?``, and the text from this character on."""
    match = re.search(r"[/?]", rest)
    return (rest, "") if match is None else (rest[: match.start()], rest[match.start() :])


def _parse_one(url: str) -> dict[str, Any]:
    """Return the values of a URL of one node, under redis-py's names and with its defaults.

    Raises:
        ValueError: the host, the port, the query or the database number is malformed.
    """
    try:
        parts = urlsplit(url)
        values: dict[str, Any] = {name: texts[0] for name, texts in parse_qs(parts.query).items()}
        # If the query and the path name a database, that of the query counts, as in redis-py.
        values["db"] = int(values.get("db") or parts.path.strip("/") or 0)
        values["port"] = parts.port or DEFAULT_PORT
        values["host"] = unquote(parts.hostname or "localhost")
    except ValueError:
        # The original message may contain the malformed text, which may be a password.
        raise ValueError("a Redis URL has a malformed host, port or query") from None
    if "ssl_check_hostname" in values:
        values["ssl_check_hostname"] = values["ssl_check_hostname"].upper() not in _FALSE
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            values[name] = unquote(value)
    return values


def _combine(parsed: list[dict[str, Any]], *, secure: bool) -> RedisUrl:
    """Combine the values of all nodes, which differ only in host and port."""
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
        nodes=tuple((node["host"], node["port"]) for node in parsed),
        secure=secure,
        username=first.get("username") or None,
        password=first.get("password") or None,
        db=first["db"],
        client_name=first.get("client_name"),
        tls=tls,
    )
