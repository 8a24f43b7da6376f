"""Record the numbers of all queues once per minute, for statistics over time.

The transitions count in each queue's hash. Once per minute the leader of the meta tag samples all
queues, a bounded number with each script. ``sample_queues.lua`` adds the growth since the last
sample to totals of the shard, and atomically stores the new sample. So every change is counted
once, even if the leader dies, and the totals remain when a queue is removed. The sums over all
shards are then stored as the record of the minute. If a minute is missed, no number is lost:
records are totals, so the next record contains the growth of both minutes.

The transitions do not count per minute themselves, because each of them would have to write one
more key.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.features.statistics.records import HOURS, MINUTES, QUEUE_MINUTES, STATES
from ojs_cluster.store.ground.fanout import run_concurrently

log = logging.getLogger("ojs.store")

_PAGE: Final = 1000
"""Number of queue names that are read at once."""
_PAGE_PAUSE_S: Final = 0.05
"""Pause after each page, in seconds. So 100 000 queues cause no burst of load."""
_CHUNK: Final = 50
"""Number of queues that one script samples. The script takes about 10 µs per queue."""


@dataclass(slots=True)
class _Round:
    """What the samples of one minute have read so far.

    Attributes:
        minute: the minute, in Unix minutes.
        depths: numbers of jobs of the queues read so far, by shard.
        failed: shards that have failed. They are not read again in this minute.
    """

    minute: int
    depths: dict[Shard, list[int]] = field(default_factory=dict)
    failed: set[Shard] = field(default_factory=set)


class MinuteRecorder:
    """Records minutes for one process, and remembers the last numbers of each shard.

    If a shard does not answer, or answers with an error, the record contains the totals that the
    shard returned last, which are a lower bound.
    """

    def __init__(self, store: Store) -> None:
        """Create a recorder that knows no numbers yet."""
        self._store = store
        self._totals: dict[Shard, list[int]] = {}
        self._depths: dict[Shard, list[int]] = {}

    async def minute_to_record(self) -> tuple[int | None, int]:
        """Return the present minute if it has no record yet, and the time until the next minute.

        Returns:
            The present minute in Unix minutes by the clock of Redis, None if it has a record; and
            the number of milliseconds until the next minute.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        redis, meta = self._store.redis, self._store.keys.meta
        time: Any = await redis.call(meta.slot, "TIME", idempotent=True)
        now_ms = int(time[0]) * 1000 + int(time[1]) // 1000
        minute = now_ms // 60_000
        slot = minute % MINUTES
        stored: Any = await redis.call(
            meta.slot, "HGET", meta.history_minutes, slot, idempotent=True
        )
        is_recorded = (stored or b"").startswith(b"%d," % minute)
        return (None if is_recorded else minute), 60_000 - now_ms % 60_000

    async def record(self, minute: int) -> bool:
        """Sample all queues and store the record of a minute. A repetition counts nothing again.

        Args:
            minute: the minute at whose start the samples count as taken, in Unix minutes.

        Returns:
            Whether a record was stored. None is stored until this process has read all queues of
            every shard at least once.

        Raises:
            BackendUnavailable: the meta tag's master did not answer in time.
        """
        store, meta = self._store, self._store.keys.meta
        await store.partitions.refresh_if_stale(store)
        current = _Round(minute)
        after = b""
        while True:
            names: Any = await store.redis.call(
                meta.slot,
                *("ZRANGEBYLEX", meta.queues, b"(" + after if after else "-", "+", "LIMIT", 0),
                _PAGE,
                idempotent=True,
            )
            await self._sample_page([name.decode(errors="replace") for name in names], current)
            if len(names) < _PAGE:
                break
            after = names[-1]
            await trio.sleep(_PAGE_PAUSE_S)
        # Of a shard that has failed, only some queues may have been read.
        self._depths.update({s: d for s, d in current.depths.items() if s not in current.failed})
        if len(self._depths) < len(store.keys):
            return False
        sums = [sum(column) for column in zip(*self._totals.values(), strict=True)]
        depths = [sum(column) for column in zip(*self._depths.values(), strict=True)]
        await store.run_meta(
            "record_minute",
            [meta.history_minutes, meta.history_hours],
            [minute, MINUTES, HOURS, ",".join(map(str, [*sums, *depths]))],
        )
        return True

    async def _sample_page(self, names: Sequence[str], current: _Round) -> None:
        """Sample some queues.

        Shards that were not read yet are read even if they have none of these queues, because a
        record needs the totals of every shard.
        """
        store = self._store
        queues_of: dict[Shard, list[str]] = {
            shard: [] for shard in store.keys if shard not in current.depths
        }
        for name in names:
            count = store.partitions.layout(name).occupied_count
            for shard in store.keys.partitions(name, count):
                queues_of.setdefault(shard, []).append(name)

        async def sample_shard(shard: Shard) -> None:
            if shard in current.failed:
                return
            if not store.redis.is_responsive(shard.slot):
                current.failed.add(shard)
                return
            try:
                await self._sample_shard(shard, queues_of[shard], current)
            except (BackendUnavailable, RedisReplyError) as error:
                current.failed.add(shard)
                log.warning("cannot sample the queues of shard %d: %s", shard.index, error)

        await run_concurrently(queues_of, sample_shard)

    async def _sample_shard(self, shard: Shard, names: Sequence[str], current: _Round) -> None:
        for start in range(0, max(1, len(names)), _CHUNK):
            chunk = names[start : start + _CHUNK]
            keys = [shard.history_totals]
            for name in chunk:
                keys += (shard.queue_counters(name), shard.queue_available(name))
                keys += (shard.queue_blocked(name), shard.queue_history(name))
                keys.append(shard.queue_times(name))
            totals, depths, damaged = await self._store.run(
                shard, "sample_queues", keys, [current.minute, QUEUE_MINUTES], idempotent=True
            )
            if damaged:
                damaged_names = [chunk[position - 1] for position in damaged]
                log.warning("cannot sample queues of shard %d: %s", shard.index, damaged_names)
            self._totals[shard] = [read_number(total) for total in totals]
            sums = current.depths.get(shard, [0] * len(STATES))
            current.depths[shard] = [total + int(n) for total, n in zip(sums, depths, strict=True)]
