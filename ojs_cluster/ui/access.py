"""Decide who may use the dashboard: sessions, the origin of forms, and the rate of failed logins.

A session is a signed cookie, so no process has to remember it. The key of the signature is made of
a secret in Redis, which all API processes share, and of the SHA-256 of the user's API key. So a
session ends when its API key is removed or replaced, and neither a copy of Redis nor a copy of the
file of API keys is enough to forge one (docs/adr/042).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from ipaddress import ip_network
from typing import Final
from urllib.parse import urlsplit

from ojs_cluster.core.access.scopes import Keyring, Principal, digest
from ojs_cluster.ui.sign_on.signed_text import decode, encode

SESSION_S: Final = 12 * 3600
"""How long a session lasts, in seconds."""
_MAX_COOKIE: Final = 2048  # characters
_FAILURES: Final = 10
"""How many logins of one address may fail in a row, before further ones have to wait."""
_FAILURE_S: Final = 6.0
"""Time in seconds after which one more failed login is allowed."""
_MAX_ADDRESSES: Final = 1000


class Sessions:
    """Issues and reads the cookies of sessions."""

    def __init__(self) -> None:
        self._keyring: Keyring | None = None
        self._digests: dict[str, list[bytes]] = {}

    def issue(self, secret: bytes, key: str, principal: Principal, now: float) -> str:
        """Return the value of the cookie for a user who has shown an API key.

        Args:
            secret: the secret that all processes share.
            key: the API key.
            principal: the owner of the API key.
            now: Unix time in seconds.
        """
        content = b"%d %s" % (int(now) + SESSION_S, principal.name.encode())
        return f"{encode(content)}.{encode(_sign(secret, digest(key), content))}"

    def find(self, secret: bytes, cookie: str, keyring: Keyring, now: float) -> Principal | None:
        """Return the principal of a session; None if it has ended or the cookie is invalid.

        Args:
            secret: the secret that all processes share.
            cookie: the value of the cookie.
            keyring: the API keys that are accepted now.
            now: Unix time in seconds.
        """
        if len(cookie) > _MAX_COOKIE:
            return None
        first, _, second = cookie.partition(".")
        try:
            content, signature = decode(first), decode(second)
            ends, _, name = content.decode().partition(" ")
            ends_at = int(ends)
        except ValueError:
            return None
        for known in self._digests_of(keyring).get(name, ()):
            if hmac.compare_digest(signature, _sign(secret, known, content)):
                principal = keyring.by_digest[known]
                expires = principal.expires_at_s
                expired = expires is not None and now >= expires
                return None if now >= ends_at or expired else principal
        return None

    def _digests_of(self, keyring: Keyring) -> Mapping[str, list[bytes]]:
        """Return the digests of the API keys by the name of their owner."""
        if keyring is not self._keyring:
            found: dict[str, list[bytes]] = {}
            for known, principal in keyring.by_digest.items():
                found.setdefault(principal.name, []).append(known)
            self._keyring, self._digests = keyring, found
        return self._digests


class FailedLogins:
    """Limits the failed logins of each address, in one process.

    IPv6 addresses with the same first 64 bits count as one, because one client has all of them.
    """

    def __init__(self) -> None:
        self._free_at: dict[str, float] = {}
        """When all failures of an address are forgotten, in seconds of a monotonic clock."""

    def wait_s(self, address: str, now: float) -> float:
        """Return how long the address has to wait for its next attempt, in seconds; 0 for none."""
        address = _network_of(address)
        return max(0.0, self._free_at.get(address, now) - now - (_FAILURES - 1) * _FAILURE_S)

    def count(self, address: str, now: float) -> None:
        """Count a failed login."""
        address = _network_of(address)
        free_at = max(now, self._free_at.pop(address, now)) + _FAILURE_S
        while len(self._free_at) >= _MAX_ADDRESSES:
            del self._free_at[next(iter(self._free_at))]  # the address that failed longest ago
        self._free_at[address] = free_at

    def forgive(self, address: str) -> None:
        """Take back one count, of a login that was counted before its result was known."""
        address = _network_of(address)
        if address in self._free_at:
            self._free_at[address] -= _FAILURE_S


def is_own_form(headers: Mapping[str, str], hosts: tuple[str, ...]) -> bool:
    """Return whether a page of this server has sent a form, and not a page of another site.

    Browsers send ``Origin`` with every form, and ``Sec-Fetch-Site`` over TLS and to localhost.

    Args:
        headers: the headers of the request, by lower-case name.
        hosts: the host names by which clients reach this server, with their ports.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(headers.get("origin", ""))
    return bool(origin.netloc) and origin.netloc.lower() in [host.lower() for host in hosts]


def _network_of(address: str) -> str:
    return str(ip_network((address, 64), strict=False)) if ":" in address else address


def _sign(secret: bytes, key_digest: bytes, content: bytes) -> bytes:
    key = hmac.digest(secret, b"ojs dashboard session" + key_digest, sha256)
    return hmac.digest(key, content, sha256)
