"""Record when a worker was last seen: at every heartbeat, and at some fetches."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ojs_cluster.store.ground.runtime import Arg, Runtime

log = logging.getLogger("ojs.store")

_RECORDS_PER_SHARD = 10_000
"""Maximum number of worker records in a shard. If it is exceeded, the oldest record is removed."""
MISSED_HEARTBEATS = 3
"""Number of missed heartbeats after which a worker is stale and may be presumed dead."""
_FETCH_TOUCH_INTERVAL_S = 5.0
"""Minimum time in seconds between two recorded fetches of one worker."""
_TOUCH_TIMEOUT_S = 1.0
"""Longest time in seconds by which recording a fetch may delay the fetch."""
_READ_TIMEOUT_S: Final = 1.0
"""Longest time in seconds by which reading records of workers may delay the end of a lease."""
_MAX_REMEMBERED = 10_000
"""Maximum number of workers whose last recorded fetch a process remembers."""


class FetchTouches:
    """Record in a worker's record that the worker fetches, at most once in five seconds."""

    def __init__(self) -> None:
        self._next_touch: dict[str, float] = {}

    def is_recent(self, worker_id: str, now: float) -> bool:
        """Return whether ``touch`` records nothing at ``now``, in trio's seconds."""
        return not worker_id or self._next_touch.get(worker_id, 0.0) > now

    async def touch(self, store: Runtime, worker_id: str) -> None:
        """Record that a worker fetches, unless that was recorded less than five seconds ago.

        The worker's record lives in one shard and the jobs in others, so a failure here must not
        fail the fetch. A record that cannot be written within a second is left to a later fetch.
        Shards that are known to be unreachable are not called.

        Args:
            store: the runtime.
            worker_id: '' for an anonymous fetch, which is not recorded.
        """
        now = trio.current_time()
        if self.is_recent(worker_id, now):
            return
        if len(self._next_touch) >= _MAX_REMEMBERED:
            self._next_touch.clear()
        self._next_touch[worker_id] = now + _FETCH_TOUCH_INTERVAL_S
        if not store.redis.is_responsive(store.keys.shard_of_worker(worker_id).slot):
            return
        await ensure_task()
        with trio.move_on_after(_TOUCH_TIMEOUT_S), suppress(BackendUnavailable):
            await touch_worker(store, worker_id, "fetch", [])
            return
        log.warning("fetch of worker '%s' was not recorded: its shard did not answer", worker_id)


async def touch_worker(store: Runtime, worker_id: str, source: str, rest: list[Arg]) -> list[Any]:
    """Run ``touch_worker.lua`` and return its reply.

    Args:
        store: the runtime.
        worker_id: the worker.
        source: ``heartbeat``, ``fetch`` or ``directive``.
        rest: further arguments, as the head of the script lists them for that source.
    """
    shard = store.keys.shard_of_worker(worker_id)
    min_silence_ms = MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms
    reply: list[Any] = await store.run(
        shard,
        "touch_worker",
        [shard.worker(worker_id), shard.workers, shard.watched],
        [worker_id, source, min_silence_ms, _RECORDS_PER_SHARD, *rest],
        idempotent=True,
    )
    return reply


async def read_deaths(store: Runtime, workers: Sequence[bytes]) -> dict[bytes, bool]:
    """Return which workers have died: those that sent heartbeats, and then missed three.

    A worker that sends no heartbeats, and one whose record cannot be read within a second, counts
    as alive: its lease may have ended because its handler is slow.

    Args:
        store: the runtime.
        workers: ids of workers that let a lease end.
    """
    has_died = dict.fromkeys(workers, False)
    min_silence_ms = MISSED_HEARTBEATS * store.settings.heartbeat_interval_ms

    async def read(worker: bytes) -> None:
        # A damaged record raises one of the others.
        with suppress(BackendUnavailable, RedisReplyError, ValueError):
            worker_id = worker.decode()
            shard = store.keys.shard_of_worker(worker_id)
            if not store.redis.is_responsive(shard.slot):
                return
            record: Any = await store.redis.call(
                *(shard.slot, "HMGET", shard.worker(worker_id)),
                *("last_heartbeat", "last_seen", "heartbeat_gap"),
                idempotent=True,
            )
            heartbeat, seen, gap = (int(value or 0) for value in record)
            silent_ms = store.clock.now_ms() - max(heartbeat, seen)
            silence_ms = max(min_silence_ms, MISSED_HEARTBEATS * gap)
            has_died[worker] = bool(heartbeat) and silent_ms > silence_ms

    with trio.move_on_after(_READ_TIMEOUT_S):
        await run_concurrently(workers, read)
    return has_died
