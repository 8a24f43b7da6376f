"""Fetch for a worker pool: choose the queues by the strategy of the pool.

The process reads the depths of the pool's queues together, and plans from which queue each job
comes. So an empty queue costs no call. The depths only guide the plan: if a queue has fewer jobs
than planned, the other queues fill the rest. A fetch returns no job only after it has read the
depths itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.core.pools.pool import STRICT
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch import (
    WorkerIsQuiet,
    collect,
    fetch_unless_quiet,
)
from ojs_cluster.store.engine.fetch.in_progress import FetchInProgress
from ojs_cluster.store.engine.fetch.ranked_fetch import (
    fetch_in_order,
    filled_queues,
    read_all_depths,
)
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.depth_reader import QueueInShard
from ojs_cluster.store.ground.process_state.pool_table import PoolDepths, PoolState

DEPTHS_S: Final = 0.1
"""Age in seconds at which the depths of a pool's queues are read again."""
_MAX_ROUNDS: Final = 8
"""Maximum number of plans of one fetch. Then it takes the first jobs that it finds.

A queue may have jobs and yet return none, because its rate limit allows no start."""


async def fetch_for_pool(
    state: PoolState,
    store: Store,
    queues: Sequence[str],
    count: int,
    worker_id: str,
    visibility_timeout_ms: int | None,
    tenant: str = "",
    types: str = "",
) -> list[JobRecord]:
    """Fetch as ``fetch_unless_quiet`` does, but choose the queues by the strategy of the pool.

    Args:
        state: the pool.
        store: the store.
        queues: queues of the pool, in the order of the pool. Only these are used.
        count: maximum number of jobs.
        worker_id: the holder of the leases, '' for an anonymous worker.
        visibility_timeout_ms: length of the leases in milliseconds; None for that of each job.
        tenant: the tenant whose jobs are fetched, '' for any.
        types: the job types that the worker runs, as ``pack_types``; '' for any.

    Raises:
        WorkerIsQuiet, BackendUnavailable: as ``fetch_unless_quiet``.
    """
    state.fetches += 1
    if state.pool.strategy == STRICT:
        jobs = await fetch_unless_quiet(
            store, queues, count, worker_id, visibility_timeout_ms, tenant, types
        )
    else:
        await ensure_task()
        # The depths count the jobs of all tenants, so they are no plan for a fetch of one tenant.
        run = partial(_take_first_jobs if tenant else _run, state, store, queues)
        jobs = await collect(store, count, worker_id, visibility_timeout_ms, run, tenant, types)
    for job in jobs:
        state.count(job.queue)
    return jobs


async def _run(
    state: PoolState, store: Store, queues: Sequence[str], fetch: FetchInProgress
) -> Exception | None:
    """Fetch by plans until there are enough jobs; return the failure of a shard."""
    began = trio.current_time()
    depths = state.depths(fetch.types)
    failure = await _refresh(state, store, fetch.types, DEPTHS_S)
    count = fetch.wanted
    for _ in range(_MAX_ROUNDS):
        if not fetch.wanted or fetch.full:
            return failure
        planned = state.plan(fetch.wanted, depths.of(queues))
        if planned:
            error = await _carry_out(state, store, planned, depths, fetch)
            if error is not None and not isinstance(error, OJSError):
                return error  # the worker is quiet
            failure = failure or error
        elif fetch.wanted < count or depths.read_began >= began:
            break
        else:
            failure = failure or await _refresh(state, store, fetch.types, 0)
    if fetch.wanted < count:
        return failure
    may_have_jobs = bool(depths.of(queues)) or depths.any_blocked(queues)
    if failure is None and depths.read_began >= began and not may_have_jobs:
        return None
    return await _take_first_jobs(state, store, queues, fetch)


async def _refresh(
    state: PoolState, store: Store, types: str, max_age_s: float
) -> Exception | None:
    """Read the depths of all queues of the pool for some types, unless they are fresh."""
    found = state.depths(types)
    if found.are_fresh(max_age_s):
        return None
    began = trio.current_time()
    stages = store.partitions.group_queues(store.keys, state.pool.queues)
    queues: dict[Shard, list[str]] = {}
    for shards, names in stages:
        for shard in shards:
            queues.setdefault(shard, []).extend(names)
    depths, failure = await read_all_depths(store, queues, types)
    found.replace(filled_queues(store, stages, depths), began)
    return failure


async def _carry_out(
    state: PoolState,
    store: Store,
    planned: dict[str, int],
    depths: PoolDepths,
    fetch: FetchInProgress,
) -> Exception | None:
    """Fetch planned jobs; return the first failure, that of a quiet worker before others."""
    missing = dict(planned)
    failures: list[Exception] = []

    async def fetch_part(call: tuple[QueueInShard, int]) -> None:
        part, count = call
        taken = 0
        try:
            taken = await fetch.take(part.shard, [part.queue], count)
        except OJSError as error:
            if isinstance(error, BackendUnavailable) and not isinstance(error, OutOfTime):
                store.depth_reader.mark_unreachable(part.shard)
            failures.append(error)
        except WorkerIsQuiet as error:
            failures.append(error)
        missing[part.queue] -= taken
        if taken < count:
            part.depth = 0

    try:
        await run_concurrently(depths.subtract(planned), fetch_part)
    finally:
        for queue, count in missing.items():
            if count:
                state.undo(queue, count)
    return min(failures, key=lambda error: isinstance(error, OJSError), default=None)


async def _take_first_jobs(
    state: PoolState, store: Store, queues: Sequence[str], fetch: FetchInProgress
) -> Exception | None:
    """Take the first jobs that can start, from the queues whose turn is next."""
    if state.shares is None:
        await _refresh(state, store, fetch.types, DEPTHS_S)
        depths = state.depths(fetch.types).of(queues)
        ordered = sorted(queues, key=lambda queue: -depths.get(queue, 0))
    else:
        ordered = state.shares.order(queues)
    failure = await fetch_in_order(store, store.partitions.group_queues(store.keys, ordered), fetch)
    if state.shares is not None:
        for queue, count in Counter(job.queue for job in fetch.jobs).items():
            state.shares.add(queue, count)
    return failure
