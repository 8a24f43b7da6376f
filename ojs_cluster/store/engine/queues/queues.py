"""Queues: list and read (spec: ojs-queue-config, ojs-admin-api)."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.states import TERMINAL, State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.listed import Listed, Position
from ojs_cluster.store.ground.runtime import Arg

_COUNTED_STATES = tuple(state for state in State if state is not State.AVAILABLE)
_TOTALS = (b"acked", b"failed", b"run_ms", b"wait_ms")
"""Fields of a queue's counters that only grow: completed jobs, failed attempts, and how long the
completed jobs have run and have waited, in milliseconds."""
_MAX_NAMES = 5000
"""Names that one command reads from the registry of queue names."""
_MAX_REGISTRY_WAIT_S = 0.5
"""Time in seconds after which the queue's shards are read instead of the registry."""
QueueStatus = Literal["active", "paused", "draining"]
"""A state of a queue (spec: ojs-queue-config 5.1)."""


def queue_status(*, paused: bool, draining: bool) -> QueueStatus:
    """Return the state of a queue.

    A queue that is both paused and draining is paused, because no worker empties it.
    """
    if paused:
        return "paused"
    return "draining" if draining else "active"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The state and the numbers of a queue at one time.

    Args:
        name: the queue's name.
        counts: number of jobs in each state.
        acked: number of jobs completed since the queue was created.
        dead: number of dead letters.
        created_ms: creation time in Unix milliseconds, None for a queue that does not exist.
        paused_ms: time of the pause in Unix milliseconds, None when the queue is not paused.
        draining_ms: time in Unix milliseconds from which on the queue takes no new jobs, None when
            it takes them.
        now_ms: time of the reading in Unix milliseconds.
        completed_last_hour: number of jobs completed in the last 60 minutes.
        failed_last_hour: number of attempts that failed in the last 60 minutes.
        avg_duration_ms: average run time in milliseconds of the jobs completed in the last 60
            minutes, 0 if there are none.
        avg_wait_ms: average waiting time in milliseconds of the same jobs.
        ended_minute: Unix minute in which an attempt ended last; 0 if none has, and where it is not
            read.
    """

    name: str
    counts: Mapping[State, int]
    acked: int
    dead: int
    created_ms: int | None
    paused_ms: int | None
    draining_ms: int | None
    now_ms: int
    completed_last_hour: int
    failed_last_hour: int
    avg_duration_ms: int
    avg_wait_ms: int
    ended_minute: int = 0

    def has_run_since(self, minutes: int) -> bool:
        """Return whether an attempt has ended in the last ``minutes``."""
        return self.now_ms // 60_000 - self.ended_minute <= minutes

    @property
    def paused(self) -> bool:
        """Whether the queue is paused."""
        return self.paused_ms is not None

    @property
    def status(self) -> QueueStatus:
        """The state of the queue (spec: ojs-queue-config 5.1)."""
        return queue_status(paused=self.paused, draining=self.draining_ms is not None)

    @property
    def has_live_jobs(self) -> bool:
        """Whether a job of the queue waits or is active."""
        return any(count for state, count in self.counts.items() if state not in TERMINAL)

    @property
    def deleted(self) -> bool:
        """Whether the queue does not exist: it was deleted, or no job has created it yet."""
        return self.created_ms is None and not self.has_live_jobs

    @property
    def live_jobs(self) -> int:
        """Number of jobs of the queue that wait or are active."""
        return sum(count for state, count in self.counts.items() if state not in TERMINAL)

    @property
    def active_jobs(self) -> int:
        """Number of active jobs of the queue."""
        return self.counts[State.ACTIVE]

    @property
    def in_use(self) -> bool:
        """Whether the queue is paused, draining, or has a job in any state."""
        return self.status != "active" or any(self.counts.values())

    @property
    def minutes_counted(self) -> float:
        """Length in minutes of the time that the numbers of the last hour cover.

        It is shorter than an hour for a younger queue. It is at least a minute, because the first
        seconds of a queue say nothing about its rate.
        """
        age_ms = 0 if self.created_ms is None else self.now_ms - self.created_ms
        return min(60.0, max(1.0, age_ms / 60_000))

    @property
    def completed_per_minute(self) -> float:
        """Jobs completed per minute, on average of the last hour or of the queue's life."""
        return self.completed_last_hour / self.minutes_counted

    @property
    def failed_per_minute(self) -> float:
        """Attempts that failed per minute, on average of the last hour or of the queue's life."""
        return self.failed_last_hour / self.minutes_counted

    @property
    def depth(self) -> int:
        """Number of waiting jobs: available, scheduled and retryable (spec: ojs-backpressure)."""
        counts = self.counts
        return counts[State.AVAILABLE] + counts[State.SCHEDULED] + counts[State.RETRYABLE]


