"""The steps of a deletion that discards or moves the jobs of its queue.

A bulk operation carries the deletion out (``features/bulk``), so another process continues it after
a crash. The queue drains meanwhile. The drain has the token of the deletion. An operator who
resumes or drains the queue takes the drain over, and another deletion does so, too. Then the
deletion ends, and the jobs that it has not changed stay in the queue.

Moved jobs stay in their shards. So no job is in two shards or in none, and aliases, unique locks
and workflows find it. The shards become partitions of the target: workers search them until they
are empty (docs/adr/056).
"""

from __future__ import annotations

from contextlib import suppress
from enum import Enum, auto
from typing import Any, cast

from ojs_cluster.core.bulk.selection import DEFAULT_STATES, BulkAction, Selection
from ojs_cluster.core.errors import Conflict, InvalidRequest, NotFound, OJSError
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues import pauses
from ojs_cluster.store.engine.queues.queues import get_stats
from ojs_cluster.store.features.bulk_records import operations
from ojs_cluster.store.features.bulk_records.operation import BulkOperation, QueueDeletion
from ojs_cluster.store.features.queue_deletion.target_queue import (
    all_jobs,
    check_target,
    open_for_moves,
)
from ojs_cluster.store.features.queue_drains.drains import begin_drain, end_drain, new_drain_token
from ojs_cluster.store.features.retention import lifecycle
from ojs_cluster.store.ground.partial_failures import after_first_write


class DeletionStep(Enum):
    """What an attempt to delete the queue has found."""

    DELETED = auto()
    """The queue is deleted."""
    WAITING_JOBS = auto()
    """A job of the queue waits, so its jobs must be walked again."""
    ACTIVE_JOBS = auto()
    """Only active jobs are left, which may end or be retried."""
    NO_DRAIN = auto()
    """The queue does not drain for this deletion, or not any more."""


async def begin_deletion(
    store: Store,
    operation_id: str,
    queue: str,
    target: str,
    *,
    principal: str = "",
    delay_ms: int = 0,
) -> BulkOperation | None:
    """Store the bulk operation that deletes a queue, then drain the queue for it.

    If the process dies before the drain, the scheduler ends the operation, and nothing has changed.
    The scheduler never begins the drain itself: an operator may have resumed the queue, or a
    repetition of the request may have deleted it meanwhile. A request that stalls until the
    scheduler may have ended the operation does not begin the drain either. The clock of the queue's
    shard decides, which is read before the operation is stored.

    Args:
        store: the store.
        operation_id: a new id.
        queue: the queue.
        target: the queue that gets the jobs; empty to discard them.
        principal: name of the API key that creates the operation.
        delay_ms: milliseconds after which the scheduler continues the operation.

    Returns:
        The operation; None if an earlier deletion was not finished, and is now.

    Raises:
        NotFound: the queue does not exist.
        InvalidRequest: the target is the queue.
        Conflict: the target cannot take the jobs.
        RateLimited: too many bulk operations have not ended.
        TooManyQueues: the target does not exist, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    stats = await lifecycle.check_exists(store, queue)
    if stats is None:
        return None
    if target:
        if target == queue:
            raise InvalidRequest("target_queue must be another queue", field="target_queue")
        shards = await store.partitions.occupied_shards(store, queue)
        await check_target(store, all_jobs(queue), target, shards)
        await store.queues.ensure(store, [target])
    now_ms = await _time_of(store, queue)
    deletion = QueueDeletion(queue, new_drain_token(now_ms), target)
    action = BulkAction.MOVE if target else BulkAction.DISCARD
    selection = Selection(DEFAULT_STATES[action], queue=queue)
    operation = await operations.create(
        *(store, operation_id, action, selection),
        principal=principal,
        delay_ms=delay_ms,
        deletion=deletion,
    )
    with after_first_write():
        try:
            before_ms = now_ms + delay_ms if delay_ms else 0
            await begin_drain(store, queue, deletion.token, before_ms)
        except OJSError:
            # The scheduler then ends the operation, and a drain that is left, as soon as its time
            # has passed and the shards answer.
            with suppress(OJSError), cleaning_up():
                try:
                    await operations.stop(store, operation_id)
                except (Conflict, NotFound):  # it has ended, so the scheduler ends no drain
                    await abandon(store, deletion)
            raise
    return operation


async def _time_of(store: Store, queue: str) -> int:
    """Return the time of the master of a queue's first shard, in Unix ms."""
    slot = store.keys.shard_of_queue(queue).slot
    seconds, micros = cast(list[bytes], await store.redis.call(slot, "TIME", idempotent=True))
    return int(seconds) * 1000 + int(micros) // 1000


async def end_late_drain(store: Store, operation: BulkOperation) -> None:
    """End the drain of a deletion whose operation has ended before the drain began.

    Raises:
        DamagedOperation: the record of the operation is damaged.
        BackendUnavailable: Redis did not answer in time.
    """
    found = await operations.read_stored(store, operation.id)
    if operation.deletion is not None and (found is None or found.ended):
        await abandon(store, operation.deletion)


async def abandon(store: Store, deletion: QueueDeletion) -> None:
    """End the drain of a deletion, unless it has been taken over. The queue takes jobs again.

    If an operator had drained it before, it keeps draining.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if await has_drain(store, deletion):
        await end_drain(store, deletion.queue, deletion.token)


async def has_drain(store: Store, deletion: QueueDeletion) -> bool:
    """Return whether the queue still drains for this deletion.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(deletion.queue)
    found: Any = await store.redis.call(
        shard.slot, "HGET", shard.queue_counters(deletion.queue), "deleting", idempotent=True
    )
    token = deletion.token.encode()
    return found in (token, token + b"*")  # see pause_queue.lua


async def try_to_delete(store: Store, deletion: QueueDeletion) -> DeletionStep:
    """Delete the queue if it has no waiting and no active jobs. It may be repeated after a crash.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    stats = await get_stats(store, deletion.queue)
    if stats.deleted:
        await lifecycle.finish_deletion(store, deletion.queue)
        return DeletionStep.DELETED
    if not await has_drain(store, deletion):
        return DeletionStep.NO_DRAIN
    if not stats.has_live_jobs:
        if await lifecycle.delete_drained(store, deletion.queue, deletion.token):
            return DeletionStep.DELETED
        # The attempt may have removed the drain of some partitions.
        await pauses.mirror_flags(store, deletion.queue)
        stats = await get_stats(store, deletion.queue)
    only_active = stats.live_jobs == stats.active_jobs
    return DeletionStep.ACTIVE_JOBS if only_active else DeletionStep.WAITING_JOBS


async def open_target(store: Store, deletion: QueueDeletion) -> None:
    """Make workers search the shards of the queue for jobs of the target.

    Raises:
        Conflict: the target cannot take the jobs any more.
        TooManyQueues: the target does not exist, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    queue = deletion.queue
    shards = await store.partitions.occupied_shards(store, queue)
    await open_for_moves(store, all_jobs(queue), deletion.target, shards)
