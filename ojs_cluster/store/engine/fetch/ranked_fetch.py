"""Fetch from queues of many shards: find those with jobs, and fetch the first jobs in order.

Calling one shard after the other was refused: with many empty queues, the first job would come only
after many sequential calls. Instead, one burst of plain commands for each master finds the queues
that may have jobs. A read-only script reads the depths of the first of them. The fetch then plans
how many jobs to fetch from each queue, in the order of the queues, and calls the shards
concurrently. If these have too few jobs, the next queues follow.

The order is kept: jobs of a queue are fetched only after all jobs of the earlier queues. When a
shard returns fewer jobs than it had, because other fetches were faster, the next round fetches the
rest from the following queues.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from ojs_cluster.core.errors import BackendUnavailable, OJSError, OutOfTime
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.fetch.fetch_script import queues_per_call
from ojs_cluster.store.engine.fetch.in_progress import FetchInProgress
from ojs_cluster.store.engine.queues.deadlines import promote
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.depth_reader import BLOCKED, FilledQueues, QueueInShard

READ_S = 1.0
"""Longest time in seconds to repeat the read of a shard that has refused or lost the first one."""
_FIRST_SHARDS = 4
"""Number of shards whose depths a fetch reads first, if they have as many jobs as it wants.

The number doubles with each further read."""
_MAX_BLOCKED_QUEUES = 16
"""Maximum number of queues with only blocked jobs that one fetch calls, chosen at random."""
_QUEUES_PER_READ = 256
"""Queues that one call reads, which takes about 0.5 ms."""
_MAX_PROMOTED = 16
"""Due jobs of a shard that are promoted before its depths are read."""


Stage = tuple[list[Shard], list[str]]
"""One stage of a fetch: some shards, and the queues to fetch from in each of them."""


@dataclass(slots=True)
class _ShardPlan:
    """The jobs to fetch from one shard in a round.

    Args:
        queues: the queues to fetch from, in order.
        count: number of jobs to fetch.
        fetched: number of jobs that the call has fetched.
        failure: the error of the call.
    """

    queues: list[QueueInShard]
    count: int = 0
    fetched: int = 0
    failure: Exception | None = None


async def fetch_in_order(
    store: Store, stages: Sequence[Stage], fetch: FetchInProgress
) -> Exception | None:
    """Fetch the jobs that a fetch still wants, from queues in the order given.

    If a shard does not answer, the jobs of the other shards are still fetched.

    Args:
        store: the store.
        stages: shards, and the queues to fetch from each of them, in order.
        fetch: the fetch that wants the jobs.

    Returns:
        The first failure of a shard, or ``WorkerIsQuiet``; None when all shards answered.
    """
    queues: dict[Shard, list[str]] = {}
    for shards, names in stages:
        for shard in shards:
            queues.setdefault(shard, []).extend(names)
    filled = await store.depth_reader.find_filled(store, queues, fetch.tenant)
    failure = filled.failure or await _repeat_doubtful(store, queues, filled)
    remaining = [stage for stage in stages if filled.shards_of(*stage)] if filled.queues else []
    shards_to_read, blocked = max(_FIRST_SHARDS, fetch.wanted), 0
    while remaining and fetch.wanted and not fetch.full:
        first: list[Stage] = []
        to_read: dict[Shard, None] = {}
        while remaining and len(to_read) < shards_to_read:
            first.append(remaining.pop(0))
            to_read.update(dict.fromkeys(filled.shards_of(*first[-1])))
        shards_to_read *= 2
        depths, error = await _read_filled(store, list(to_read), filled, fetch.tenant, fetch.types)
        failure = failure or error
        candidates = _limit_blocked(
            filled_queues(store, first, depths), _MAX_BLOCKED_QUEUES - blocked
        )
        blocked += sum(queue.depth == BLOCKED for queue in candidates)
        error = await _fetch_planned(store, candidates, fetch)
        if error is not None and not isinstance(error, OJSError):
            return error
        failure = failure if error is None else _more_severe(failure, error)
    return failure


async def _repeat_doubtful(
    store: Store, queues: Mapping[Shard, Sequence[str]], filled: FilledQueues
) -> Exception | None:
    """Find out which doubtful shards answer now, for ``READ_S``; all of their queues may have jobs.

    Returns:
        The first failure; None if all of them answer.
    """
    if not filled.doubtful:
        return None
    failure: Exception | None = None

    async def repeat(shard: Shard) -> None:
        nonlocal failure
        try:
            await store.redis.call(shard.slot, "EXISTS", shard.due, idempotent=True)
            filled.queues[shard] = frozenset(queues[shard])
            store.depth_reader.mark_reachable(shard)
        except OutOfTime as error:
            failure = failure or error
        except BackendUnavailable as error:
            store.depth_reader.mark_unreachable(shard)
            failure = failure or error

    await ensure_task()
    with trio.move_on_after(READ_S) as scope:
        async with trio.open_nursery() as nursery:
            for shard in filled.doubtful:
                nursery.start_soon(repeat, shard)
    if scope.cancelled_caught:
        late = [shard for shard in filled.doubtful if shard not in filled.queues]
        for shard in late:
            store.depth_reader.mark_unreachable(shard)
        message = f"{len(late)} of {len(queues)} shards did not answer in time"
        failure = failure or BackendUnavailable(message, outcome="not_applied")
    return failure


async def _fetch_planned(
    store: Store, candidates: Sequence[QueueInShard], fetch: FetchInProgress
) -> Exception | None:
    """Fetch jobs of the candidates in order; their depths fall.

    Returns:
        The most severe failure of a shard, or ``WorkerIsQuiet``; None when all shards answered.
    """
    failure: Exception | None = None
    while fetch.wanted and not fetch.full:
        plans = _plan(candidates, fetch.wanted)
        if not plans:
            break
        await run_concurrently(plans.values(), partial(_carry_out, fetch))
        for plan in plans.values():
            if plan.failure is not None:
                if not isinstance(plan.failure, OJSError):
                    return plan.failure
                if isinstance(plan.failure, BackendUnavailable) and not isinstance(
                    plan.failure, OutOfTime
                ):
                    store.depth_reader.mark_unreachable(plan.queues[0].shard)
                failure = _more_severe(failure, plan.failure)
            if plan.fetched < plan.count:
                for candidate in plan.queues:
                    candidate.depth = 0
    return failure


async def read_depths(
    store: Store, shard: Shard, queues: Sequence[str], tenant: str = "", types: str = ""
) -> Mapping[str, int]:
    """Read how many jobs a worker could get from queues of one shard.

    Due jobs are promoted first, as in a fetch.

    Args:
        store: the store.
        shard: the shard.
        queues: the names of the queues.
        tenant: the tenant whose available jobs count, '' for all jobs.
        types: the types whose parked jobs count, as ``pack_types``; '' for all.

    Returns:
        The depth of each queue; ``BLOCKED`` for a queue that has only blocked jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    depths: dict[str, int] = {}
    size = min(_QUEUES_PER_READ, queues_per_call(types))
    for first in range(0, len(queues), size):
        names = queues[first : first + size]
        keys = [shard.due]
        for queue in names:
            keys += (
                shard.tenant_queue(queue, tenant) if tenant else shard.queue_available(queue),
                shard.queue_counters(queue),
                shard.queue_blocked(queue),
            )
        args = [types, tenant]
        due, *numbers = await store.run(shard, "depths", keys, args, idempotent=True)
        if due:
            await promote(store, shard, _MAX_PROMOTED)
            _, *numbers = await store.run(shard, "depths", keys, args, idempotent=True)
        depths.update(zip(names, numbers, strict=True))
    return depths


