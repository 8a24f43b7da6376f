"""Queues: list, look at, pause, resume, purge (spec: ojs-queue-config, ojs-admin-api)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.aliases import remove_expired_jobs
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs.cancel import cancel
from ojs_cluster.store.jobs.validate_job import number
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.partial_failures import begun
from ojs_cluster.store.queues import pauses

_COUNTED = tuple(state for state in State if state is not State.AVAILABLE)
_PURGE_CHUNK = 500
_NAMES_READ = 5000
_REGISTRY_S = 0.5
"""Longest wait in seconds for the registry of names where the queue's own shard can answer."""
PURGE_S = 20.0
"""A purge stops after this long and says how far it came; the caller repeats it."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A queue at one moment. Times in ms.

    Args:
        counts: jobs in each state now.
        acked: jobs ever completed.
        dead: dead letters now.
        completed_last_hour, failed_last_hour: acks, and failed attempts, of the last 60 minutes.
        avg_duration_ms, avg_wait_ms: of the jobs completed in the last hour, 0 without any.
        paused_ms: since when it is paused, None when it is not.
    """

    name: str
    counts: Mapping[State, int]
    acked: int
    dead: int
    created_ms: int | None
    paused_ms: int | None
    now_ms: int
    completed_last_hour: int
    failed_last_hour: int
    avg_duration_ms: int
    avg_wait_ms: int

    @property
    def paused(self) -> bool:
        return self.paused_ms is not None

    @property
    def live(self) -> bool:
        """Whether a job of it waits or is active."""
        return any(count for state, count in self.counts.items() if state not in TERMINAL)

    @property
    def in_use(self) -> bool:
        """Whether it is paused, or a job of any state is left."""
        return self.paused or any(self.counts.values())

    @property
    def depth(self) -> int:
        """Jobs that wait: available, scheduled and retryable (spec: ojs-backpressure)."""
        counts = self.counts
        return counts[State.AVAILABLE] + counts[State.SCHEDULED] + counts[State.RETRYABLE]


