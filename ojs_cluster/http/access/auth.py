"""Whose request it is, and whether that key may make it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import ceil
from typing import Final

from ojs_cluster.core.access.scopes import (
    EVERYBODY,
    Keyring,
    Principal,
    digest,
    named_after_variables,
)
from ojs_cluster.core.errors import PermissionDenied, RateLimited, Unauthenticated
from ojs_cluster.http.router import Reach, Route

_EMPTY_KEY: Final = digest("")


class Access:
    """The keys that a process accepts now, and what their holders have used of their rates.

    Each process counts requests on its own: a rate that all processes share would cost a round trip
    to Redis for every request.
    """

    def __init__(
        self, keyring: Keyring, *, allow_insecure: bool = False, refuse_all: bool = False
    ) -> None:
        """Accept the keys of ``keyring``; without any, accept every client.

        Args:
            keyring: the keys.
            allow_insecure: whether serving without any key is allowed.
            refuse_all: without any key, accept no client, until `replace` gives some.

        Raises:
            ValueError: there is neither a key nor leave to serve without one: an open job server
                is something a person decides, not something that happens. Or a key is empty.
        """
        if _EMPTY_KEY in keyring.by_digest:
            raise ValueError("an API key must not be empty")
        if keyring.is_empty and not allow_insecure and not refuse_all:
            raise ValueError("no API key is set, and serving without one is not allowed")
        self._keyring = keyring
        self._open = keyring.is_empty and allow_insecure
        self._used: dict[str, _Bucket] = {}

    @classmethod
    def of_keys(cls, keys: Iterable[str], *, allow_insecure: bool = False) -> Access:
        """Accept these secrets, each with all scopes. Raises ValueError as the constructor does."""
        keyring = Keyring(named_after_variables("", keys), {})
        return cls(keyring, allow_insecure=allow_insecure)

    @property
    def keyring(self) -> Keyring:
        """The keys that are accepted now; another object once they have changed."""
        return self._keyring

    def replace(self, keyring: Keyring) -> None:
        """Accept the keys of ``keyring`` from now on, and no others; it must not be empty."""
        if keyring.is_empty:
            raise ValueError("no API key is left")
        self._keyring = keyring
        self._open = False
        self._used.clear()

    def identify(self, authorization: str | None, tls_subject: str = "") -> Principal:
        """Return whose request it is.

        Args:
            authorization: the value of the header Authorization, which goes before the certificate.
            tls_subject: the subject of the client's verified certificate, empty for none.

        Raises:
            Unauthenticated: nobody's, or that of a key that has expired.
        """
        if self._open:
            return EVERYBODY
        if authorization is None and tls_subject:
            found = self._keyring.by_subject.get(tls_subject)
            if found is None:
                raise Unauthenticated("no API key is mapped to the client's certificate")
        else:
            scheme, _, token = (authorization or "").partition(" ")
            if scheme != "Bearer" and scheme.lower() != "bearer":
                raise Unauthenticated("this server needs an API key")
            found = self._keyring.find(token.strip())
            if found is None:
                raise Unauthenticated("the API key is not valid")
        if found.expires_at_s is not None and time.time() >= found.expires_at_s:
            raise Unauthenticated(f"the API key '{found.name}' has expired", principal=found.name)
        return found

    def permit(self, principal: Principal, route: Route) -> None:
        """Count a request against the principal's rate, and check that it may use the route.

        Raises:
            RateLimited: it has made too many requests.
            PermissionDenied: it lacks the route's scope, or may not reach every queue.
        """
        if principal.requests_per_second is not None:
            self._charge(principal, principal.requests_per_second)
        if route.scope is not None and route.scope not in principal.scopes:
            raise PermissionDenied(
                f"the API key '{principal.name}' lacks the scope {route.scope.value}",
                required_scope=route.scope.value,
                principal=principal.name,
            )
        if principal.queues is not None and route.reach is Reach.CLUSTER:
            raise PermissionDenied(
                f"the API key '{principal.name}' may reach some queues only, and this is about "
                "the whole cluster",
                principal=principal.name,
            )

    def _charge(self, principal: Principal, rate: float) -> None:
        bucket = self._used.get(principal.name)
        if bucket is None:
            bucket = self._used[principal.name] = _Bucket(rate)
        wait_s = bucket.take(time.monotonic())
        if wait_s > 0:
            raise RateLimited(
                f"the API key '{principal.name}' is limited to {rate:g} requests per second",
                retry_after_s=ceil(wait_s),
                principal=principal.name,
            )


class _Bucket:
    """A token bucket that holds the requests of one second, and at least one."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._tokens = self._most
        self._at = time.monotonic()

    def take(self, now: float) -> float:
        """Take a token and return 0, or return after how many seconds there is one."""
        self._tokens = min(self._most, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