async def get_stats(store: Store, queue: str) -> QueueStats:
    """Return a queue's numbers. All numbers of a queue that does not exist are 0.

    One script reads all numbers of a partition. Several partitions are read concurrently.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shards = await store.partitions.occupied_shards(store, queue)
    if len(shards) == 1:
        return await get_partition_stats(store, shards[0], queue)
    stats: dict[int, QueueStats] = {}

    async def read(number: int) -> None:
        stats[number] = await get_partition_stats(store, shards[number], queue)

    await run_concurrently(range(len(shards)), read)
    return sum_stats([stats[number] for number in range(len(shards))])


async def get_partition_stats(store: Store, shard: Shard, queue: str) -> QueueStats:
    """Return a queue's numbers in one of its shards, all read by one script."""
    now, available, dead, field_list, minute_list = await store.run(
        shard,
        "queue_stats",
        [
            *(shard.queue_counters(queue), shard.queue_available(queue)),
            *(shard.queue_dead(queue), shard.queue_minutes(queue), shard.queue_blocked(queue)),
        ],
        idempotent=True,
    )
    fields = _to_dict(field_list)
    completed, failed, run_ms, wait_ms = _growth_in_last_hour(
        fields, _to_dict(minute_list), now // 60_000
    )
    return QueueStats(
        name=queue,
        counts={
            State.AVAILABLE: available,
            **{state: read_number(fields.get(state.value.encode())) for state in _COUNTED_STATES},
        },
        acked=read_number(fields.get(b"acked")),
        dead=dead,
        created_ms=_number_or_none(fields.get(b"created")),
        paused_ms=_number_or_none(fields.get(b"paused")),
        draining_ms=_number_or_none(fields.get(b"draining")),
        now_ms=now,
        completed_last_hour=completed,
        failed_last_hour=failed,
        avg_duration_ms=run_ms // completed if completed else 0,
        avg_wait_ms=wait_ms // completed if completed else 0,
        ended_minute=read_number(fields.get(b"minute")),
    )


