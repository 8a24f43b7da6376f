"""Keep what the OpenID provider says about itself, also while the provider is down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import Final, Generic, TypeVar

import trio

from ojs_cluster.ui.sign_on.failure import SignOnFailed

_FRESH_S: Final = 3600.0
"""How long a value is used without a request, in seconds."""
_USABLE_S: Final = 24 * 3600.0
"""How long a value is used if no request succeeds, in seconds."""
_RETRY_S: Final = 60.0
"""Minimum time in seconds between two requests while an old value is used."""
_FAILURE_S: Final = 5.0
"""How long a failure is returned without a request, in seconds."""

T = TypeVar("T")


class Kept(Generic[T]):
    """A value of the provider.

    Args:
        fetch: requests the value; raises ``SignOnFailed``.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]]) -> None:
        self._fetch = fetch
        self._value: T | None = None
        self._fetched_at = self._tried_at = -inf
        self._failure: tuple[SignOnFailed, float] | None = None  # the last one and its time
        self._lock = trio.Lock()
        self.fetches = 0
        """The number of requests that have succeeded."""

    async def get(self) -> T:
        """Return the value: a fresh one, or an old one while the provider does not answer.

        Raises:
            SignOnFailed: there is no value that is young enough, and the request has failed.
        """
        now = trio.current_time()
        age_s = now - self._fetched_at
        if self._value is None or age_s >= _USABLE_S:
            return await self.renew()
        if age_s >= _FRESH_S and now - self._tried_at >= _RETRY_S:
            try:
                return await self.renew()
            except SignOnFailed:
                return self._value
        return self._value

    async def renew(self) -> T:
        """Request the value. Concurrent callers share the request, or its failure.

        Raises:
            SignOnFailed: the request has failed, or one has failed some seconds ago.
        """
        fetches = self.fetches
        async with self._lock:
            if self._value is not None and self.fetches != fetches:
                return self._value
            self._tried_at = now = trio.current_time()
            if self._failure is not None and now - self._failure[1] < _FAILURE_S:
                raise self._failure[0].repeated()
            try:
                value = await self._fetch()
            except SignOnFailed as failure:
                self._failure = failure, trio.current_time()
                raise
            self._value, self._fetched_at = value, trio.current_time()
            self.fetches += 1
            return value
