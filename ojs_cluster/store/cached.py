"""Cache an expensive value, so that concurrent callers share one computation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from ojs_cluster.core.errors import OutOfTime
from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")


class Cached(Generic[T]):
    """Computes a value when a caller needs it, and keeps the value for some time.

    Args:
        compute: computes the value.
        kept_s: takes the duration of a computation in seconds, and returns how long its value is
            kept, in seconds.
    """

    def __init__(
        self, compute: Callable[[], Awaitable[T]], kept_s: Callable[[float], float]
    ) -> None:
        self._compute = compute
        self._kept_s = kept_s
        self._lock = trio.Lock()
        self._cached: tuple[T, float] | None = None  # the value, and until when it is kept
        self._failed: tuple[Exception, float] | None = None  # the last failure and its time

    async def get(self) -> T:
        """Return the value, computed again unless the last one is still kept.

        Raises:
            Exception: what ``compute`` raises. Callers that have waited for the computation raise
                the same exception: if each of them computed again, the last one would wait for all
                computations. Later callers compute again.
        """
        await ensure_task()
        called_at = trio.current_time()
        async with self._lock:  # callers that wait for the lock share the result
            began = trio.current_time()
            if self._failed is not None and called_at < self._failed[1]:
                raise self._failed[0]
            if self._cached is None or began >= self._cached[1]:
                try:
                    value = await self._compute()
                except OutOfTime:
                    raise  # a waiting caller may have more time left, so it computes again
                except Exception as error:
                    self._failed = (error, trio.current_time())
                    raise
                ended = trio.current_time()
                self._cached = (value, ended + self._kept_s(ended - began))
            return self._cached[0]