async def get_stats(store: Store, queue: str) -> QueueStats:
    """A queue's numbers. A queue that nobody used is all zeros.

    Those of a partition are read in one step, several partitions one beside the other.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    if len(shards) == 1:
        return await get_partition_stats(store, shards[0], queue)
    found: dict[int, QueueStats] = {}

    async def look(number: int) -> None:
        found[number] = await get_partition_stats(store, shards[number], queue)

    await over_shards(range(len(shards)), look)
    return sum_stats([found[number] for number in range(len(shards))])


async def get_partition_stats(store: Store, shard: Shard, queue: str) -> QueueStats:
    """A queue's numbers in one of its shards, read in one step."""
    now, available, dead, flat, minutes = await store.run(
        shard,
        "queue_stats",
        [
            *(shard.queue_counters(queue), shard.queue_available(queue)),
            *(shard.queue_dead(queue), shard.queue_minutes(queue), shard.queue_blocked(queue)),
        ],
        idempotent=True,
    )
    fields = _pairs(flat)
    completed, failed, ran_ms, waited_ms = _last_hour(fields, _pairs(minutes), now // 60_000)
    return QueueStats(
        name=queue,
        counts={
            State.AVAILABLE: available,
            **{state: number(fields.get(state.value.encode())) for state in _COUNTED},
        },
        acked=number(fields.get(b"acked")),
        dead=dead,
        created_ms=_optional(fields.get(b"created")),
        paused_ms=_optional(fields.get(b"paused")),
        now_ms=now,
        completed_last_hour=completed,
        failed_last_hour=failed,
        avg_duration_ms=ran_ms // completed if completed else 0,
        avg_wait_ms=waited_ms // completed if completed else 0,
    )


async def list_queues(
    store: Store, *, limit: int, offset: int = 0, within: QueuePatterns | None = None
) -> tuple[list[QueueStats], int]:
    """Queues in the order of their names, and how many there are.

    ``within`` are the queues that the reader may reach, None for all.
    """
    meta = store.keys.meta
    total: Any
    names: Any
    if within is None:
        total = await store.redis.call(meta.slot, "ZCARD", meta.queues, idempotent=True)
        names = await store.redis.call(
            meta.slot, "ZRANGE", meta.queues, offset, offset + limit - 1, idempotent=True
        )
    else:
        reached = await list_names_within(store, within)
        total, names = len(reached), reached[offset : offset + limit]
    found: dict[str, QueueStats] = {}

    async def look(name: str) -> None:
        found[name] = await get_stats(store, name)

    await over_shards([name.decode() for name in names], look)
    return [found[name.decode()] for name in names], total


async def list_names_within(store: Store, within: QueuePatterns) -> list[bytes]:
    """Names of registered queues in reach, in order. All names are read, a part at a time."""
    meta = store.keys.meta
    found: list[bytes] = []
    for begin in itertools.count(0, _NAMES_READ):
        names: Any = await store.redis.call(
            meta.slot, "ZRANGE", meta.queues, begin, begin + _NAMES_READ - 1, idempotent=True
        )
        found += [name for name in names if within.admits(name.decode())]
        if len(names) < _NAMES_READ:
            break
    return found


async def exists(store: Store, queue: str) -> bool:
    """Whether the queue is registered: something was enqueued to it, or it was paused.

    While the registry is away the queue's own shards tell whether it is in use.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    if store.redis.is_responsive(meta.slot):
        with trio.move_on_after(_REGISTRY_S), suppress(BackendUnavailable):
            return (
                await store.redis.call(meta.slot, "ZSCORE", meta.queues, queue, idempotent=True)
                is not None
            )
    found = False

    async def look(shard: Shard) -> None:
        nonlocal found
        found = found or bool(
            await store.redis.call(
                shard.slot, "EXISTS", shard.queue_counters(queue), idempotent=True
            )
        )

    await over_shards(await store.partitions.occupied_shards(store, queue), look)
    return found


async def pause_or_resume(store: Store, queue: str, action: Literal["pause", "resume"]) -> int:
    """Pause or resume a queue; returns the server's ms. Repeating it changes nothing.

    Enqueue goes on while a queue is paused (spec: ojs-admin-api); fetch reads the mark in its pop.
    The mark of partition 0 decides, those of the others follow before this returns (``pauses``).

    Raises:
        TooManyQueues: an unknown queue would be one too many.
    """
    await store.queues.ensure(store, [queue])
    shard = store.keys.shard_of_queue(queue)
    now, owed = await store.run(
        shard,
        "pause_queue",
        [shard.queue_counters(queue), shard.queue_available(queue), shard.events],
        [store.settings.events_per_shard, queue, action],
        idempotent=True,
    )
    await deliver(store, shard, owed)
    with begun():
        await pauses.mirror_pause_flag(store, queue)
    return int(now)


async def purge(store: Store, queue: str) -> tuple[int, int]:
    """Remove a queue's available jobs; returns how many went and how many are left.

    Raises:
        BackendUnavailable: Redis did not answer in time; what went is gone.
    """
    removed = left = 0
    extend_deadline(PURGE_S)
    deadline = trio.current_time() + PURGE_S

    async def purge_one(shard: Shard) -> None:
        nonlocal removed, left
        gone, rest = await _purge_in(store, shard, queue, deadline)
        removed, left = removed + gone, left + rest

    shards = await store.partitions.occupied_shards(store, queue)
    # When one partition fails, jobs of others may be gone.
    with begun(when=len(shards) > 1):
        await over_shards(shards, purge_one)
    return removed, left


async def _purge_in(store: Store, shard: Shard, queue: str, deadline: float) -> tuple[int, int]:
    removed = left = 0
    while True:
        with begun(when=removed > 0):
            gone, foreign, left = await store.run(
                shard,
                "purge_queue",
                [
                    *(shard.queue_available(queue), shard.queue_counters(queue)),
                    *(shard.finished, shard.dead, shard.expiring, shard.queue_blocked(queue)),
                ],
                [_PURGE_CHUNK, shard.index, len(store.keys)],
                idempotent=True,
            )
        with begun():
            gone += await _purge_foreign(store, shard, [job_id.decode() for job_id in foreign])
        removed += gone
        if not gone or trio.current_time() >= deadline:
            return removed, left


async def _purge_foreign(store: Store, shard: Shard, job_ids: Sequence[str]) -> int:
    """Remove jobs that others must hear of: cancelled, so that no worker gets them, then removed.

    One whose id was fixed in advance, as a workflow's job's, is kept cancelled for a while (see
    ``removal_of`` in ``store/include/jobs/finish_job.lua``). Returns how many were cancelled.
    """
    cancelled: list[str] = []

    async def cancel_one(job_id: str) -> None:
        with suppress(NotFound, Conflict):  # it does not wait any more: a worker may have it
            await cancel(store, job_id, keep_ms=0, only="available")
            cancelled.append(job_id)

    await over_shards(job_ids, cancel_one)
    removal = await remove_expired_jobs(store, shard, cancelled)
    if removal.error is not None:
        raise removal.error
    return len(cancelled)


def sum_stats(parts: Sequence[QueueStats]) -> QueueStats:
    """The numbers of several together: of a queue's partitions, the first of which says if it is
    paused, or of queues.
    """
    first = parts[0]
    completed = sum(part.completed_last_hour for part in parts)

    def average(of: Callable[[QueueStats], int]) -> int:
        weighted = sum(of(part) * part.completed_last_hour for part in parts)
        return weighted // completed if completed else 0

    return replace(
        first,
        counts={state: sum(part.counts[state] for part in parts) for state in State},
        acked=sum(part.acked for part in parts),
        dead=sum(part.dead for part in parts),
        created_ms=min((p.created_ms for p in parts if p.created_ms is not None), default=None),
        completed_last_hour=completed,
        failed_last_hour=sum(part.failed_last_hour for part in parts),
        avg_duration_ms=average(lambda part: part.avg_duration_ms),
        avg_wait_ms=average(lambda part: part.avg_wait_ms),
    )


def _pairs(flat: list[bytes]) -> dict[bytes, bytes]:
    items = iter(flat)
    return dict(zip(items, items, strict=True))


def _optional(value: bytes | None) -> int | None:
    return None if value is None else number(value)


def _last_hour(
    fields: Mapping[bytes, bytes], notes: Mapping[bytes, bytes], minute: int
) -> list[int]:
    """What the queue's sums have grown by since the oldest note of the last 60 minutes.

    A note holds its minute and the sums as they were before it (see
    ``store/include/base/change_counters.lua``).
    """
    parts = [[number(part) for part in note.split(b",")] for note in notes.values()]
    oldest = min((note for note in parts if len(note) == 5 and minute - note[0] < 60), default=None)
    if oldest is None:
        return [0, 0, 0, 0]
    return [
        number(fields.get(name)) - before
        for name, before in zip((b"acked", b"failed", b"ran", b"waited"), oldest[1:], strict=True)
    ]
