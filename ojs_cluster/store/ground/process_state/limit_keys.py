"""Limit the number of rate limit keys of each shard, because clients choose the keys.

A key's state is kept for a day after its last use, or for a minute when the shard has nearly
``MAX_KEYS`` keys (``store/include/limits/rate_limit_state.lua``). When the shard has ``MAX_KEYS``
keys, a job with a new key is refused.

The number of keys that a process knows may be two seconds old, or older while the shard does not
answer. So a job with a new key may be accepted although the shard is full. The limits that such a
job declares are not stored (``store/features/rate_limits/limit_set.lua``).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, TooManyRateLimitKeys
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.rate_limit import RateLimitPolicy
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.ground.partial_failures import before_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

MAX_KEYS: Final = 10_000
"""Maximum number of keys of one shard, as in ``store/include/limits/rate_limit_state.lua``."""
_MAX_AGE_S: Final = 2.0
"""Age in seconds above which the number of keys is read again."""
_MAX_WAIT_S: Final = 0.5
"""Longest time in seconds that an enqueue waits for the number of keys.

The wait is short, so that jobs in other shards are stored while the master of a key does not
answer."""


class RateLimitKeyCounts:
    """This process's copy of the number of rate limit keys of each shard."""

    def __init__(self) -> None:
        """Start with an empty copy."""
        self._counts: dict[int, tuple[float, int]] = {}

    async def check_jobs(self, store: Runtime, jobs: Iterable[NewJob]) -> None:
        """Check that the rate limit keys of jobs exist or may be added.

        Raises:
            TooManyRateLimitKeys: a key is new, and its shard has ``MAX_KEYS`` keys.
            BackendUnavailable: Redis did not answer in time.
        """
        for job in jobs:
            if job.rate_limit is not None and job.rate_limit.key:
                await self.check_key(store, job.rate_limit.key)

    async def check_key(self, store: Runtime, key: str) -> None:
        """Check that one rate limit key exists or may be added.

        Raises:
            TooManyRateLimitKeys: the key is new, and its shard has ``MAX_KEYS`` keys.
            BackendUnavailable: Redis did not answer in time.
        """
        shard = store.keys.shard_of_limit(key)
        if await self._count(store, shard) < MAX_KEYS:
            return
        with before_first_write():
            exists = await store.redis.call(
                shard.slot, "EXISTS", shard.rate_limit(key), idempotent=True
            )
        if not exists:
            raise TooManyRateLimitKeys(
                f"rate limit key '{key[:100]}' would be one more than the {MAX_KEYS} allowed in "
                "its shard: use fewer keys, or wait until some have been unused for a minute",
                key=key[:100],
            )

    async def has_limits(self, store: Runtime, policy: RateLimitPolicy) -> bool:
        """Return whether a rate limit key has the limits that a new job declares for it.

        Then the job need not declare them. The key is read for each job, because another process
        may have declared other limits since the last one. False when the key does not answer soon.
        """
        if not policy.key:
            return False
        shard = store.keys.shard_of_limit(policy.key)
        if not store.redis.is_responsive(shard.slot):
            return False
        await ensure_task()
        found: Any = None
        with trio.move_on_after(_MAX_WAIT_S), suppress(BackendUnavailable):
            found = await store.redis.call(
                shard.slot, "HGET", shard.rate_limit(policy.key), "limits", idempotent=True
            )
        return found is not None and found.decode() == policy.limits.packed()

    async def _count(self, store: Runtime, shard: Shard) -> int:
        """Return the number of keys that the shard answered last, 0 before its first answer."""
        read_at, count = self._counts.get(shard.index, (float("-inf"), 0))
        if trio.current_time() - read_at >= _MAX_AGE_S:
            work = partial(self._read_count, store, shard)
            found = await store.background.once(("limit keys", shard.index), work, _MAX_WAIT_S)
            if found is None:  # the answer may still come, and replaces the old count then
                self._counts[shard.index] = (trio.current_time(), count)
            else:
                count = found
        return count

    async def _read_count(self, store: Runtime, shard: Shard) -> int:
        found: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        self._counts[shard.index] = (trio.current_time(), int(found))
        return int(found)
