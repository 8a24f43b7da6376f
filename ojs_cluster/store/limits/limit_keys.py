"""How many rate limit keys a shard has: their names come from clients.

The state of a key is kept for a day after its last use, or for a minute where the shard has nearly
as many as it may (``store/include/limits/rate_limit_state.lua``). A job that names one more is
refused. Each process reads the number of a shard's keys every two seconds at most, so they may
exceed it by what comes in that time, or while the shard does not answer; of those a declaration
alone stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import TooManyRateLimitKeys
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.store.partial_failures import only_read

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

MOST_KEYS: Final = 10_000
"""Keys of one shard. Twin of ``store/include/limits/rate_limit_state.lua``."""
_BELIEVED_S: Final = 2.0
_PATIENCE_S: Final = 0.5
"""Longest wait for a shard's number: while its master is away, jobs of other masters are stored."""


class LimitKeys:
    """What this process has read of the numbers of keys. Bounded by the number of shards."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._read: dict[int, tuple[float, int]] = {}

    async def admit(self, store: Runtime, jobs: Iterable[NewJob]) -> None:
        """Check that there is room for the keys that jobs name.

        Raises:
            TooManyRateLimitKeys: there is none for one of them.
            BackendUnavailable: Redis did not answer in time.
        """
        for job in jobs:
            if job.rate_limit is not None and job.rate_limit.key:
                await self.admit_key(store, job.rate_limit.key)

    async def admit_key(self, store: Runtime, key: str) -> None:
        """Check that there is room for one key. Raises as ``admit``."""
        shard = store.keys.shard_of_limit(key)
        if await self._number(store, shard) < MOST_KEYS:
            return
        with only_read():
            known = await store.redis.call(
                shard.slot, "EXISTS", shard.rate_limit(key), idempotent=True
            )
        if not known:
            raise TooManyRateLimitKeys(
                f"rate limit key '{key[:100]}' would be one more than the {MOST_KEYS} allowed in "
                "its shard: use fewer keys, or wait until some are unused for a minute",
                key=key[:100],
            )

    async def _number(self, store: Runtime, shard: Shard) -> int:
        """How many keys the shard had when it answered last; 0 when it never did."""
        read_at, number = self._read.get(shard.index, (float("-inf"), 0))
        if trio.current_time() - read_at >= _BELIEVED_S:
            work = partial(self._look, store, shard)
            found = await store.background.once(("limit keys", shard.index), work, _PATIENCE_S)
            number = number if found is None else found
            self._read[shard.index] = (trio.current_time(), number)
        return number

    async def _look(self, store: Runtime, shard: Shard) -> int:
        found: Any = await store.redis.call(shard.slot, "ZCARD", shard.rate_limits, idempotent=True)
        return int(found)
