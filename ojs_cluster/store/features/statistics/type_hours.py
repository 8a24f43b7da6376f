"""Statistics by job type for three days: sums of the hours, made in the background.

Once per hour the leader of the meta tag sums the records by the minute of each type
(``type_minutes``). The transitions and the processes that count write nothing more. A shard keeps
the hours of ``MAX_HOURLY_TYPES`` types, those with the latest jobs.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.type_minutes import (
    KEPT_MINUTES,
    MAX_TYPES,
    FineRecords,
    Sums,
    TypeStatistics,
    add_minutes,
    add_records,
    list_summed,
    read_records,
)
from ojs_cluster.store.ground.runtime import Runtime

log = logging.getLogger("ojs.store")

KEPT_HOURS: Final = 73
"""Number of hours for which a type has records: three days and the hour that is not full."""
MAX_HOURLY_TYPES: Final = 64
"""Maximum number of types of a shard with records by the hour."""
_AT_ONCE: Final = 2
"""Maximum number of types that one script sums."""


class HourRollUp:
    """Sums the hours of all types; remembers of which shards it has done so."""

    def __init__(self, store: Runtime, width: int) -> None:
        """Begin without knowledge of earlier sums.

        Args:
            store: the store.
            width: number of the numbers of a record.
        """
        self._store = store
        self._width = width
        self._hours: dict[Shard, int] = {}

    async def run(self, minute: int) -> None:
        """Store the sums of the hour before a minute, in the shards where that was not done yet.

        A shard that does not answer, or whose clock is still in the hour before, is tried again by
        the next call. After two hours without a call the hours in between are lost.

        Args:
            minute: the present minute, in Unix minutes.
        """
        hour = minute // 60 - 1

        async def roll_up(shard: Shard) -> None:
            if not self._store.redis.is_responsive(shard.slot):
                return
            try:
                if await self._roll_up(shard, hour):
                    self._hours[shard] = hour
            except (BackendUnavailable, RedisReplyError) as error:
                log.debug("cannot sum the types of shard %d: %r", shard.index, error)

        waiting = [shard for shard in self._store.keys if self._hours.get(shard) != hour]
        await run_concurrently(waiting, roll_up)

    async def _roll_up(self, shard: Shard, hour: int) -> bool:
        """Store the sums of a shard; return whether they were of this hour or a later one."""
        names: Any = await self._store.redis.call(
            shard.slot, "ZRANGE", shard.job_types, 0, MAX_TYPES, idempotent=True
        )
        for start in range(0, len(names), _AT_ONCE):
            chunk = names[start : start + _AT_ONCE]
            keys = [shard.type_hours]
            for name in chunk:
                text = name.decode(errors="replace")
                keys += (shard.type_history(text), shard.type_hour_history(text))
            args = [self._width, KEPT_MINUTES, KEPT_HOURS, MAX_HOURLY_TYPES, *chunk]
            stored = await self._store.run(shard, "roll_up_types", keys, args, idempotent=True)
            if int(stored) < hour:
                return False
        return True


async def read_type_hours(
    store: Runtime, job_type: str, width: int, fine: FineRecords | None = None
) -> dict[int, list[int]]:
    """Return the numbers of one type by hour, in Unix hours.

    Args:
        store: the store.
        job_type: the type.
        width: number of the numbers of a record.
        fine: gets the waits and runs in fine buckets.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await read_records(store, job_type, width, Shard.type_hour_history, fine)


async def list_types_by_hour(
    store: Runtime, hours: int, width: int
) -> tuple[list[TypeStatistics], int]:
    """Return the types with jobs in the last full hours and since then, those with most jobs first.

    Args:
        store: the store.
        hours: number of full hours, less than ``KEPT_HOURS``.
        width: number of the numbers of a record.

    Returns:
        The types, and the number of shards that did not answer.
    """

    async def read(shard: Shard, sums: Sums) -> None:
        found: Any = await store.redis.call(
            *(shard.slot, "ZREVRANGE", shard.type_hours, 0, MAX_HOURLY_TYPES - 1, "WITHSCORES"),
            idempotent=True,
        )
        names, summed = found[::2], int(float(found[1])) if found else 0
        keys = [shard.type_hour_history(name.decode(errors="replace")) for name in names]
        await add_records(store, shard, names, keys, [width, hours, KEPT_HOURS, 60], sums)
        time: Any = await store.redis.call(shard.slot, "TIME", idempotent=True)
        hour, second = divmod(int(time[0]), 3600)
        minutes = second // 60 + 1
        if summed < hour - 1:
            minutes += 60  # the last full hour has no sums yet, or no jobs
        await add_minutes(store, shard, minutes, width, sums)

    return await list_summed(store, read, width)
