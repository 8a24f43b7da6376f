"""The number of rate limit keys of each shard, which is bounded because clients name the keys.

A key's state is kept for a day after its last use, or for a minute where the shard has nearly as
many keys as it may (``store/include/limits/rate_limit_state.lua``). A job that names one more key
is refused.

Each process reads the number of a shard's keys every two seconds at most. So a shard may exceed the
bound by the keys that arrive in that time, or while the shard does not answer. A declaration of
such a key stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import TooManyRateLimitKeys
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.store.partial_failures import before_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

MAX_KEYS: Final = 10_000
"""Most keys of one shard. Twin of ``store/include/limits/rate_limit_state.lua``."""
_MAX_AGE_S: Final = 2.0
"""Age in seconds above which a number is read again."""
_MAX_WAIT_S: Final = 0.5
"""Longest time in seconds that a job waits for a number.

So while one master is away, jobs of other masters are still stored."""


class RateLimitKeyCounts:
    """This process's copy of the number of keys of each shard."""

    def __init__(self) -> None:
        """Start with an empty copy."""
        self._counts: dict[int, tuple[float, int]] = {}

    async def check_jobs(self, store: Runtime, jobs: Iterable[NewJob]) -> None:
        """Check that the keys of jobs exist or may be added.

        Raises:
            TooManyRateLimitKeys: the shard of a key has as many keys as it may.
            BackendUnavailable: Redis did not answer in time.
        """
        for job in jobs:
            if job.rate_limit is not None and job.rate_limit.key:
                await self.check_key(store, job.rate_limit.key)

    async def check_key(self, store: Runtime, key: str) -> None:
        """Check that one key exists or may be added.

        Raises:
            TooManyRateLimitKeys: its shard has as many keys as it may.
            BackendUnavailable: Redis did not answer in time.
        """
        shard = store.keys.shard_of_limit(key)
        if await self._count(store, shard) < MAX_KEYS:
            return
        with before_first_write():
            known = await store.redis.call(
                shard.slot, "EXISTS", shard.rate_limit(key), idempotent=True
            )
        if not known:
            raise TooManyRateLimitKeys(
                f"rate limit key '{key[:100]}' would be one more than the {MAX_KEYS} allowed in "
                "its shard: use fewer keys, or wait until some have been unused for a minute",
                key=key[:100],
            )

    async def _count(self, store: Runtime, shard: Shard) -> int:
        """Return the number of keys in the shard's last answer; 0 before its first."""
        read_at, count = self._counts.get(shard.index, (float("-inf"), 0))
        if trio.current_time() - read_at >= _MAX_AGE_S:
            work = partial(self._read_count, store, shard)
            found = await store.background.once(("limit keys", shard.index), work, _MAX_WAIT_S)
            count = count if found is None else found
            self._counts[shard.index] = (trio.current_time(), count)
        return count

    async def _read_count(self, store: Runtime, shard: Shard) -> int:
        found: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        return int(found)
