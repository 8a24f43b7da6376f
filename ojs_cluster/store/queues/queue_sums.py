"""Sum the numbers of many queues, by one script for up to fifty queues of a shard.

The script adds the numbers up in Redis. A call for each queue was refused: it takes the event loop
37 µs per queue, and this takes it 5 µs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.queues.queues import QueueStats, list_names_within

_PAGE: Final = 1000
"""Number of queue names of one read. The event loop serves other requests after each page."""
_CHUNK: Final = 50
"""Maximum number of queues of one script, which takes about 10 µs per queue."""
_STATES: Final = (
    State.AVAILABLE,
    *(State.SCHEDULED, State.PENDING, State.ACTIVE, State.RETRYABLE),
    *(State.COMPLETED, State.CANCELLED, State.DISCARDED),
)
"""The states in the order of ``sum_queues.lua``."""
_NUMBERS: Final = len(_STATES) + 7


@dataclass(frozen=True, slots=True)
class QueueSums:
    """Sums over queues.

    Args:
        queues: number of all queues.
        counted: number of queues that ``stats`` sums, the first by name.
        paused: number of the summed queues that are paused.
        stats: the sums. The name is empty, and there is no time of a pause. The queue created first
            gives the time of the creation.
    """

    queues: int
    counted: int
    paused: int
    stats: QueueStats


async def sum_queues(
    store: Store, max_queues: int, within: QueuePatterns | None = None
) -> QueueSums:
    """Return the sums over the first queues by name.

    Args:
        store: the store.
        max_queues: maximum number of queues to sum.
        within: patterns of the queues that the API key may access, None for all queues.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    await store.partitions.refresh_if_stale(store)
    queues_of: dict[Shard, tuple[list[str], list[str]]] = {}
    counted = 0
    if within is None:
        total, counted = await _add_first_names(store, max_queues, queues_of)
    else:
        names = await list_names_within(store, within)
        total, counted = len(names), min(len(names), max_queues)
        for start in range(0, counted, _PAGE):
            _add_names(store, names[start : min(start + _PAGE, counted)], queues_of)
            await trio.lowlevel.checkpoint()
    sums = [0] * _NUMBERS
    now_ms = 0
    created_ms: int | None = None

    async def add(chunk: tuple[Shard, Sequence[str], int]) -> None:
        nonlocal now_ms, created_ms
        shard, names, with_pause_flag = chunk
        keys: list[bytes] = []
        for name in names:
            keys += (shard.queue_counters(name), shard.queue_available(name))
            keys += (shard.queue_blocked(name), shard.queue_dead(name), shard.queue_minutes(name))
        reply: Any = await store.run(shard, "sum_queues", keys, [with_pause_flag], idempotent=True)
        now_ms = max(now_ms, reply[0])
        if reply[1]:
            created_ms = min(reply[1], created_ms or reply[1])
        for position, number in enumerate(reply[2:]):
            sums[position] += number

    await run_concurrently(_chunks(queues_of), add)
    return _sums(total, counted, sums, created_ms, now_ms)


async def _add_first_names(
    store: Store, max_queues: int, queues_of: dict[Shard, tuple[list[str], list[str]]]
) -> tuple[int, int]:
    """Add the first names of the registry; return the number of all names and of those added."""
    meta = store.keys.meta
    total: Any = await store.redis.call(meta.slot, "ZCARD", meta.queues, idempotent=True)
    added = 0
    while added < max_queues:
        limit = min(_PAGE, max_queues - added)
        names: Any = await store.redis.call(
            meta.slot, "ZRANGE", meta.queues, added, added + limit - 1, idempotent=True
        )
        _add_names(store, names, queues_of)
        added += len(names)
        if len(names) < limit:
            break
    return total, added


def _add_names(
    store: Store, names: Iterable[bytes], queues_of: dict[Shard, tuple[list[str], list[str]]]
) -> None:
    """Add each queue to its shards: to the first list of partition 0, to the second of others."""
    for raw_name in names:
        name = raw_name.decode()
        shards = store.keys.partitions(name, store.partitions.layout(name).occupied_count)
        for number, shard in enumerate(shards):
            queues_of.setdefault(shard, ([], []))[number > 0].append(name)


def _chunks(
    queues_of: dict[Shard, tuple[list[str], list[str]]],
) -> list[tuple[Shard, Sequence[str], int]]:
    """Return the calls: a shard, its queues, and how many of them have their partition 0 there."""
    calls: list[tuple[Shard, Sequence[str], int]] = []
    for shard, lists in queues_of.items():
        for is_first, names in zip((True, False), lists, strict=True):
            for start in range(0, len(names), _CHUNK):
                chunk = names[start : start + _CHUNK]
                calls.append((shard, chunk, len(chunk) if is_first else 0))
    return calls


def _sums(
    total: int, counted: int, sums: Sequence[int], created_ms: int | None, now_ms: int
) -> QueueSums:
    acked, dead, paused, completed, failed, run_ms, wait_ms = sums[len(_STATES) :]
    stats = QueueStats(
        name="",
        counts=dict(zip(_STATES, sums, strict=False)),
        acked=acked,
        dead=dead,
        created_ms=created_ms,
        paused_ms=None,
        draining_ms=None,
        now_ms=now_ms,
        completed_last_hour=completed,
        failed_last_hour=failed,
        avg_duration_ms=run_ms // completed if completed else 0,
        avg_wait_ms=wait_ms // completed if completed else 0,
    )
    return QueueSums(total, counted, paused, stats)
