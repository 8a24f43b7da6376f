"""Which queues the workers serve, by what they report with their heartbeats."""

from __future__ import annotations

import time
from typing import Final

import msgspec
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.store.workers.lists import list_workers
from ojs_cluster.ui.pages.queues.workers_by_queue import WorkersByQueue
from ojs_cluster.ui.patience import await_while_healthy
from ojs_cluster.ui.redaction.redaction import Value
from ojs_cluster.ui.visit import Visit

_KEPT_S: Final = 15.0
"""Maximum age of the numbers in seconds. Each reads a record per worker, so it is expensive."""
MAX_WORKERS: Final = 1000
"""Maximum number of workers that are read, those that were seen last."""
_MAX_QUEUES: Final = 20_000
"""Maximum number of names that are counted: clients choose them."""
_UNKNOWN_MS: Final = 5 * 60_000
"""For how long a worker without a list of queues may be one that serves any of them."""


class _Reported(msgspec.Struct):
    """What a worker reports of itself."""

    queues: list[str] = []


_decoder = msgspec.json.Decoder(_Reported)


async def read_workers_by_queue(visit: Visit) -> WorkersByQueue | None:
    """Return the numbers, which viewers share.

    They count as no request: the pages that show them read the queues, which does.

    Returns:
        The numbers; None for a key for some queues, while Redis does not answer, and if the
        operator hides the queues of workers.
    """
    if not visit.sees_cluster:
        return None
    try:
        return await await_while_healthy(
            visit.app,
            lambda: visit.workers_by_queue.get("", lambda: _count(visit.as_any_viewer()), _KEPT_S),
        )
    except OJSError:
        return None


async def _count(visit: Visit) -> WorkersByQueue | None:
    store, now_ms = visit.app.store, time.time_ns() // 1_000_000
    workers, total = await list_workers(store, limit=MAX_WORKERS)
    counts: dict[str, int] = {}
    is_complete = total <= MAX_WORKERS
    reported: list[bytes] = []
    for worker in workers:
        await trio.lowlevel.checkpoint()  # a worker may report hundreds of names
        if worker.status(store, now_ms) != "running":
            continue
        queues = _queues_of(worker.info)
        if not queues:
            is_complete &= now_ms - worker.last_seen_ms > _UNKNOWN_MS
            continue
        reported.append(msgspec.json.encode(queues))
        for name in dict.fromkeys(queues):
            if name in counts or len(counts) < _MAX_QUEUES:
                counts[name] = counts.get(name, 0) + 1
            else:
                is_complete = False
    values = [Value(raw, ("worker", "queues")) for raw in reported]
    if await visit.redaction.apply(values) != reported:
        return None
    return WorkersByQueue(counts, is_complete)


def _queues_of(info: bytes) -> list[str]:
    """Return the queues that a worker reports; none if it does not report a list of names."""
    try:
        return _decoder.decode(info).queues
    except msgspec.DecodeError:
        return []