async def read_all_depths(
    store: Store, queues: Mapping[Shard, Sequence[str]], types: str
) -> tuple[dict[Shard, Mapping[str, int]], Exception | None]:
    """Read the depths of queues in several shards at once.

    Args:
        store: the store.
        queues: the queues of each shard.
        types: as of ``read_depths``.

    Returns:
        The depths of the queues that have any, as ``read_depths``, and the first failure of a
        shard; None when all shards answered.
    """
    filled = await store.depth_reader.find_filled(store, queues)
    failure = filled.failure or await _repeat_doubtful(store, queues, filled)
    depths, error = await _read_filled(store, list(filled.queues), filled, types=types)
    return depths, failure or error


async def _read_filled(
    store: Store,
    shards: Sequence[Shard],
    filled: FilledQueues,
    tenant: str = "",
    types: str = "",
) -> tuple[dict[Shard, Mapping[str, int]], Exception | None]:
    """Read the depths of the filled queues of some shards; otherwise as ``read_all_depths``."""
    depths: dict[Shard, Mapping[str, int]] = {}
    failure: Exception | None = None

    async def read(shard: Shard) -> None:
        nonlocal failure
        try:
            names = sorted(filled.queues[shard])
            depths[shard] = await read_depths(store, shard, names, tenant, types)
        except OutOfTime as error:
            failure = failure or error
        except BackendUnavailable as error:
            store.depth_reader.mark_unreachable(shard)
            failure = failure or error

    await run_concurrently(shards, read)
    return depths, failure


