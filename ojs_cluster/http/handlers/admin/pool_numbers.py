"""The numbers of worker pools: workers, active jobs, and what their queues do now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.pools.pool import Pool
from ojs_cluster.http.app import App
from ojs_cluster.http.shapes.pools import PoolLoad, QueueLoad
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.queues import QueueStats, get_stats
from ojs_cluster.store.features.statistics.recent_minutes import LastMinute, last_minute
from ojs_cluster.store.features.workers.lists import list_workers
from ojs_cluster.store.ground.fanout import run_concurrently

WINDOW: Final[Literal["PT1M"]] = "PT1M"
"""The time of the numbers whose names end in ``_1m`` (spec: ojs-fair-scheduling 10.2)."""
_MAX_WORKERS: Final = 1000
"""Maximum number of workers that are read, those that were seen last."""
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class _Described:
    """What a worker has told about itself."""

    pool: str | None
    queues: frozenset[str]
    concurrency: int

    def serves(self, pool: Pool) -> bool:
        """Return whether the worker names the pool, or no pool and only queues of this one."""
        if self.pool is not None:
            return self.pool == pool.name
        return bool(self.queues) and self.queues.issubset(pool.queues)


async def loads_of(app: App, pools: Sequence[Pool]) -> list[PoolLoad]:
    """Return the workers of pools, and the active jobs of their queues.

    Workers that missed three heartbeats do not count.
    """
    if not pools:
        return []
    now_ms = app.store.clock.now_ms()
    listed = await list_workers(app.store, limit=_MAX_WORKERS)
    workers = [
        _described(worker.info) for worker in listed.entries if not worker.stale(app.store, now_ms)
    ]
    queues = await _read_queues(app.store, pools)
    loads: list[PoolLoad] = []
    for pool in pools:
        serving = [worker for worker in workers if worker.serves(pool)]
        loads.append(
            {
                "id": pool.name,
                "workers": len(serving),
                "active_workers": len(serving),
                "active_jobs": sum(queues[queue].active_jobs for queue in pool.queues),
                "concurrency": sum(worker.concurrency for worker in serving),
            }
        )
    return loads


async def queues_now(app: App, pools: Sequence[Pool]) -> dict[str, QueueLoad]:
    """Return what the queues of pools do now, by queue.

    A starved queue has had available jobs since the last minute ended, in which none started.
    """
    stats = await _read_queues(app.store, pools)
    minutes = await last_minute(app.store, list(stats))
    started = {queue: minutes.get(queue, LastMinute()).started for queue in stats}
    total = sum(started.values())
    return {
        queue: {
            "dispatch_count_1m": started[queue],
            "dispatch_ratio_1m": round(started[queue] / total, 4) if total else 0.0,
            "avg_wait_ms": found.avg_wait_ms,
            "active_jobs": found.active_jobs,
            "starved": _is_starved(found, minutes.get(queue)),
        }
        for queue, found in stats.items()
    }


def strategy_of(pools: Iterable[Pool]) -> str:
    """Return the strategy of all pools; ``mixed`` if they differ, ``strict`` without pools."""
    strategies = {pool.strategy for pool in pools}
    return "mixed" if len(strategies) > 1 else next(iter(strategies), "strict")


def _is_starved(queue: QueueStats, minute: LastMinute | None) -> bool:
    if minute is None or queue.paused or minute.started:
        return False
    return bool(minute.available and queue.counts[State.AVAILABLE])


async def _read_queues(store: Store, pools: Iterable[Pool]) -> Mapping[str, QueueStats]:
    """Return the numbers of the queues of pools: those of 6400 queues take about a second."""
    found: dict[str, QueueStats] = {}

    async def read(queue: str) -> None:
        found[queue] = await get_stats(store, queue)

    names = dict.fromkeys(queue for pool in pools for queue in pool.queues)
    await run_concurrently(names, read)
    return {queue: found[queue] for queue in names}


def _described(info: bytes) -> _Described:
    members = _decode(info)

    def value(name: str, kind: Any, default: Any) -> Any:
        try:
            return msgspec.json.decode(members[name], type=kind)
        except (KeyError, msgspec.DecodeError):  # a worker may send anything
            return default

    return _Described(
        value("pool", str, None),
        frozenset(value("queues", list[str], ())),
        max(0, value("concurrency", int, 0)),
    )
