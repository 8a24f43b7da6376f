"""The queue that gets the jobs of another one. These stay in their shards.

Moved jobs are in partitions that the target may not have. So workers must search these shards for
jobs of the target before a job is there, and no limit may hold for other jobs after the move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.rate_limit import RateLimits
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import is_draining
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits import partition_quotas
from ojs_cluster.store.engine.queues.copied_settings import ensure_open
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.rate_limits import rate_limits
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.partial_failures import after_first_write


@dataclass(frozen=True, slots=True)
class Moved:
    """What goes to the target, in the words of a refusal.

    Args:
        queue: the queue that has the jobs, if their ``max_per_second`` may hold there.
        lies: says where it is, as "job 'a' is in another shard".
        instead: what the operator can do instead.
    """

    queue: str | None
    lies: str
    instead: str


def all_jobs(queue: str) -> Moved:
    """Return that all jobs of a queue go to the target."""
    return Moved(queue, f"queue '{queue}' lies in other shards", "discard the jobs")


def one_job(job: JobRecord) -> Moved:
    """Return that one job goes to the target."""
    declares = bool(job.fields.get(f.MAX_PER_SECOND))
    return Moved(
        job.queue if declares else None,
        f"job '{job.id}' is in another shard",
        "cancel the job and enqueue it there",
    )


async def open_for_moves(store: Store, moved: Moved, target: str, shards: Sequence[Shard]) -> None:
    """Make workers search the shards of moved jobs for jobs of the target.

    The partitions of the target have copies of its settings, before a job is there.

    Args:
        store: the store.
        moved: the jobs.
        target: the queue that gets them.
        shards: the shards of the jobs.

    Raises:
        Conflict: the target cannot take the jobs.
        TooManyQueues: the target does not exist, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    opens = await check_target(store, moved, target, shards)
    await store.queues.ensure(store, [target])
    for shard in shards:
        await ensure_open(store, shard, [target])
    with after_first_write():
        if opens:  # limits may have been set meanwhile
            await _check_limits(store, moved, target, shards, opens=True)


async def check_target(store: Store, moved: Moved, target: str, shards: Sequence[Shard]) -> bool:
    """Check that the target can take the jobs; return whether it needs further partitions.

    The arguments and the errors are those of ``open_for_moves``.
    """
    if (await get_stats(store, target)).draining_ms is not None:
        raise is_draining(target)
    opens = not set(await store.partitions.open_shards(store, target)).issuperset(shards)
    await _check_limits(store, moved, target, shards, opens=opens)
    return opens


async def _check_limits(
    store: Store, moved: Moved, target: str, shards: Sequence[Shard], *, opens: bool
) -> None:
    """Check that no limit would hold for other jobs after the move.

    The limits of a queue are divided among its open partitions, and further partitions would get a
    part of them. A ``max_per_second`` that jobs have declared holds in partition 0 alone.
    """
    if opens and await partition_quotas.get_limits(store, target) != RateLimits():
        raise Conflict(
            f"queue '{target}' has limits, and {moved.lies}: delete the limits before the move, "
            f"or {moved.instead}",
            queue=target,
        )
    if list(shards) == [store.keys.shard_of_queue(target)]:
        return
    for name in filter(None, (moved.queue, target)):
        if (await rate_limits.get_queue_limits(store, name)).max_per_second is not None:
            raise Conflict(
                f"jobs of queue '{name}' have declared max_per_second, which holds in one shard "
                f"only: delete the limit, or {moved.instead}",
                queue=name,
            )
