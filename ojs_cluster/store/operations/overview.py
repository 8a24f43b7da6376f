"""The whole cluster in a few sums, for those who operate it (spec: ojs-admin-api 10.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import extend
from ojs_cluster.store.context import Store
from ojs_cluster.store.queues.queues import QueueStats, list_queues, summed
from ojs_cluster.store.workers import workers

MOST_QUEUES = 10_000
"""Queues that are looked at, the first by name."""
MOST_QUEUES_WITHIN = 1000
"""The same for a reader of some queues, whose sums are not kept for the next reader."""
_PAGE = 500
OVERVIEW_S = 20.0
"""How much longer than any other request the look at all queues may take, in seconds."""
_NOTHING = QueueStats(
    name="",
    counts=dict.fromkeys(State, 0),
    acked=0,
    dead=0,
    created_ms=None,
    paused_ms=None,
    now_ms=0,
    completed_last_hour=0,
    failed_last_hour=0,
    avg_duration_ms=0,
    avg_wait_ms=0,
)


@dataclass(frozen=True, slots=True)
class Overview:
    """All queues together, and the workers.

    Args:
        queues: how many there are. ``counted``: how many of them are in ``stats``.
        workers: how many are known.
    """

    queues: int
    counted: int
    stats: QueueStats
    workers: int


async def overview(store: Store) -> Overview:
    """The numbers now, at the price of one call for each partition of a queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    extend(OVERVIEW_S)
    counted, stats = 0, _NOTHING
    while True:
        limit = min(_PAGE, MOST_QUEUES - counted)
        found, queues = await list_queues(store, limit=limit, offset=counted)
        counted += len(found)
        stats = summed([stats, *found])
        if len(found) < limit or counted >= MOST_QUEUES:
            break
    _, known = await workers.count_by_status(store)
    return Overview(queues, counted, stats, known)


async def sum_within(store: Store, within: QueuePatterns) -> tuple[QueueStats, int, int]:
    """Return the queues in reach together, how many there are, and how many of them it counts.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found, queues = await list_queues(store, limit=MOST_QUEUES_WITHIN, within=within)
    return summed([_NOTHING, *found]), queues, len(found)