def filled_queues(
    store: Store,
    stages: Sequence[Stage],
    depths: Mapping[Shard, Mapping[str, int]],
) -> list[QueueInShard]:
    """Return the queues that have jobs, in order; partitions of one queue are in random order."""
    filled: list[QueueInShard] = []
    for shards, names in stages:
        for queue in names:
            partitions = [
                QueueInShard(shard, queue, depths[shard][queue])
                for shard in shards
                if shard in depths and depths[shard].get(queue)
            ]
            if len(partitions) > 1:
                closing = shards[store.partitions.layout(queue).count :]
                partitions = _shuffled(partitions, closing)
            filled += partitions
    return filled


def _shuffled(partitions: list[QueueInShard], closing: Sequence[Shard]) -> list[QueueInShard]:
    """Return the partitions in random order, in which fuller ones tend to come first.

    Closing partitions hold the oldest jobs, so they come before all others (as in ``depth_cache``).
    """
    keyed = [
        (part.shard in closing, random.random() ** (1 / abs(part.depth)), number)  # noqa: S311 - it spreads load
        for number, part in enumerate(partitions)
    ]
    return [partitions[number] for _, _, number in sorted(keyed, reverse=True)]


def _limit_blocked(queues: list[QueueInShard], most: int) -> list[QueueInShard]:
    """Keep at most ``most`` of the queues with only blocked jobs, at random."""
    blocked = [queue for queue in queues if queue.depth == BLOCKED]
    excess = max(0, len(blocked) - most)
    dropped = {id(queue) for queue in random.sample(blocked, excess)}
    return [queue for queue in queues if id(queue) not in dropped]


def _plan(candidates: Sequence[QueueInShard], wanted: int) -> dict[Shard, _ShardPlan]:
    """Plan how many of the first ``wanted`` jobs to fetch from each shard, and from which queues.

    The planned jobs are subtracted from the depths of the candidates.
    """
    plans: dict[Shard, _ShardPlan] = {}
    for candidate in candidates:
        if not wanted:
            break
        # A queue with only blocked jobs (depth -1) counts as one job.
        count = min(abs(candidate.depth), wanted)
        if count:
            plan = plans.setdefault(candidate.shard, _ShardPlan([]))
            plan.queues.append(candidate)
            plan.count += count
            wanted -= count
            candidate.depth = 0 if candidate.depth == BLOCKED else candidate.depth - count
    return plans


async def _carry_out(fetch: FetchInProgress, plan: _ShardPlan) -> None:
    names = list(dict.fromkeys(queue.queue for queue in plan.queues))
    try:
        plan.fetched = await fetch.take(plan.queues[0].shard, names, plan.count)
    except Exception as error:  # ``fetch_in_order`` handles it when all shards have answered
        plan.failure = error


def _more_severe(one: Exception | None, other: Exception) -> Exception:
    """Return ``other`` if its call may have been applied; otherwise ``one``, if there is one."""
    if isinstance(other, BackendUnavailable) and other.outcome != "not_applied":
        return other
    return one or other
