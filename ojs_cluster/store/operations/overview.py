"""Sum the numbers of all queues and workers for operators (spec: ojs-admin-api 10.1)."""

from __future__ import annotations

from dataclasses import dataclass

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.queues.queues import QueueStats, list_queues, sum_stats
from ojs_cluster.store.workers import workers

MOST_QUEUES = 10_000
"""Most queues in the sums. The first by name are taken."""
MOST_QUEUES_WITHIN = 1000
"""The same for a caller that may see only some queues. Such sums are not cached."""
_PAGE = 500
OVERVIEW_S = 20.0
"""Time in seconds that reading all queues may take beyond the usual time of a request."""
_NO_QUEUES = QueueStats(
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
    """Sums over all queues, and the number of workers.

    Args:
        queues: how many queues there are.
        counted: how many of them are in ``stats``.
        stats: the sums.
        workers: how many workers are known.
    """

    queues: int
    counted: int
    stats: QueueStats
    workers: int


async def overview(store: Store) -> Overview:
    """Return the current sums, at the cost of one call for each partition of each queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    extend_deadline(OVERVIEW_S)
    counted, stats = 0, _NO_QUEUES
    while True:
        limit = min(_PAGE, MOST_QUEUES - counted)
        found, queues = await list_queues(store, limit=limit, offset=counted)
        counted += len(found)
        stats = sum_stats([stats, *found])
        if len(found) < limit or counted >= MOST_QUEUES:
            break
    _, known = await workers.count_by_status(store)
    return Overview(queues, counted, stats, known)


async def sum_within(store: Store, within: QueuePatterns) -> tuple[QueueStats, int, int]:
    """Return sums over the queues that ``within`` admits, their number, and how many are summed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    found, queues = await list_queues(store, limit=MOST_QUEUES_WITHIN, within=within)
    return sum_stats([_NO_QUEUES, *found]), queues, len(found)
