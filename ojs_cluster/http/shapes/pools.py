"""Worker pools in responses."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from ojs_cluster.core.pools.pool import STRATEGIES
from ojs_cluster.http.shapes.common import Count, Milliseconds, Moment
from ojs_cluster.http.shapes.keywords import between, keywords

Ratio = Annotated[float, between(0, 1)]


class PoolSettings(TypedDict):
    """The settings of a worker pool. A queue without a weight has the weight 1."""

    strategy: Annotated[str, keywords(enum=list(STRATEGIES))]
    queues: list[str]
    weights: NotRequired[dict[str, int]]


class WorkerPool(PoolSettings):
    """A worker pool. A queue without a weight has the weight 1."""

    name: str
    created_at: Moment
    updated_at: Moment


class PoolAnswer(WorkerPool):
    """A worker pool, flat and as a member."""

    pool: WorkerPool


class PoolLoad(TypedDict):
    """The workers of a pool, under two names, and the active jobs of its queues."""

    id: str
    workers: Count
    active_workers: Count
    active_jobs: Count
    concurrency: Count


class ListedPool(WorkerPool, PoolLoad):
    """A worker pool with its workers, under two names, and the active jobs of its queues.

    ``concurrency`` is the number of jobs that these workers run at the same time, as they say.
    """


class PoolList(TypedDict):
    """All worker pools whose queues the API key may access."""

    pools: list[ListedPool]
    items: list[ListedPool]
    total: Count


class PoolDeleted(TypedDict):
    """A deleted worker pool."""

    deleted: bool
    name: str


class QueueDispatches(TypedDict):
    """The jobs of a queue that fetches for pools got, and their part of all such jobs."""

    name: str
    dispatch_count: Count
    dispatch_ratio: Ratio


class QueueShare(QueueDispatches):
    """The jobs of a queue of pools, and the weight that the first pool with one gives it."""

    dispatched: Count
    weight: NotRequired[Count]


class QueueLoad(TypedDict):
    """What a queue of pools does now."""

    dispatch_count_1m: Count
    dispatch_ratio_1m: Ratio
    avg_wait_ms: Milliseconds
    active_jobs: Count
    starved: bool


class QueueNow(QueueShare, QueueLoad):
    """A queue of pools. ``starved`` tells that it had available jobs, and none started.

    ``weight`` is that of the first pool that gives it one. ``avg_wait_ms`` covers the last hour.
    """


class PoolQueueDispatches(QueueDispatches):
    """The jobs of a queue of one pool. Round-robin and weighted pools have a configured part."""

    configured_ratio: NotRequired[Ratio]


class PoolDispatches(TypedDict):
    """What the fetches of a pool got since it was last changed."""

    name: str
    strategy: str
    since: Moment
    fetches: Count
    dispatch_count: Count
    queues: list[PoolQueueDispatches]


class SchedulingStats(TypedDict):
    """What fetches got from worker pools, over all API processes.

    ``strategy`` is that of all pools, or ``mixed``.
    """

    window: Literal["PT1M"]
    strategy: str
    pools: list[PoolDispatches]
    queues: list[QueueNow]
    dispatch_count: Count


class SchedulingStatsAnswer(SchedulingStats):
    """The statistics, flat and as a member."""

    stats: SchedulingStats
