"""Count what belongs to no queue, for metrics: workers, workflows, cron jobs, memory of masters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.settings import Address
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.validate_job import read_number
from ojs_cluster.store.features.workers.workers import count_by_status
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.operators.dashboard.marks import Mark, read_marks

_PATIENCE_S: Final = 0.5
"""Longest time in seconds to wait for one of the numbers."""
_LATE_MS: Final = 30_000
"""Delay of an occurrence in ms from which a cron job is late."""
_MAX_MARKS: Final = 10
_MARKED_MS: Final = 86_400_000
CRON_OUTCOMES: Final = ("fire", "manual", "skip", "error")
"""What became of occurrences, as ``cron_claim_occurrence.lua`` counts it."""


@dataclass(slots=True)
class ClusterCounts:
    """The numbers. One that could not be read in time is None, or is not in its mapping.

    Attributes:
        workers: number of workers by status.
        active: number of jobs that workers have.
        workflows: number of running workflows.
        cron: number of occurrences of cron jobs by ``CRON_OUTCOMES``.
        late_crons: number of cron jobs that should have run.
        marks: the newest marks on the charts, at most ``_MAX_MARKS`` of a day, the oldest first.
        memory: used bytes and the limit (0 for none) of each master, by its address.
    """

    workers: Mapping[str, int] | None = None
    active: int | None = None
    workflows: int | None = None
    cron: Mapping[str, int] = field(default_factory=dict)
    late_crons: int | None = None
    marks: Sequence[Mark] = ()
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)


async def read_counts(store: Store) -> ClusterCounts:
    """Return the numbers that the masters tell in time."""
    counts = ClusterCounts()

    async def read_workers() -> None:
        if all(store.redis.is_responsive(shard.slot) for shard in store.keys):
            by_status, _ = await count_by_status(store)
            counts.workers = {str(status): count for status, count in by_status.items()}

    async def read_shards() -> None:
        reads = [
            PackedReads(
                shard.slot,
                pack(("ZCARD", shard.active)) + pack(("ZCARD", shard.running_workflows)),
                2,
            )
            for shard in store.keys
        ]
        sizes: list[Any] = await store.redis.read_each(reads)
        # A sum without one shard would look like jobs that have ended.
        if all(len(each) == 2 and all(isinstance(n, int) for n in each) for each in sizes):
            counts.active, counts.workflows = (sum(column) for column in zip(*sizes, strict=True))

    async def read_crons() -> None:
        meta = store.keys.meta
        if store.redis.is_responsive(meta.slot):
            found: Any = await store.redis.call(
                meta.slot, "HMGET", meta.cron_counts, *CRON_OUTCOMES, idempotent=True
            )
            late_ms = store.clock.now_ms() - _LATE_MS
            late: Any = await store.redis.call(
                meta.slot, "ZCOUNT", meta.crons, "-inf", late_ms, idempotent=True
            )
            counts.cron = dict(zip(CRON_OUTCOMES, map(read_number, found), strict=True))
            counts.late_crons = late

    async def read_latest_marks() -> None:
        if store.redis.is_responsive(store.keys.meta.slot):
            now_ms = store.clock.now_ms()
            counts.marks = (await read_marks(store, now_ms - _MARKED_MS, now_ms))[-_MAX_MARKS:]

    async def read_memory() -> None:
        await run_concurrently(store.redis.topology.masters, read_master)

    async def read_master(address: Address) -> None:
        with trio.move_on_after(_PATIENCE_S), suppress(BackendUnavailable, RedisReplyError):
            info: Any = await store.redis.call_node(address, "INFO", "memory")
            lines = dict(line.partition(b":")[::2] for line in info.splitlines())
            used, limit = lines.get(b"used_memory"), lines.get(b"maxmemory")
            counts.memory[str(address)] = read_number(used), read_number(limit)

    async def read_in_time(read: Any) -> None:
        with trio.move_on_after(_PATIENCE_S), suppress(BackendUnavailable, RedisReplyError):
            await read()

    reads = [read_workers, read_shards, read_crons, read_latest_marks, read_memory]
    await run_concurrently(reads, read_in_time)
    return counts
