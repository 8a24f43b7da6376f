"""Sum the numbers of all queues and workers for operators (spec: ojs-admin-api 10.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.queues.queues import QueueStats, list_queues, sum_stats
from ojs_cluster.store.workers import workers
from ojs_cluster.store.workers.workers import WorkerStatus

MAX_QUEUES = 10_000
"""Maximum number of queues in the sums, the first by name."""
MAX_QUEUES_WITHIN = 1000
"""Maximum number of queues for a caller that may see only some queues. Such sums are not cached."""
_PAGE = 500
OVERVIEW_S = 20.0
"""Time in seconds that reading all queues may take, in addition to the usual time of a request."""
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
        queues: number of all queues.
        counted: number of queues that ``stats`` sums.
        stats: the sums.
        workers: number of all workers.
        paused: number of the summed queues that are paused.
        worker_states: number of workers by status.
    """

    queues: int
    counted: int
    stats: QueueStats
    workers: int
    paused: int
    worker_states: Mapping[WorkerStatus, int]


async def overview(store: Store) -> Overview:
    """Return the current sums, at the cost of one call for each partition of each queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    extend_deadline(OVERVIEW_S)
    counted, paused, stats = 0, 0, _NO_QUEUES
    while True:
        limit = min(_PAGE, MAX_QUEUES - counted)
        page, queues = await list_queues(store, limit=limit, offset=counted)
        counted += len(page)
        paused += sum(queue.paused for queue in page)
        stats = sum_stats([stats, *page])
        if len(page) < limit or counted >= MAX_QUEUES:
            break
    states, worker_count = await workers.count_by_status(store)
    return Overview(queues, counted, stats, worker_count, paused, states)


async def sum_within(store: Store, within: QueuePatterns) -> tuple[QueueStats, int, int, int]:
    """Return sums over the queues that ``within`` admits.

    Returns:
        The sums, the number of queues that ``within`` admits, how many of them are summed, and how
        many of these are paused.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    visible, queues = await list_queues(store, limit=MAX_QUEUES_WITHIN, within=within)
    paused = sum(queue.paused for queue in visible)
    return sum_stats([_NO_QUEUES, *visible]), queues, len(visible), paused
