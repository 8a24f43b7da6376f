"""Worker pools in responses."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, Moment
from ojs_cluster.http.shapes.keywords import between

Ratio = Annotated[float, between(0, 1)]


class WorkerPool(TypedDict):
    """A worker pool. A queue without a weight has the weight 1."""

    name: str
    strategy: Literal["strict", "round-robin", "weighted", "least-loaded"]
    queues: list[str]
    weights: NotRequired[dict[str, int]]
    created_at: Moment
    updated_at: Moment


class PoolAnswer(WorkerPool):
    """A worker pool, flat and as a member."""

    pool: WorkerPool


class PoolList(TypedDict):
    """All worker pools whose queues the API key may access."""

    pools: list[WorkerPool]
    items: list[WorkerPool]
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
    """What fetches got from worker pools, over all API processes."""

    pools: list[PoolDispatches]
    queues: list[QueueDispatches]
    dispatch_count: Count


class SchedulingStatsAnswer(SchedulingStats):
    """The statistics, flat and as a member."""

    stats: SchedulingStats
