"""Queues, dead letters and rate limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import dead_letters, queue_lifecycle, queues, rate_limits
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import queues as shapes
from ojs_cluster.http.shapes.common import Deleted
from ojs_cluster.http.shapes.jobs import JobAnswer

_LIMIT_KEY: Final = OperationDetails({200: shapes.RateLimitKey})
_QUEUE_LIMITS: Final = OperationDetails({200: shapes.QueueLimits})

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    queues.list_queues: OperationDetails({200: shapes.QueueList}, parameters=p.page()),
    queues.get: OperationDetails({200: shapes.QueueAnswer}),
    queue_lifecycle.create: OperationDetails(
        {201: shapes.QueueCreated}, body=queue_lifecycle.QueueCreateBody, errors=(409,)
    ),
    queue_lifecycle.put: OperationDetails(
        {200: shapes.QueueCreated, 201: shapes.QueueCreated},
        body=queue_lifecycle.QueueBody,
        errors=(409,),
    ),
    queue_lifecycle.delete: OperationDetails(
        {200: shapes.QueueDeleted, 202: shapes.QueueDeleted},
        body=queue_lifecycle.QueueDeleteBody,
        body_required=False,
        errors=(409,),
    ),
    queues.stats: OperationDetails({200: shapes.QueueStatistics}),
    queues.priority_stats: OperationDetails({200: shapes.PriorityStatistics}),
    queues.pause: OperationDetails({200: shapes.PauseAnswer}),
    queues.drain: OperationDetails({200: shapes.PauseAnswer}),
    queues.resume: OperationDetails({200: shapes.PauseAnswer}),
    queues.purge: OperationDetails(
        {200: shapes.QueuePurge}, body=queues.QueuePurgeBody, body_required=False
    ),
    dead_letters.list_dead: OperationDetails(
        {200: shapes.DeadLetterPage}, parameters=(p.QUEUE, *p.page(50, 1000))
    ),
    dead_letters.stats: OperationDetails({200: shapes.DeadLetterCounts}),
    dead_letters.get: OperationDetails({200: JobAnswer}),
    dead_letters.retry: OperationDetails({200: JobAnswer}, errors=(409,)),
    dead_letters.delete: OperationDetails({200: Deleted}),
    rate_limits.list_keys: OperationDetails(
        {200: shapes.RateLimitKeys}, parameters=p.numbered_page(50, 200)
    ),
    rate_limits.get_key: _LIMIT_KEY,
    rate_limits.override_key: OperationDetails(
        {200: shapes.RateLimitKey}, body=rate_limits.OverrideBody
    ),
    rate_limits.drop_override: _LIMIT_KEY,
    rate_limits.get_queue: _QUEUE_LIMITS,
    rate_limits.set_queue: OperationDetails({200: shapes.QueueLimits}, body=rate_limits.LimitsBody),
    rate_limits.drop_queue: _QUEUE_LIMITS,
}
