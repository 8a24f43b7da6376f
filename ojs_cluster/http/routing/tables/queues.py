"""The routes of queues, dead letters and rate limits."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import (
    dead_letters,
    event_streams,
    queue_lifecycle,
    queues,
    rate_limits,
)
from ojs_cluster.http.handlers.admin import bulk_retry as admin_bulk_retry
from ojs_cluster.http.handlers.bulk import views as bulk_views
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, with_aliases

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", f"{V1}/queues", queues.list_queues, Scope.DATA_READ, QueueAccess.HANDLER),
    Route("GET", f"{V1}/queues/{{name}}", queues.get, Scope.DATA_READ, QueueAccess.QUEUE),
    *with_aliases(
        Route(
            "POST",
            f"{V1}/queues",
            queue_lifecycle.create,
            Scope.ADMIN_WRITE,
            QueueAccess.HANDLER,
            action="queue.create",
        ),
        f"{V1}/admin/queues",
    ),
    *with_aliases(
        Route(
            "PUT",
            f"{V1}/queues/{{name}}",
            queue_lifecycle.put,
            Scope.ADMIN_WRITE,
            QueueAccess.QUEUE,
            action="queue.configure",
        ),
        f"{V1}/admin/queues/{{name}}",
    ),
    *with_aliases(
        Route(
            "DELETE",
            f"{V1}/queues/{{name}}",
            queue_lifecycle.delete,
            Scope.ADMIN_WRITE,
            QueueAccess.QUEUE,
            action="queue.delete",
        ),
        f"{V1}/admin/queues/{{name}}",
    ),
    Route(
        "GET",
        f"{V1}/queues/{{name}}/events",
        event_streams.stream_queue,
        Scope.DATA_READ,
        QueueAccess.QUEUE,
    ),
    Route("GET", f"{V1}/queues/{{name}}/stats", queues.stats, Scope.DATA_READ, QueueAccess.QUEUE),
    Route(
        "GET",
        f"{V1}/queues/{{name}}/priority-stats",
        queues.priority_stats,
        Scope.DATA_READ,
        QueueAccess.QUEUE,
    ),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/pause",
        queues.pause,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        action="queue.pause",
    ),
    *with_aliases(
        Route(
            "POST",
            f"{V1}/queues/{{name}}/drain",
            queues.drain,
            Scope.ADMIN_WRITE,
            QueueAccess.QUEUE,
            action="queue.drain",
        ),
        f"{V1}/admin/queues/{{name}}/drain",
    ),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/resume",
        queues.resume,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        action="queue.resume",
    ),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/purge",
        queues.purge,
        Scope.ADMIN_PURGE,
        QueueAccess.QUEUE,
        action="queue.purge",
    ),
    Route("GET", f"{V1}/dead-letter", dead_letters.list_dead, Scope.DATA_READ, QueueAccess.HANDLER),
    Route(
        "GET", f"{V1}/dead-letter/stats", dead_letters.stats, Scope.DATA_READ, QueueAccess.HANDLER
    ),
    Route(
        "POST",
        f"{V1}/dead-letter/retry",
        admin_bulk_retry.retry_dead,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        action="dead_letter.retry_many",
    ),
    Route(
        "POST",
        f"{V1}/dead-letter/purge",
        bulk_views.purge_dead_letters_by_query,
        Scope.ADMIN_PURGE,
        QueueAccess.HANDLER,
        action="dead_letter.purge",
    ),
    *with_aliases(
        Route(
            "DELETE",
            f"{V1}/dead-letter",
            bulk_views.purge_dead_letters,
            Scope.ADMIN_PURGE,
            QueueAccess.HANDLER,
            action="dead_letter.purge",
        ),
        f"{V1}/admin/dead-letter",
    ),
    Route("GET", f"{V1}/dead-letter/{{id}}", dead_letters.get, Scope.DATA_READ, QueueAccess.JOB),
    Route(
        "POST",
        f"{V1}/dead-letter/{{id}}/retry",
        dead_letters.retry,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="dead_letter.retry",
    ),
    Route(
        "DELETE",
        f"{V1}/dead-letter/{{id}}",
        dead_letters.delete,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="dead_letter.delete",
    ),
    Route("GET", f"{V1}/rate-limits", rate_limits.list_keys, Scope.ADMIN_READ),
    Route("GET", f"{V1}/rate-limits/{{key}}", rate_limits.get_key, Scope.ADMIN_READ),
    *with_aliases(
        Route(
            "PUT",
            f"{V1}/rate-limits/{{key}}",
            rate_limits.override_key,
            Scope.ADMIN_WRITE,
            action="rate_limit.override",
        ),
        f"{V1}/rate-limits/{{key}}/override",
    ),
    Route(
        "DELETE",
        f"{V1}/rate-limits/{{key}}/override",
        rate_limits.drop_override,
        Scope.ADMIN_WRITE,
        action="rate_limit.end_override",
    ),
)
