"""Where a fetch looks for jobs of a queue that has several partitions.

Asking all of them each time would cost as much as not having them. So a fetch goes where this
process saw jobs less than a second ago (see ``hints``), which on a busy queue is one call. Only
when that gives nothing, or nothing is known, are the partitions looked at, all at once and by a
script that changes nothing; then those that have jobs are asked. So a fetch that comes back empty
has looked everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.fetch.depth_cache import Sizes

PEEK_S = 1.0
"""A partition that takes longer to be looked at is left alone for a while."""
_MISSES = 2
"""Partitions asked in vain before what is remembered is not trusted any more."""


class Asking(Protocol):
    """A fetch under way."""

    @property
    def wanted(self) -> int:
        """How many jobs more."""
        ...

    async def ask(self, shard: Shard, queues: Sequence[str]) -> int:
        """Ask a shard; returns how many jobs the first queue has left there."""
        ...


async def ask_partitions(store: Store, queue: str, shards: list[Shard], asking: Asking) -> None:
    """Ask the partitions of a queue until the fetch has what it wants, or all are empty.

    One that cannot be asked does not keep the jobs of the others back.

    Raises:
        BackendUnavailable: some could not be asked, and the others had not enough.
        Quiet: the worker may not fetch.
    """
    await ensure_task()
    sizes, parts = store.hints.of(queue, len(shards)), store.partitions.layout(queue).count
    empty: set[int] = set()
    failure: OJSError | None = None

    async def ask_likely(most_misses: int) -> None:
        nonlocal failure
        misses = 0
        while asking.wanted and misses < most_misses:
            number = sizes.pick(asking.wanted, empty, parts)
            if number is None:
                return
            before = asking.wanted
            try:
                left = await asking.ask(shards[number], [queue])
            except OJSError as error:
                failure = failure or error
                if isinstance(error, OutOfTime):
                    raise
                sizes.failed(number)
                continue
            except BaseException:
                sizes.filled(number)  # whoever it was, it took nothing
                raise
            misses += asking.wanted == before
            if asking.wanted:
                empty.add(number)
            # What is left and was not given, nobody may have just now.
            sizes.see(number, 0 if asking.wanted == before else left)

    if sizes.fresh:
        await ask_likely(_MISSES)
    if asking.wanted:
        await sizes.look(partial(_look, store, queue, shards, sizes))
        await ask_likely(len(shards))
    away = len(shards) - len(sizes.up())
    if asking.wanted and away:
        raise failure or BackendUnavailable(
            f"{away} of {len(shards)} partitions of queue '{queue}' cannot be reached",
            outcome="not_applied",
        )


async def _look(store: Store, queue: str, shards: list[Shard], sizes: Sizes) -> None:
    """Look how many jobs each partition has."""

    async def look(number: int) -> None:
        shard = shards[number]
        keys = [
            shard.queue_available(queue),
            shard.queue_counters(queue),
            shard.due,
            shard.queue_blocked(queue),
        ]
        try:
            with trio.fail_after(PEEK_S):
                sizes.see(number, await store.run(shard, "peek_depth", keys, idempotent=True))
        except OutOfTime:
            raise
        except (BackendUnavailable, trio.TooSlowError):
            sizes.failed(number)

    await over_shards(sizes.up(), look)
