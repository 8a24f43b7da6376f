"""Contacts with workers: every heartbeat, and now and then a fetch, goes into the record."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.driven_coroutines import own_task

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Arg, Runtime

log = logging.getLogger("ojs.store")

_RECORDS_PER_SHARD = 10_000
_MISSED_BEATS = 3
_FETCH_CONTACT_S = 5.0
_NOTE_S = 1.0
_MOST_REMEMBERED = 10_000


class FetchContacts:
    """Remembers whose fetch was noted lately, so that fetching costs no second call."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    async def note(self, store: Runtime, worker_id: str) -> None:
        """Register a worker by its fetch, at most every few seconds; '' is nobody.

        The record lies in one shard and the jobs in others, which may be well when that one is
        not: a contact that cannot be noted within a second is noted by a later fetch, and costs
        no jobs. No fetch waits for a shard that is known to be silent.
        """
        now = trio.current_time()
        if not worker_id or self._next.get(worker_id, 0.0) > now:
            return
        if len(self._next) >= _MOST_REMEMBERED:
            self._next.clear()
        self._next[worker_id] = now + _FETCH_CONTACT_S
        if not store.redis.answers(store.keys.shard_of_worker(worker_id).slot):
            return
        await own_task()
        with trio.move_on_after(_NOTE_S), suppress(BackendUnavailable):
            await contact(store, worker_id, "fetch", [])
            return
        log.warning("fetch of worker '%s' could not be noted", worker_id)


async def contact(store: Runtime, worker_id: str, kind: str, rest: list[Arg]) -> list[Any]:
    """Run ``contact.lua``; ``kind`` and ``rest`` as its head says."""
    shard = store.keys.shard_of_worker(worker_id)
    floor_ms = _MISSED_BEATS * store.settings.heartbeat_interval_ms
    reply: list[Any] = await store.run(
        shard,
        "touch_worker",
        [shard.worker(worker_id), shard.workers, shard.watched],
        [worker_id, kind, floor_ms, _RECORDS_PER_SHARD, *rest],
        idempotent=True,
    )
    return reply
