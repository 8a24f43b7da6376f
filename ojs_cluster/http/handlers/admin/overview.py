"""Return the overview for operators: sums of the whole cluster, and its queues.

The throughput is the average per minute of the last hour, or of the time since the oldest queue was
created if that is shorter (spec: ojs-admin-api 6 and 10).
"""

from __future__ import annotations

import time

from ojs_cluster.core.errors import NotFound
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.core.queue_defaults import POLICY, layered
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.cursor_kinds import QUEUES
from ojs_cluster.http.handlers.admin.queue_config import shown_defaults
from ojs_cluster.http.handlers.queues import counts
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.shapes.queues import (
    AdminQueue,
    AdminQueueDetail,
    AdminQueueList,
    QueueConfiguration,
    QueueDurations,
    QueueThroughput,
)
from ojs_cluster.http.shapes.system import ClusterStats, CountedQueues
from ojs_cluster.store.engine.queues import queues as store_queues
from ojs_cluster.store.engine.queues.partition_maintenance import get_partitions
from ojs_cluster.store.engine.queues.queue_sums import QueueSums
from ojs_cluster.store.engine.queues.queues import QueueStats
from ojs_cluster.store.features.rate_limits import rate_limits as store_limits
from ojs_cluster.store.features.statistics.series import Periods, queue_series
from ojs_cluster.store.ground.process_state.job_counts import WAIT_BUCKETS
from ojs_cluster.store.ground.process_state.queue_defaults import get_defaults
from ojs_cluster.store.operators.operations.metrics import oldest_available_ms
from ojs_cluster.store.operators.operations.overview import Overview, sum_within

_MAX_COMPARED = 200
"""Maximum number of queues that are compared to find the slowest queues."""


async def stats(app: App, request: Request) -> Response:
    """Return the statistics of all queues together, or of the queue that the request names.

    The sums cover the first ``queues_counted`` queues, if there are too many queues to read all. If
    the API key is restricted to some queues, the sums cover only these queues, and the number of
    workers is absent, because workers serve other queues as well.

    With more than 2000 queues the sums may be up to 60 s old, and ``as_of`` tells from when they
    are: the next ones are computed while callers get the last ones.

    With ``detail=true``, ``queues`` lists the queues whose jobs run longest, or the queue that the
    request names. For the command line client ``queues`` and ``workers`` are objects.

    (spec: ojs-admin-api 10.1)
    """
    given = query.parameters(request.query)
    name = given.get("queue")
    sums: Overview | QueueSums
    if request.queues is None:
        sums = overview = await app.overview.get()
    elif not name:
        sums = await sum_within(app.store, request.queues)
    if name:
        check_queues(request.queues, [name])
        totals = await _existing(app, name)
        queues = counted = 1
        paused = int(totals.paused)
    else:
        totals, queues, counted, paused = sums.stats, sums.queues, sums.counted, sums.paused
    counted_queues: CountedQueues = {"queues": queues, "queues_counted": counted}
    if query.boolean(given, "detail"):
        limit = query.integer(given, "limit", 10, low=1, high=100)
        counted_queues["queues"] = (
            [_durations(totals)] if name else await _slowest(app, request, limit)
        )
    elif request.from_cli:
        counted_queues["queues"] = {"total": queues, "active": counted - paused, "paused": paused}
    if totals.now_ms:
        counted_queues["as_of"] = replies.iso(totals.now_ms)
    if request.queues is None:
        counted_queues["workers"] = overview.workers
        if request.from_cli:
            total = {"total": overview.workers}
            counted_queues["workers"] = total | {**overview.worker_states}
    members: ClusterStats = {
        **counted_queues,
        "jobs": counts(totals),
        "dead_letters": totals.dead,
        "throughput": _throughput(totals),
        "uptime_seconds": int(time.monotonic() - app.started),
        "maintenance": app.maintenance.members(),
    }
    return replies.json_response(200, members)


