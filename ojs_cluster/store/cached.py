"""An expensive value, computed once for all callers that need it at about the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from ojs_cluster.core.errors import OutOfTime
from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")


class Cached(Generic[T]):
    """Computes a value on demand and keeps it for a while.

    Args:
        compute: computes the value.
        kept_s: how long to keep a value, in seconds, given how many seconds its computation took.
    """

    def __init__(
        self, compute: Callable[[], Awaitable[T]], kept_s: Callable[[float], float]
    ) -> None:
        self._compute = compute
        self._kept_s = kept_s
        self._lock = trio.Lock()
        self._found: tuple[T, float] | None = None
        self._failed: tuple[Exception, float] | None = None

    async def get(self) -> T:
        """Return the value, computed again unless the last one is still kept.

        Raises:
            Exception: what ``compute`` raises. Waiting callers raise it too: if each of them tried
                again, the last would wait for all attempts. Later callers compute again.
        """
        await ensure_task()
        called_at = trio.current_time()
        async with self._lock:  # waiting callers share one computation
            began = trio.current_time()
            if self._failed is not None and called_at < self._failed[1]:
                raise self._failed[0]
            if self._found is None or began >= self._found[1]:
                try:
                    value = await self._compute()
                except OutOfTime:
                    raise  # a waiting caller may have more time
                except Exception as error:
                    self._failed = (error, trio.current_time())
                    raise
                ended = trio.current_time()
                self._found = (value, ended + self._kept_s(ended - began))
            return self._found[0]
