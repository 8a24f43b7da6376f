"""Read what a queue did in each of the last minutes: less than a series, for lists of queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ojs_cluster.core.jobs.states import State
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.records import (
    GROWING,
    QUEUE_MINUTES,
    STATES,
    TOTALS,
    parse_numbers,
    parse_record,
)
from ojs_cluster.store.features.statistics.series import newest_minute
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.job_counts import WAIT_BUCKETS
from ojs_cluster.store.ground.runtime import Arg

_MAX_AGE_MINUTES: Final = 3
"""Age at which the last records say nothing about now: no scheduler has taken newer ones."""
_ACKED: Final = 1 + TOTALS.index("acked")
_FAILED: Final = 1 + TOTALS.index("failed")
_READ: Final = 1 + max(_ACKED, _FAILED)
"""Number of the numbers of a record that are read. A record has about forty."""


async def recent_minutes(
    store: Store, queues: Sequence[str], minutes: int, last: int
) -> dict[str, list[tuple[int, int]]]:
    """Return the completed jobs and the failed attempts of each minute, the oldest first.

    Args:
        store: the store.
        queues: the queues. One of them costs about a millisecond of this process.
        minutes: number of minutes, at most ``QUEUE_MINUTES``.
        last: the last minute, in Unix minutes.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    first = last - minutes + 1
    slots = [minute % QUEUE_MINUTES for minute in range(first, last + 1)]
    found: dict[str, list[tuple[int, int]]] = {}

    async def read(queue: str) -> None:
        sums = [(0, 0)] * minutes
        shards: Sequence[Shard] = await store.partitions.occupied_shards(store, queue)
        for shard in shards:
            texts: Any = await store.redis.call(
                shard.slot, "HMGET", shard.queue_history(queue), *slots, idempotent=True
            )
            for text in texts:
                numbers = parse_numbers(b",".join((text or b"").split(b",", _READ)[:_READ]))
                if len(numbers) == _READ and first <= numbers[0] <= last:
                    place = numbers[0] - first
                    completed, failed = sums[place]
                    sums[place] = (completed + numbers[_ACKED], failed + numbers[_FAILED])
        found[queue] = sums

    await run_concurrently(queues, read)
    return found


@dataclass(frozen=True, slots=True)
class LastMinute:
    """What a queue did in the last minute that has a record.

    Attributes:
        started: how many of its jobs began an attempt.
        available: number of available jobs at the end of the minute.
    """

    started: int = 0
    available: int = 0


async def last_minute(store: Store, queues: Sequence[str]) -> dict[str, LastMinute]:
    """Return the last recorded minute of queues; empty if no minute was recorded lately.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    newest = await newest_minute(store)
    if newest is None or newest < store.clock.now_ms() // 60_000 - _MAX_AGE_MINUTES:
        return {}
    found: dict[str, LastMinute] = {}

    async def read(queue: str) -> None:
        started = available = 0
        for shard in await store.partitions.occupied_shards(store, queue):
            fields: tuple[Arg, ...] = (newest % QUEUE_MINUTES, "last")
            texts: Any = await store.redis.call(
                shard.slot, "HMGET", shard.queue_history(queue), *fields, idempotent=True
            )
            text, last = texts
            record = parse_record(text)
            if record is not None and record.minute == newest:
                started += sum(record.totals[len(TOTALS) :][WAIT_BUCKETS])
            numbers = parse_numbers(last)
            if len(numbers) == GROWING + len(STATES):
                available += numbers[GROWING + STATES.index(State.AVAILABLE)]
        found[queue] = LastMinute(started, available)

    await run_concurrently(queues, read)
    return found
