"""Fetch from queues of many shards: one read of each shard, then the first jobs in order.

Calling one shard after the other, until there are enough jobs, would cost as many sequential calls
as there are shards before the first job. So a read-only script reads the depths of all queues at
once. They tell which queues hold the first jobs in order. The fetch calls these shards at the same
time, each for as many jobs as it has among the first ones.

The order is kept: a queue is used only when all jobs of the earlier queues are requested. When a
shard returns fewer jobs than it had, because other fetches were faster, the following queues
supply the rest.
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
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.fetch.depth_reader import BLOCKED
from ojs_cluster.store.fetch.in_progress import FetchInProgress
from ojs_cluster.store.sweeps.deadlines import promote

READ_S = 1.0
"""Longest time in seconds to read the depths of one shard; a slower one is then skipped."""
_MAX_BLOCKED_QUEUES = 16
"""How many queues with only blocked jobs one fetch calls, chosen at random."""
_QUEUES_PER_READ = 256
"""Queues that one call reads: about 0.5 ms."""
_PROMOTED = 16
"""Due jobs that a read promotes first."""


@dataclass(slots=True)
class _Place:
    """A queue, or one partition of it, and its expected number of jobs."""

    shard: Shard
    queue: str
    depth: int


@dataclass(slots=True)
class _ShardPlan:
    """The jobs to take from one shard in a round."""

    places: list[_Place]
    count: int = 0
    taken: int = 0
    failure: Exception | None = None


async def fetch_in_order(
    store: Store, stages: Sequence[tuple[list[Shard], list[str]]], fetch: FetchInProgress
) -> Exception | None:
    """Take the jobs that a fetch still wants from queues in the order given.

    A shard that does not answer withholds only its own jobs.

    Args:
        stages: the queues in order, each with its shards.

    Returns:
        The first failure of a shard, or that the worker is quiet; None when all answered.
    """
    await ensure_task()
    queues: dict[Shard, list[str]] = {}
    for shards, names in stages:
        for shard in shards:
            queues.setdefault(shard, []).extend(names)
    depths, failure = await _read_all(store, queues)
    places = _limit_blocked(_places(store, stages, depths))
    while fetch.wanted and not fetch.full:
        plans = _plan(places, fetch.wanted)
        if not plans:
            break
        await run_concurrently(plans.values(), partial(_take, fetch))
        for plan in plans.values():
            if plan.failure is not None:
                if not isinstance(plan.failure, OJSError):
                    return plan.failure
                if isinstance(plan.failure, BackendUnavailable) and not isinstance(
                    plan.failure, OutOfTime
                ):
                    store.depth_reader.mark_unreachable(plan.places[0].shard)
                failure = _more_severe(failure, plan.failure)
            if plan.taken < plan.count:
                for place in plan.places:
                    place.depth = 0
    return failure


async def read_depths(store: Store, shard: Shard, queues: Sequence[str]) -> Mapping[str, int]:
    """Read how many jobs a worker could get from queues of one shard.

    Due jobs become available first, as in a fetch.

    Returns:
        The depth of each queue; ``BLOCKED`` for a queue that has only blocked jobs.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    depths: dict[str, int] = {}
    for first in range(0, len(queues), _QUEUES_PER_READ):
        names = queues[first : first + _QUEUES_PER_READ]
        keys = [shard.due]
        for queue in names:
            keys += (
                shard.queue_available(queue),
                shard.queue_counters(queue),
                shard.queue_blocked(queue),
            )
        due, *found = await store.run(shard, "depths", keys, idempotent=True)
        if due:
            await promote(store, shard, _PROMOTED)
            _, *found = await store.run(shard, "depths", keys, idempotent=True)
        depths.update(zip(names, found, strict=True))
    return depths


async def _read_all(
    store: Store, queues: Mapping[Shard, Sequence[str]]
) -> tuple[dict[Shard, Mapping[str, int]], Exception | None]:
    depths: dict[Shard, Mapping[str, int]] = {}
    failure: Exception | None = None

    async def read(shard: Shard) -> None:
        nonlocal failure
        try:
            with trio.fail_after(READ_S):
                depths[shard] = await store.depth_reader.read(
                    shard, queues[shard], partial(read_depths, store)
                )
        except trio.TooSlowError:
            store.depth_reader.mark_unreachable(shard)
            failure = failure or BackendUnavailable(
                f"shard {shard.index} did not answer in time", outcome="not_applied"
            )
        except BackendUnavailable as error:
            failure = failure or error

    reachable = store.depth_reader.reachable(list(queues))
    await run_concurrently(reachable, read)
    if len(reachable) < len(queues) and failure is None:
        failure = BackendUnavailable(
            f"{len(queues) - len(reachable)} of {len(queues)} shards did not answer lately",
            outcome="not_applied",
        )
    return depths, failure


def _places(
    store: Store,
    stages: Sequence[tuple[list[Shard], list[str]]],
    depths: Mapping[Shard, Mapping[str, int]],
) -> list[_Place]:
    """Return the queues that have jobs, in order; fuller partitions tend to come first."""
    places: list[_Place] = []
    for shards, names in stages:
        for queue in names:
            found = [
                _Place(shard, queue, depths[shard][queue])
                for shard in shards
                if shard in depths and depths[shard][queue]
            ]
            if len(found) > 1:
                found = _shuffled(found, shards[store.partitions.layout(queue).count :])
            places += found
    return places


def _shuffled(partitions: list[_Place], closing: Sequence[Shard]) -> list[_Place]:
    """Return the partitions in random order, weighted by depth.

    Closing partitions hold the oldest jobs, so they come first (as in ``depth_cache``).
    """
    drawn = [
        (place.shard in closing, random.random() ** (1 / abs(place.depth)), number)  # noqa: S311 - it spreads load
        for number, place in enumerate(partitions)
    ]
    return [partitions[number] for _, _, number in sorted(drawn, reverse=True)]


def _limit_blocked(places: list[_Place]) -> list[_Place]:
    """Drop random places that have only blocked jobs, down to ``_MAX_BLOCKED_QUEUES`` of them."""
    blocked = [place for place in places if place.depth == BLOCKED]
    excess = max(0, len(blocked) - _MAX_BLOCKED_QUEUES)
    dropped = {id(place) for place in random.sample(blocked, excess)}
    return [place for place in places if id(place) not in dropped]


def _plan(places: Sequence[_Place], wanted: int) -> dict[Shard, _ShardPlan]:
    """Plan how many of the first ``wanted`` jobs each shard supplies, and from which queues."""
    plans: dict[Shard, _ShardPlan] = {}
    for place in places:
        if not wanted:
            break
        count = min(abs(place.depth), wanted)
        if count:
            plan = plans.setdefault(place.shard, _ShardPlan([]))
            plan.places.append(place)
            plan.count += count
            wanted -= count
            place.depth = 0 if place.depth == BLOCKED else place.depth - count
    return plans


async def _take(fetch: FetchInProgress, plan: _ShardPlan) -> None:
    queues = list(dict.fromkeys(place.queue for place in plan.places))
    try:
        plan.taken = await fetch.take(plan.places[0].shard, queues, plan.count)
    except Exception as error:  # handled when all shards have answered
        plan.failure = error


def _more_severe(one: Exception | None, other: Exception) -> Exception:
    """Return the failure whose call may have been applied, otherwise the first one."""
    if isinstance(other, BackendUnavailable) and other.outcome != "not_applied":
        return other
    return one or other
