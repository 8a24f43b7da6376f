"""How many jobs may wait in a queue (spec: ojs-backpressure).

The bound of a queue is a field of its hash. So the script that stores a job compares it with the
depth in the same step. Without one, ``OJS_MAX_QUEUE_DEPTH`` holds. Each partition takes its share,
rounded up: a queue of P partitions holds P - 1 jobs more than its bound at most. It refuses a job
as soon as the partition that chance has chosen is full.

What takes several steps (a batch over shards, a workflow) is compared before anything is decided.
Others may enqueue between that and the writing. So such requests may exceed the bound by what is
under way at once. What was accepted is never refused: retries, promotions, later steps of a
workflow, jobs that run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ojs_cluster.core.errors import QueueFull
from ojs_cluster.keys import Shard
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.partial_failures import begun, only_read
from ojs_cluster.store.queues import mirrored_fields

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

_FIELD = "bound"


def terms(store: Store, new: Mapping[str, int]) -> str:
    """Return what the script needs to know of each queue (see
    ``store/include/queues/check_depth_bound.lua``).

    Args:
        store: the store.
        new: how many jobs each queue is to get, in the order of the script's queues.
    """
    most, width = store.settings.max_queue_depth, store.partitions.width
    return " ".join(f"{most}/{width(queue)}/{count}" for queue, count in new.items())


def refusal(queues: Iterable[str], reply: Sequence[Any]) -> QueueFull:
    """Return the error for a script's reply ``{'full', position, depth, bound}``."""
    queue = list(queues)[int(reply[1]) - 1]
    depth, bound = int(reply[2]), int(reply[3])
    return QueueFull(
        f"queue '{queue}' has reached its depth bound ({bound})",
        queue=queue,
        depth=depth,
        bound=bound,
        strategy="reject",
    )


async def check(store: Store, jobs: Iterable[tuple[Shard, str]]) -> None:
    """Compare the depths of queues with their bounds before jobs are written in several steps.

    Args:
        store: the store.
        jobs: the shard and the queue of each new job.

    Raises:
        QueueFull: there is no room for all of them.
        BackendUnavailable: Redis did not answer in time.
    """
    by_shard: dict[Shard, Counter[str]] = {}
    for shard, queue in jobs:
        by_shard.setdefault(shard, Counter())[queue] += 1

    async def ask(shard: Shard) -> None:
        new = by_shard[shard]
        keys = [
            key
            for queue in new
            for key in (shard.queue_counters(queue), shard.queue_available(queue))
        ]
        args = [terms(store, new), *new]
        reply = await store.run(shard, "bound_check", keys, args, idempotent=True)
        if reply:
            raise refusal(new, reply)

    with only_read():
        await over_shards(by_shard, ask)


async def put(store: Store, queue: str, most: int | None) -> None:
    """Set the bound of a queue, in all its partitions. The queue need not exist.

    Args:
        store: the store.
        queue: its name.
        most: jobs that may wait; 0 for any number, None for ``OJS_MAX_QUEUE_DEPTH``.

    Raises:
        TooManyQueues: an unknown queue would be one too many.
        BackendUnavailable: Redis did not answer in time.
    """
    await store.queues.ensure(store, [queue])
    await store.partitions.latest(store)
    await _set(store, store.keys.shard_of_queue(queue), queue, "" if most is None else str(most))
    with begun():
        await mirror(store, queue)


async def of_queue(store: Store, queue: str) -> int | None:
    """Return the bound of a queue that an operator has set, None for none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found = await _get(store, store.keys.shard_of_queue(queue), queue)
    return int(found) if found.isdigit() else None


async def mirror(store: Store, queue: str) -> None:
    """Make the bounds in all partitions agree with that of partition 0.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await mirrored_fields.mirror(
        store,
        queue,
        lambda shard: _get(store, shard, queue),
        lambda shard, bound: _set(store, shard, queue, bound),
    )


async def _get(store: Store, shard: Shard, queue: str) -> str:
    found = await store.redis.call(
        shard.slot, "HGET", shard.queue_counters(queue), _FIELD, idempotent=True
    )
    return found.decode() if isinstance(found, bytes) else ""


async def _set(store: Store, shard: Shard, queue: str, bound: str) -> None:
    owed = await store.run(
        shard, "bound_queue", [shard.queue_counters(queue)], [queue, bound], idempotent=True
    )
    await deliver(store, shard, owed)
