"""Count the parked jobs of a queue, for operators (``store/include/queues/leave_parked.lua``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

_JOBS_READ: Final = 200
"""Number of parked jobs of a partition whose types are read, which takes 0.5 ms."""


@dataclass(slots=True)
class ParkedJobs:
    """The parked jobs of one type.

    Attributes:
        count: their number.
        since_ms: when the oldest of those that were read became available, in Unix milliseconds.
    """

    count: int
    since_ms: int


async def read_parked_types(store: Store, queue: str) -> Mapping[str, ParkedJobs]:
    """Return the parked jobs of a queue by their type.

    Of a partition with many parked jobs, those of types with less than a 200th may be left out.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found: dict[str, ParkedJobs] = {}

    async def read(shard: Shard) -> None:
        args: list[Arg] = [queue, _JOBS_READ]
        key = shard.parked_jobs(queue)
        reply = await store.run(shard, "parked_types", [key], args, idempotent=True)
        for name, count, since_ms in zip(reply[::3], reply[1::3], reply[2::3], strict=True):
            jobs = found.setdefault(name.decode(), ParkedJobs(0, since_ms))
            jobs.count += count
            jobs.since_ms = min(jobs.since_ms, since_ms)

    await run_concurrently(await store.partitions.occupied_shards(store, queue), read)
    return found
