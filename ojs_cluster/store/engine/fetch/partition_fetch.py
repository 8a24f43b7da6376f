"""Fetch from a queue that has several partitions.

Calling every partition in each fetch was refused: it would cost more than partitions save. A fetch
first calls a partition that had jobs less than a second ago (``depth_cache``). On a busy queue that
is the only call. If this returns no job, or if no depths are known, the fetch reads the depths of
all partitions at once with a read-only script. Then it calls the partitions that have jobs. So a
fetch returns no job only after it has checked every partition.
"""

from __future__ import annotations

from functools import partial

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.packed_calls import PackedReads, pack_call
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.in_progress import FetchInProgress
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.depth_cache import QueueDepths

PEEK_S = 1.0
"""Longest time in seconds to repeat the read of a partition that has refused or lost the first."""
_MAX_MISSES = 2
"""Number of calls without a job after which the depths are read again."""


async def fetch_from_partitions(
    store: Store, queue: str, shards: list[Shard], fetch: FetchInProgress
) -> None:
    """Fetch from partitions of a queue until the fetch has its jobs or all partitions are empty.

    If a partition does not answer, the jobs of the others are still fetched.

    Args:
        store: the store.
        queue: the queue's name.
        shards: the shard of each partition.
        fetch: the fetch that wants the jobs.

    Raises:
        BackendUnavailable: some partitions did not answer, and the others had too few jobs.
        WorkerIsQuiet: the worker may not fetch.
    """
    await ensure_task()
    # If a tenant has no jobs in a partition, others may have some. So these depths are not shared.
    depths = (
        QueueDepths(len(shards))
        if fetch.tenant
        else store.depth_cache.of(queue, len(shards), fetch.types)
    )
    first_closing = store.partitions.layout(queue).count
    empty: set[int] = set()
    failure: OJSError | None = None

    async def fetch_likely(max_misses: int) -> None:
        nonlocal failure
        misses = 0
        while fetch.wanted and misses < max_misses:
            number = depths.pick(fetch.wanted, empty, first_closing)
            if number is None:
                return
            wanted_before = fetch.wanted
            try:
                remaining = await fetch.fetch_from(shards[number], [queue], with_depth=True)
            except OJSError as error:
                failure = failure or error
                if isinstance(error, OutOfTime):
                    raise
                depths.mark_unreachable(number)
                continue
            except BaseException:
                depths.mark_filled(number)  # ``pick`` has subtracted jobs that were not fetched
                raise
            missed = fetch.wanted == wanted_before
            misses += missed
            if fetch.wanted:
                empty.add(number)
            # If the call returned no job, the remaining jobs cannot start at present.
            depths.set_depth(number, 0 if missed else remaining)

    if depths.fresh:
        await fetch_likely(_MAX_MISSES)
    if fetch.wanted:
        await depths.refresh(partial(_read_all, store, queue, shards, depths, fetch))
        await fetch_likely(len(shards))
    unreachable = len(shards) - len(depths.reachable())
    if fetch.wanted and unreachable:
        raise failure or BackendUnavailable(
            f"{unreachable} of {len(shards)} partitions of queue '{queue}' cannot be reached",
            outcome="not_applied",
        )


async def _read_all(
    store: Store, queue: str, shards: list[Shard], depths: QueueDepths, fetch: FetchInProgress
) -> None:
    """Read the depth of every partition that is not skipped."""
    script, tenant, args = store.scripts["peek_depth"], fetch.tenant, [fetch.types, fetch.tenant]
    keys_of = {
        number: [
            shard.tenant_queue(queue, tenant) if tenant else shard.queue_available(queue),
            shard.queue_counters(queue),
            shard.due,
            shard.queue_blocked(queue),
        ]
        for number, shard in enumerate(shards)
    }

    async def read(number: int) -> None:
        keys = keys_of[number]
        try:
            with trio.fail_after(PEEK_S):
                depth = await store.run(shards[number], "peek_depth", keys, args, idempotent=True)
            depths.set_depth(number, depth)
        except OutOfTime:
            raise
        except (BackendUnavailable, trio.TooSlowError):
            depths.mark_unreachable(number)

    reachable = depths.reachable()
    answers = await store.redis.read_each(
        [
            PackedReads(shards[number].slot, pack_call(script, keys_of[number], args))
            for number in reachable
        ]
    )
    to_repeat = []
    for number, answer in zip(reachable, answers, strict=True):
        if answer and isinstance(answer[0], int):
            depths.set_depth(number, answer[0])
        elif store.redis.is_silent(shards[number].slot):
            depths.mark_unreachable(number)
        else:
            to_repeat.append(number)
    await run_concurrently(to_repeat, read)