async def list_queues(
    store: Store,
    *,
    limit: int,
    offset: int = 0,
    after: Position | None = None,
    within: QueuePatterns | None = None,
) -> Listed[QueueStats]:
    """Return a page of queues in the order of their names, with the number of all queues.

    A deleted queue is left out. It counts until its last finished job is removed.

    Args:
        store: the store.
        limit: maximum number of queues on the page.
        offset: number of queues before the page, unless ``after`` is given.
        after: the name of the last queue before the page.
        within: patterns of the queues that the API key may access, None for all queues.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    last_before = None if after is None else str(after[0]).encode()
    total: Any
    names: Any
    # One more name than requested tells whether other queues follow.
    if within is None:
        total = await store.redis.call(meta.slot, "ZCARD", meta.queues, idempotent=True)
        part: tuple[Arg, ...] = (offset, offset + limit)
        if last_before is not None:
            part = (b"(" + last_before, "+", "BYLEX", "LIMIT", 0, limit + 1)
        names = await store.redis.call(meta.slot, "ZRANGE", meta.queues, *part, idempotent=True)
    else:
        accessible = await list_names_within(store, within)
        start = offset if last_before is None else bisect_right(accessible, last_before)
        total, names = len(accessible), accessible[start : start + limit + 1]
    page = [name.decode(errors="replace") for name in names[:limit]]
    stats: dict[str, QueueStats] = {}

    async def read(name: str) -> None:
        stats[name] = await get_stats(store, name)

    await run_concurrently(page, read)
    shown = [stats[name] for name in page if not stats[name].deleted]
    return Listed(shown, total, (page[-1],) if len(names) > limit else None)


async def list_names_within(store: Store, within: QueuePatterns) -> list[bytes]:
    """Return the names of the registered queues that the patterns admit, in order.

    Reads the whole registry, ``_MAX_NAMES`` names at a time.
    """
    meta = store.keys.meta
    admitted: list[bytes] = []
    for begin in itertools.count(0, _MAX_NAMES):
        names: Any = await store.redis.call(
            meta.slot, "ZRANGE", meta.queues, begin, begin + _MAX_NAMES - 1, idempotent=True
        )
        admitted += [name for name in names if within.admits(name.decode(errors="replace"))]
        if len(names) < _MAX_NAMES:
            break
    return admitted


async def exists(store: Store, queue: str) -> bool:
    """Return whether a queue is registered.

    A queue is registered when a job is enqueued to it, or when an operator changes a setting of it.
    While the registry does not answer, the queue exists if one of its shards has its hash.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    if store.redis.is_responsive(meta.slot):
        with trio.move_on_after(_MAX_REGISTRY_WAIT_S), suppress(BackendUnavailable):
            return (
                await store.redis.call(meta.slot, "ZSCORE", meta.queues, queue, idempotent=True)
                is not None
            )
    has_hash = False

    async def check(shard: Shard) -> None:
        nonlocal has_hash
        has_hash = has_hash or bool(
            await store.redis.call(
                shard.slot, "EXISTS", shard.queue_counters(queue), idempotent=True
            )
        )

    await run_concurrently(await store.partitions.occupied_shards(store, queue), check)
    return has_hash


def sum_stats(parts: Sequence[QueueStats]) -> QueueStats:
    """Add up the stats of a queue's partitions, or of several queues.

    The name and the time of the pause are those of the first part. The time of the reading is the
    latest, and the time of the creation the earliest of all parts.

    Args:
        parts: the stats to add up; at least one.
    """
    first = parts[0]
    completed = sum(part.completed_last_hour for part in parts)

    def average(value_of: Callable[[QueueStats], int]) -> int:
        total = sum(value_of(part) * part.completed_last_hour for part in parts)
        return total // completed if completed else 0

    return replace(
        first,
        counts={state: sum(part.counts[state] for part in parts) for state in State},
        acked=sum(part.acked for part in parts),
        dead=sum(part.dead for part in parts),
        created_ms=min(
            (part.created_ms for part in parts if part.created_ms is not None), default=None
        ),
        now_ms=max(part.now_ms for part in parts),
        completed_last_hour=completed,
        failed_last_hour=sum(part.failed_last_hour for part in parts),
        avg_duration_ms=average(lambda part: part.avg_duration_ms),
        avg_wait_ms=average(lambda part: part.avg_wait_ms),
        ended_minute=max(part.ended_minute for part in parts),
    )


def _to_dict(field_list: list[bytes]) -> dict[bytes, bytes]:
    """Return a dict from a list of alternating names and values, as HGETALL returns it."""
    items = iter(field_list)
    return dict(zip(items, items, strict=True))


def _number_or_none(value: bytes | None) -> int | None:
    return None if value is None else read_number(value)


def _growth_in_last_hour(
    fields: Mapping[bytes, bytes], records: Mapping[bytes, bytes], minute: int
) -> list[int]:
    """Return by how much each of ``_TOTALS`` has grown in the last 60 minutes.

    The record of a minute is the minute's number and the totals at its start (see
    ``store/include/base/change_counters.lua``).

    Args:
        fields: the hash of the queue's counters.
        records: the records of the last 60 minutes.
        minute: the current time in Unix minutes.
    """
    parsed = [[read_number(text) for text in record.split(b",")] for record in records.values()]
    complete = [record for record in parsed if len(record) == 1 + len(_TOTALS)]
    oldest = min((record for record in complete if minute - record[0] < 60), default=None)
    if oldest is None:
        return [0] * len(_TOTALS)
    return [
        read_number(fields.get(name)) - before
        for name, before in zip(_TOTALS, oldest[1:], strict=True)
    ]
