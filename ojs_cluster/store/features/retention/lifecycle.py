"""Create and delete queues (spec: ojs-queue-config 5).

A queue exists from its first job on, or from its creation by an operator. A queue that an operator
has created is kept without jobs. All other queues without jobs are retired (``retire_queues``).
"""

from __future__ import annotations

from contextlib import suppress

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.engine.queues import partition_maintenance
from ojs_cluster.store.engine.queues.queues import QueueStats, exists, get_stats
from ojs_cluster.store.features.queue_drains.drains import (
    begin_drain,
    end_drain,
    new_drain_token,
    restore_defaults_of,
)
from ojs_cluster.store.features.retention.retention import retire
from ojs_cluster.store.ground.partial_failures import after_first_write
from ojs_cluster.store.ground.process_state.queue_defaults import read_record, remove_record


async def create_queue(store: Store, queue: str, *, accept_existing: bool = False) -> bool:
    """Create a queue that is kept without jobs; return whether it is new.

    Args:
        store: the store.
        queue: the queue's name.
        accept_existing: whether the queue may exist. It is then kept without jobs, too.

    Raises:
        Conflict: the queue exists.
        TooManyQueues: the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    shard = store.keys.shard_of_queue(queue)
    # Not idempotent: after a lost reply, a repetition would find the queue that it has created.
    new, _, effects = await store.run(
        shard,
        "create_queue",
        [shard.queue_counters(queue), shard.events],
        [store.events_arg, queue, "1" if accept_existing else ""],
        idempotent=accept_existing,
    )
    if not new and not accept_existing:
        raise Conflict(f"queue '{queue}' exists", queue=queue)
    await deliver(store, shard, effects)
    return bool(new)


async def delete_queue(store: Store, queue: str) -> None:
    """Delete a queue without waiting and active jobs.

    The queue drains first, so no new job enters while its partitions are checked. Its finished jobs
    are kept for their retention, and its dead letters too. A job that is enqueued later creates the
    queue again. The drain of an operator is not ended, not even one that begins meanwhile.

    If Redis does not answer, the drain is ended if that is possible. Each step may be repeated
    after a crash, which may leave the queue draining. Then the janitor ends the drain and restores
    the defaults (``queue_drains/unfinished.py``), and a resume does so, too. If partition 0 is
    deleted already, only the number of partitions may be left. Then the next call resets it.

    Raises:
        NotFound: the queue does not exist.
        Conflict: a job of the queue waits or is active; nothing has changed.
        BackendUnavailable: Redis did not answer in time.
    """
    stats = await check_exists(store, queue)
    if stats is None:
        return
    if stats.has_live_jobs:
        raise _in_use(queue, stats.live_jobs)
    token = new_drain_token(stats.now_ms)
    await begin_drain(store, queue, token)
    with after_first_write():
        try:
            is_deleted = await delete_drained(store, queue, token)
        except BackendUnavailable:
            with suppress(OJSError), cleaning_up():
                await end_drain(store, queue, token)  # changes nothing if the queue is deleted
            raise
        if not is_deleted:
            await end_drain(store, queue, token)
            await partition_maintenance.maintain_queue(store, queue)
            raise _in_use(queue, (await get_stats(store, queue)).live_jobs)


async def check_exists(store: Store, queue: str) -> QueueStats | None:
    """Return the numbers of a queue; None if a deletion was not finished, and is now.

    Raises:
        NotFound: the queue does not exist.
        BackendUnavailable: Redis did not answer in time.
    """
    stats = await get_stats(store, queue)
    if not stats.deleted and await exists(store, queue):
        return stats
    if stats.deleted and await _reset_partitions(store, queue):
        return None
    raise NotFound("queue", queue)


async def delete_drained(store: Store, queue: str, token: str) -> bool:
    """Delete a queue that drains, unless a job of it waits or is active; return whether it is gone.

    Each step may be repeated after a crash. A queue that is resumed, drained or created meanwhile
    is not deleted, and keeps its settings.

    Args:
        store: the store.
        queue: the queue.
        token: the token of its drain.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    found = await get_stats(store, queue)
    empty = not found.has_live_jobs
    for shard in reversed(shards[1:]):
        empty = empty and await _delete_in(store, shard, queue, "")
    # Partition 0 comes last, because its fields are authoritative. The defaults precede it:
    # after a crash, the next queue of this name must not have them. Partition 0 keeps them until
    # it is deleted, so whatever ends the drain instead restores them (``pause_queue.lua``).
    empty = empty and await _remove_defaults(store, shards[0], queue, token)
    if not (empty and await _delete_in(store, shards[0], queue, token)):
        await restore_defaults_of(store, queue, token)
        return False
    # Meanwhile the janitor may have copied fields of partition 0 to partitions that were empty.
    if not await _exists_in(store, shards[0], queue):
        for shard in shards[1:]:
            await _delete_in(store, shard, queue, "*")
        await finish_deletion(store, queue)
    return True


async def _remove_defaults(store: Store, shard: Shard, queue: str, token: str) -> bool:
    """Remove the defaults of a queue; return False if it is not deleted because of a job or drain.

    What is removed is stored in partition 0 before.
    """
    while record := await read_record(store, queue):
        if not await _delete_in(store, shard, queue, token, record):
            return False
        if await remove_record(store, queue, record):
            break
    return True


async def finish_deletion(store: Store, queue: str) -> None:
    """Do the last steps of a deletion whose queue is deleted already.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await _reset_partitions(store, queue)
    await retire(store, queue)


async def _reset_partitions(store: Store, queue: str) -> bool:
    """Give a queue the default number of partitions; return whether it had another number."""
    layout = await partition_maintenance.get_partitions(store, queue)
    default = store.partitions.default.count
    if layout.count == default:
        return False
    await partition_maintenance.set_partitions(store, queue, default)
    return True


async def _exists_in(store: Store, shard: Shard, queue: str) -> bool:
    key = shard.queue_counters(queue)
    created = await store.redis.call(shard.slot, "HGET", key, "created", idempotent=True)
    return created is not None


async def _delete_in(store: Store, shard: Shard, queue: str, token: str, *defaults: bytes) -> bool:
    """Delete the queue in one shard, or store its defaults there if they are given."""
    keys = [shard.queue_counters(queue), shard.queue_available(queue), shard.queue_blocked(queue)]
    keys += [shard.tenant_turns(queue), shard.events]
    args = [store.events_arg, queue, token, *defaults]
    return bool(await store.run(shard, "delete_queue", keys, args, idempotent=True))


def _in_use(queue: str, jobs: int) -> Conflict:
    if not jobs:
        return Conflict(f"queue '{queue}' was changed while it was deleted", queue=queue, jobs=0)
    return Conflict(
        f"queue '{queue}' has {jobs} waiting or active jobs: drain it, or move or cancel its jobs, "
        "before you delete it",
        queue=queue,
        jobs=jobs,
    )