async def _slowest(app: App, request: Request, limit: int) -> list[QueueDurations]:
    """Return the queues whose jobs ran longest, among the first ``_MAX_COMPARED`` by name."""
    listed = await store_queues.list_queues(app.store, limit=_MAX_COMPARED, within=request.queues)
    queues = sorted(listed.entries, key=lambda queue: queue.avg_duration_ms, reverse=True)
    return [_durations(queue) for queue in queues[:limit]]


def _durations(queue: QueueStats) -> QueueDurations:
    ended = queue.failed_last_hour + queue.completed_last_hour
    return {
        "name": queue.name,
        "depth": queue.depth,
        "avg_duration_ms": queue.avg_duration_ms,
        "error_rate": round(queue.failed_last_hour / max(1, ended), 4),
    }


async def list_queues(app: App, request: Request) -> Response:
    """List queues by name.

    (spec: ojs-admin-api 6.1)
    """
    page = query.numbered_page(query.parameters(request.query), QUEUES)
    queues, total, last = await store_queues.list_queues(
        app.store, limit=page.limit, offset=page.offset, after=page.after, within=request.queues
    )
    pages = query.pagination(page, len(queues), total, last)
    members = AdminQueueList(items=[queue_json(queue) for queue in queues], pagination=pages)
    return replies.json_response(200, members)


async def get_queue(app: App, _request: Request, name: str) -> Response:
    """Return a queue with its configuration.

    (spec: ojs-admin-api 6.2)
    """
    queue = await _existing(app, name)
    limits = (await store_limits.get_queue_limits(app.store, name)).usage.limits.json()
    partitions = (await get_partitions(app.store, name)).count
    configuration: QueueConfiguration = {"partitions": partitions, **limits}
    if "rate" in limits:
        configuration["rate_limit"] = limits["rate"]  # the name in the admin document
    own, policy = await get_defaults(app.store, name), await get_defaults(app.store, POLICY)
    defaults = shown_defaults(layered(own, policy))
    if "retention" in defaults:
        configuration["retention"] = defaults["retention"]
    shown: AdminQueueDetail = {**queue_json(queue), "configuration": configuration}
    last_hour = Periods(queue.now_ms // 60_000 - 60, 60, 1)
    for point in await queue_series(app.store, name, last_hour):
        if any(point.times[WAIT_BUCKETS]):
            shown["latency_ms"] = {
                "p50": point.wait_ms(0.5),
                "p95": point.wait_ms(0.95),
                "p99": point.wait_ms(0.99),
            }
    oldest_ms = await oldest_available_ms(app.store, name)
    if oldest_ms is not None:
        shown["oldest_available_at"] = replies.iso(oldest_ms)
    return replies.json_response(200, shown)


async def _existing(app: App, name: str) -> QueueStats:
    check_queue(name, field="name")
    if not await store_queues.exists(app.store, name):
        raise NotFound("queue", name)
    return await store_queues.get_stats(app.store, name)


def queue_json(queue: QueueStats) -> AdminQueue:
    """Return the members of a queue as the API shows them."""
    shown: AdminQueue = {
        "name": queue.name,
        "state": queue.status,
        "paused": queue.paused,
        "counts": counts(queue),
        "depth": queue.depth,
        "dead_letters": queue.dead,
        "throughput": _throughput(queue),
        "avg_wait_ms": queue.avg_wait_ms,
        "avg_duration_ms": queue.avg_duration_ms,
    }
    if queue.created_ms is not None:
        shown["created_at"] = replies.iso(queue.created_ms)
    if queue.paused_ms is not None:
        shown["paused_at"] = replies.iso(queue.paused_ms)
    return shown


def _throughput(queue: QueueStats) -> QueueThroughput:
    """Return the throughput, also in the whole numbers that the command line client reads."""
    return {
        "completed_per_min": round(queue.completed_per_minute),
        "failed_per_min": round(queue.failed_per_minute),
        "avg_latency_ms": queue.avg_wait_ms,
        "completed_per_minute": round(queue.completed_per_minute, 3),
        "processed_per_minute": round(queue.completed_per_minute + queue.failed_per_minute, 3),
        "failed_per_minute": round(queue.failed_per_minute, 3),
    }
