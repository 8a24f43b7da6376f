"""Cache an expensive value, so that concurrent callers share one computation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import trio

from ojs_cluster.core.errors import OutOfTime
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.ground.background import Background

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Kept(Generic[T]):
    """A computed value.

    Attributes:
        value: the value.
        expires_at: until when it is returned as it is, in seconds of trio's clock.
        unusable_at: until when it is returned while the next one is computed.
    """

    value: T
    expires_at: float
    unusable_at: float


class Cached(Generic[T]):
    """Computes a value when a caller needs it, and keeps the value for some time.

    Args:
        compute: computes the value.
        kept_s: takes a value and the duration of its computation in seconds, and returns how long
            the value is kept, in seconds.
        background: computes the next value while callers get the last one; None if callers always
            wait.
        max_age_s: takes a value, and returns the age in seconds up to which callers get it while
            the background task computes the next one. 0 lets the callers wait.
    """

    def __init__(
        self,
        compute: Callable[[], Awaitable[T]],
        kept_s: Callable[[T, float], float],
        *,
        background: Background | None = None,
        max_age_s: Callable[[T], float] = lambda _value: 0.0,
    ) -> None:
        self._compute = compute
        self._kept_s = kept_s
        self._background = background
        self._max_age_s = max_age_s
        self._lock = trio.Lock()
        self._kept: _Kept[T] | None = None
        self._failed: tuple[Exception, float] | None = None  # the last failure and its time

    async def get(self) -> T:
        """Return the value, computed again unless the last one is still kept.

        Raises:
            Exception: what ``compute`` raises. Callers that have waited for the computation raise
                the same exception: if each of them computed again, the last one would wait for all
                computations. Later callers compute again.
        """
        kept, called_at = self._kept, trio.current_time()
        if kept is not None and called_at < kept.expires_at:
            return kept.value  # without a checkpoint, which would cost most of a shared reply
        await ensure_task()
        if self._background is not None and kept is not None and called_at < kept.unusable_at:
            await self._background.once((self, "next value"), self._get_next, 0)
            return kept.value
        return await self._get_next()

    async def _get_next(self) -> T:
        called_at = trio.current_time()
        async with self._lock:  # callers that wait for the lock share the result
            began = trio.current_time()
            if self._failed is not None and called_at < self._failed[1]:
                raise self._failed[0]
            if self._kept is None or began >= self._kept.expires_at:
                try:
                    value = await self._compute()
                except OutOfTime:
                    raise  # a waiting caller may have more time left, so it computes again
                except Exception as error:
                    self._failed = (error, trio.current_time())
                    raise
                ended = trio.current_time()
                expires_at = ended + self._kept_s(value, ended - began)
                # The value has the age of its computation's beginning.
                unusable_at = max(expires_at, began + self._max_age_s(value))
                self._kept = _Kept(value, expires_at, unusable_at)
            return self._kept.value
