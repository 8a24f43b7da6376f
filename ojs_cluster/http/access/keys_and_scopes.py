"""Check the API key or client certificate of a request, its scope for the route, and its rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil
from typing import Final

from ojs_cluster.core.access.scopes import (
    ANONYMOUS,
    Keyring,
    Principal,
    digest,
)
from ojs_cluster.core.errors import PermissionDenied, RateLimited, Unauthenticated
from ojs_cluster.http.routing.router import QueueAccess, Route
from ojs_cluster.wall_clock import wall_s

_EMPTY_KEY: Final = digest("")


class AccessControl:
    """The API keys that a process accepts, and the request rates of their clients.

    Each process counts only the requests that it receives. Counting the requests of all processes
    together was refused: it would take a call of Redis for every request.
    """

    def __init__(
        self, keyring: Keyring, *, allow_insecure: bool = False, refuse_all: bool = False
    ) -> None:
        """Accept the API keys of ``keyring``.

        Args:
            keyring: the API keys.
            allow_insecure: whether the process accepts every client if there is no API key.
            refuse_all: whether the process accepts no client if there is no API key, until
                ``replace`` sets API keys.

        Raises:
            ValueError: an API key is empty, or there is no API key and neither ``allow_insecure``
                nor ``refuse_all`` is set. An operator has to choose an open server explicitly.
        """
        if _EMPTY_KEY in keyring.by_digest:
            raise ValueError("an API key must not be empty")
        if keyring.is_empty and not allow_insecure and not refuse_all:
            raise ValueError("no API key is set, and serving without one is not allowed")
        self._keyring = keyring
        self._open = keyring.is_empty and allow_insecure
        self._buckets: dict[str, _TokenBucket] = {}
        self.now_s: Callable[[], float] = wall_s
        """The clock that API keys expire by: that of Redis as soon as the store is open."""

    @property
    def keyring(self) -> Keyring:
        """The accepted API keys. Each change replaces this object."""
        return self._keyring

    @property
    def is_open(self) -> bool:
        """Whether the process accepts every client, because there is no API key."""
        return self._open

    def replace(self, keyring: Keyring) -> None:
        """Accept only the API keys of ``keyring`` from now on.

        Raises:
            ValueError: ``keyring`` has no API key.
        """
        if keyring.is_empty:
            raise ValueError("no API key is left")
        self._keyring = keyring
        self._open = False
        self._buckets.clear()

    def is_current(self, principal: Principal) -> bool:
        """Return whether a principal that was authenticated earlier is still accepted."""
        if self._open:
            return principal is ANONYMOUS
        keyring, expires = self._keyring, principal.expires_at_s
        known = (
            principal.is_vouched
            or principal in keyring.by_digest.values()
            or principal in keyring.by_subject.values()
        )
        return known and (expires is None or self.now_s() < expires)

    def authenticate(self, authorization: str | None, tls_subject: str = "") -> Principal:
        """Return the principal of a request.

        Args:
            authorization: the value of the header Authorization. It has priority over the
                certificate.
            tls_subject: the subject of the client's verified certificate, empty for none.

        Raises:
            Unauthenticated: there is no valid API key, or it has expired.
        """
        if self._open:
            return ANONYMOUS
        if authorization is None and tls_subject:
            principal = self._keyring.by_subject.get(tls_subject)
            if principal is None:
                raise Unauthenticated("no API key is mapped to the client's certificate")
        else:
            scheme, _, token = (authorization or "").partition(" ")
            if scheme != "Bearer" and scheme.lower() != "bearer":
                raise Unauthenticated("this server needs an API key")
            principal = self._keyring.find(token.strip())
            if principal is None:
                raise Unauthenticated("the API key is not valid")
        if principal.expires_at_s is not None and self.now_s() >= principal.expires_at_s:
            raise Unauthenticated(
                f"the API key '{principal.name}' has expired", principal=principal.name
            )
        return principal

    def authorize(self, principal: Principal, route: Route) -> None:
        """Count a request against the principal's rate, and check that it may use the route.

        Raises:
            RateLimited: the principal has made too many requests.
            PermissionDenied: the principal lacks the scope of the route, or it is restricted to
                some queues and the route is about the whole cluster.
        """
        self.count_request(principal)
        if route.scope is not None and route.scope not in principal.scopes:
            raise PermissionDenied(
                f"the API key '{principal.name}' lacks the scope {route.scope.value}",
                required_scope=route.scope.value,
                principal=principal.name,
            )
        if principal.queues is not None and route.queue_access is QueueAccess.CLUSTER:
            raise PermissionDenied(
                f"the API key '{principal.name}' may access some queues only, and this request is "
                "about the whole cluster",
                principal=principal.name,
            )

    def count_request(self, principal: Principal) -> None:
        """Count a request against the principal's rate.

        Raises:
            RateLimited: the principal has made too many requests.
        """
        rate = principal.requests_per_second
        if rate is None:
            return
        bucket = self._buckets.get(principal.name)
        if bucket is None:
            bucket = self._buckets[principal.name] = _TokenBucket(rate)
        wait_s = bucket.take_token(time.monotonic())
        if wait_s > 0:
            raise RateLimited(
                f"the API key '{principal.name}' is limited to {rate:g} requests per second",
                retry_after_s=ceil(wait_s),
                principal=principal.name,
            )


class _TokenBucket:
    """A token bucket. Its capacity is the number of requests of one second, but at least 1."""

    def __init__(self, rate: float) -> None:
        self._rate = rate  # tokens per second
        self._capacity = max(1.0, rate)
        self._tokens = self._capacity
        self._updated_at = time.monotonic()

    def take_token(self, now: float) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""
        self._tokens = min(self._capacity, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._rate
