"""Sum the numbers of all queues and workers for operators (spec: ojs-admin-api 10.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.queue_sums import QueueSums, SumCalls, sum_queues
from ojs_cluster.store.engine.queues.queues import QueueStats
from ojs_cluster.store.features.workers import workers
from ojs_cluster.store.features.workers.workers import WorkerStatus
from ojs_cluster.store.ground.cached import Cached

MAX_QUEUES: Final = 10_000
"""Maximum number of queues in the sums, the first by name."""
MAX_QUEUES_WITHIN: Final = 1000
"""Maximum number of queues for a caller that may see only some queues. Such sums are not cached."""
OVERVIEW_S: Final = 20.0
"""Time in seconds that reading all queues may take, in addition to the usual time of a request."""
QUEUES_TO_WAIT_FOR: Final = 2000
"""Maximum number of queues whose sums are always read before they are returned. With more queues
an older overview is returned at once, and the next one is read in the background."""
MAX_AGE_S: Final = 60.0
"""Maximum age in seconds of an overview that is returned while the next one is read."""
_QUEUES_PER_S: Final = 500.0
"""Maximum number of queues that a process reads per second, on average, so that the cost does not
grow with the number of queues. The overview of 10 000 queues is read every 20 s at most."""


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


async def overview(store: Store, kept: SumCalls | None = None) -> Overview:
    """Return the current sums.

    Args:
        store: the store.
        kept: the calls of the last sums; None to build them.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    extend_deadline(OVERVIEW_S)
    sums = await sum_queues(store, MAX_QUEUES, kept=kept)
    states, worker_count = await workers.count_by_status(store)
    return Overview(sums.queues, sums.counted, sums.stats, worker_count, sums.paused, states)


def cached_overview(store: Store) -> Cached[Overview]:
    """Return a cache of the overview, whose cost does not grow with the number of queues."""
    kept = SumCalls()
    return Cached(
        lambda: overview(store, kept),
        # With few queues it is reused for nine times as long as it took, so a slow Redis spends at
        # most a tenth of its time on overviews.
        lambda value, took_s: max(9 * took_s, value.counted / _QUEUES_PER_S),
        background=store.background,
        max_age_s=lambda value: MAX_AGE_S if value.counted > QUEUES_TO_WAIT_FOR else 0.0,
    )


async def sum_within(store: Store, within: QueuePatterns) -> QueueSums:
    """Return sums over the queues that ``within`` admits.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await sum_queues(store, MAX_QUEUES_WITHIN, within)
