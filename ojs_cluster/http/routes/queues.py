"""The routes of queues, dead letters and rate limits."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import (
    dead_letters,
    event_streams,
    queue_lifecycle,
    queues,
    rate_limits,
)
from ojs_cluster.http.handlers.admin import bulk_retry as admin_bulk_retry
from ojs_cluster.http.handlers.bulk import views as bulk_views
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.answers import BULK, STREAM
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import bulk as bulk_shapes
from ojs_cluster.http.shapes import queues as shapes
from ojs_cluster.http.shapes import rate_limits as limit_shapes
from ojs_cluster.http.shapes.common import Deleted
from ojs_cluster.http.shapes.jobs import JobAnswer

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/queues",
        queues.list_queues,
        a.READ_BY_HANDLER,
        {200: shapes.QueueList},
        parameters=p.page(),
    ),
    Route(
        "GET /ojs/v1/queues/{name}", queues.get, a.READ_QUEUE_OF_TENANT, {200: shapes.QueueAnswer}
    ),
    Route(
        "POST /ojs/v1/queues",
        queue_lifecycle.create,
        a.ADMIN_WRITE_BY_HANDLER,
        {201: shapes.QueueCreated},
        body=queue_lifecycle.QueueCreateBody,
        errors=(409,),
        action="queue.create",
        aliases=("POST /ojs/v1/admin/queues",),
    ),
    Route(
        "PUT /ojs/v1/queues/{name}",
        queue_lifecycle.put,
        a.ADMIN_WRITE_QUEUE,
        {200: shapes.QueueCreated, 201: shapes.QueueCreated},
        body=queue_lifecycle.QueueBody,
        errors=(409,),
        action="queue.configure",
        aliases=("PUT /ojs/v1/admin/queues/{name}",),
    ),
    Route(
        "DELETE /ojs/v1/queues/{name}",
        queue_lifecycle.delete,
        a.ADMIN_WRITE_QUEUE,
        {200: shapes.QueueDeleted, 202: shapes.QueueDeleted},
        optional_body=queue_lifecycle.QueueDeleteBody,
        errors=(409,),
        action="queue.delete",
        aliases=("DELETE /ojs/v1/admin/queues/{name}",),
    ),
    Route(
        "GET /ojs/v1/queues/{name}/events",
        event_streams.stream_queue,
        a.READ_QUEUE_OF_TENANT,
        {200: STREAM},
        parameters=(*p.TYPES, p.LAST_EVENT_ID),
    ),
    Route(
        "GET /ojs/v1/queues/{name}/stats",
        queues.stats,
        a.READ_QUEUE_OF_TENANT,
        {200: shapes.QueueStatistics},
    ),
    Route(
        "GET /ojs/v1/queues/{name}/priority-stats",
        queues.priority_stats,
        a.READ_QUEUE,
        {200: shapes.PriorityStatistics},
    ),
    Route(
        "POST /ojs/v1/queues/{name}/pause",
        queues.pause,
        a.ADMIN_WRITE_QUEUE,
        {200: shapes.PauseAnswer},
        action="queue.pause",
        aliases=("POST /ojs/v1/admin/queues/{name}/pause",),
    ),
    Route(
        "POST /ojs/v1/queues/{name}/drain",
        queues.drain,
        a.ADMIN_WRITE_QUEUE,
        {200: shapes.PauseAnswer},
        action="queue.drain",
        aliases=("POST /ojs/v1/admin/queues/{name}/drain",),
    ),
    Route(
        "POST /ojs/v1/queues/{name}/resume",
        queues.resume,
        a.ADMIN_WRITE_QUEUE,
        {200: shapes.PauseAnswer},
        action="queue.resume",
        aliases=("POST /ojs/v1/admin/queues/{name}/resume",),
    ),
    Route(
        "POST /ojs/v1/queues/{name}/purge",
        bulk_views.purge_queue_without_confirmation,
        a.PURGE_QUEUE_OF_TENANT,
        BULK,
        optional_body=bulk_views.PurgeBody,
        action="queue.purge",
    ),
    Route(
        "GET /ojs/v1/dead-letter",
        dead_letters.list_dead,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: shapes.DeadLetterPage},
        parameters=(p.QUEUE, *p.page(50, 1000)),
    ),
    Route(
        "GET /ojs/v1/dead-letter/stats",
        dead_letters.stats,
        a.READ_BY_HANDLER,
        {200: shapes.DeadLetterCounts},
    ),
    Route(
        "POST /ojs/v1/dead-letter/retry",
        admin_bulk_retry.retry_dead,
        a.ADMIN_WRITE_BY_HANDLER_OF_TENANT,
        {200: bulk_shapes.RetriedJobs},
        body=admin_bulk_retry.BulkRetryBody,
        action="dead_letter.retry_many",
        aliases=("POST /ojs/v1/admin/dead-letter/retry",),
    ),
    Route(
        "POST /ojs/v1/dead-letter/purge",
        bulk_views.purge_dead_letters_by_query,
        a.PURGE_BY_HANDLER_OF_TENANT,
        BULK,
        parameters=(p.QUEUE, p.text("older_than", "An age such as `7d` or `PT24H`, or a time.")),
        action="dead_letter.purge",
    ),
    Route(
        "DELETE /ojs/v1/dead-letter",
        bulk_views.purge_dead_letters,
        a.PURGE_BY_HANDLER_OF_TENANT,
        BULK,
        body=bulk_views.PurgeBody,
        action="dead_letter.purge",
        aliases=("DELETE /ojs/v1/admin/dead-letter",),
    ),
    Route("GET /ojs/v1/dead-letter/{id}", dead_letters.get, a.READ_JOB, {200: JobAnswer}),
    Route(
        "POST /ojs/v1/dead-letter/{id}/retry",
        dead_letters.retry,
        a.ADMIN_WRITE_JOB,
        {200: JobAnswer},
        errors=(409,),
        action="dead_letter.retry",
    ),
    Route(
        "DELETE /ojs/v1/dead-letter/{id}",
        dead_letters.delete,
        a.ADMIN_WRITE_JOB,
        {200: Deleted},
        action="dead_letter.delete",
    ),
    Route(
        "GET /ojs/v1/rate-limits",
        rate_limits.list_keys,
        a.ADMIN_READ,
        {200: limit_shapes.RateLimitKeys},
        parameters=p.numbered_page(50, 200),
    ),
    Route(
        "GET /ojs/v1/rate-limits/{key}",
        rate_limits.get_key,
        a.ADMIN_READ,
        {200: limit_shapes.HeldRateLimitKey},
    ),
    Route(
        "PUT /ojs/v1/rate-limits/{key}",
        rate_limits.override_key,
        a.ADMIN_WRITE,
        {200: limit_shapes.RateLimitKey},
        body=rate_limits.OverrideBody,
        action="rate_limit.override",
        aliases=("PUT /ojs/v1/rate-limits/{key}/override",),
    ),
    Route(
        "DELETE /ojs/v1/rate-limits/{key}/override",
        rate_limits.drop_override,
        a.ADMIN_WRITE,
        {200: limit_shapes.RateLimitKey},
        action="rate_limit.end_override",
    ),
)
