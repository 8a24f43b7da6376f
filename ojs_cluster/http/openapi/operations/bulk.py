"""Requests about many jobs, and bulk operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.admin import bulk_retry
from ojs_cluster.http.handlers.bulk import enqueue, operations, views
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import bulk as shapes
from ojs_cluster.http.shapes.common import Error
from ojs_cluster.http.shapes.job_requests import BulkEnqueueBody
from ojs_cluster.http.shapes.jobs import BulkEnqueueResult

_BATCH_SIZE: Final = {"X-OJS-Batch-Size": "The number of items of the request."}
_CONTINUES: Final = Answer(
    shapes.BulkResult,
    "The scheduler continues the operation.",
    headers={"Location": "The path of the operation, if the API key may read it."},
)
_OPERATION: Final = {200: shapes.BulkResult, 202: _CONTINUES}
_SOME: Final = Answer(shapes.BulkResult, "Some jobs were not changed.", headers=_BATCH_SIZE)
_NONE: Final = Answer(
    (shapes.BulkResult, Error), "No job was changed, or the request is not possible."
)
_CHANGE: Final = OperationDetails({**_OPERATION, 207: _SOME, 422: _NONE}, body=views.BulkBody)
_SHOWN: Final = OperationDetails({200: shapes.ShownBulkOperation})

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    enqueue.enqueue_jobs: OperationDetails(
        {
            201: Answer(BulkEnqueueResult, "All jobs are enqueued.", headers=_BATCH_SIZE),
            207: Answer(BulkEnqueueResult, "Some jobs are enqueued.", headers=_BATCH_SIZE),
            422: Answer(
                (BulkEnqueueResult, Error), "No job is enqueued, or the request is not possible."
            ),
        },
        body=BulkEnqueueBody,
        parameters=(p.IDEMPOTENCY_KEY,),
        errors=(409,),
    ),
    views.cancel_jobs: _CHANGE,
    views.retry_jobs: _CHANGE,
    views.delete_jobs: _CHANGE,
    views.cancel_jobs_as_admin: _CHANGE,
    views.delete_jobs_as_admin: _CHANGE,
    views.purge_queue: OperationDetails(_OPERATION, body=views.PurgeBody),
    views.purge_dead_letters: OperationDetails(_OPERATION, body=views.PurgeBody),
    views.purge_dead_letters_by_query: OperationDetails(
        _OPERATION,
        parameters=(p.QUEUE, p.text("older_than", "An age such as `7d` or `PT24H`, or a time.")),
    ),
    bulk_retry.retry_jobs: OperationDetails(
        {200: shapes.RetriedJobs}, body=bulk_retry.BulkRetryBody
    ),
    bulk_retry.retry_dead: OperationDetails(
        {200: shapes.RetriedJobs}, body=bulk_retry.BulkRetryBody
    ),
    operations.create: OperationDetails(
        {
            202: Answer(
                shapes.ShownBulkOperation,
                "The scheduler carries the operation out.",
                headers={"Location": "The path of the operation."},
            )
        },
        body=operations.OperationBody,
        errors=(404, 409),
    ),
    operations.get: _SHOWN,
    operations.list_operations: OperationDetails(
        {200: shapes.BulkOperationList}, parameters=p.numbered_page()
    ),
    operations.stop: OperationDetails({200: shapes.ShownBulkOperation}, errors=(409,)),
}
