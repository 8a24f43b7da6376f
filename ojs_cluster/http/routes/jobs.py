"""The routes of jobs, their checkpoints and their progress."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import (
    batch,
    checkpoints,
    edit,
    event_streams,
    jobs,
    progress,
    result,
    retries,
    unique_jobs,
)
from ojs_cluster.http.handlers.bulk import enqueue as bulk_enqueue
from ojs_cluster.http.handlers.bulk import views as bulk_views
from ojs_cluster.http.handlers.history import events as history
from ojs_cluster.http.handlers.history import lineage
from ojs_cluster.http.handlers.workers import settle
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.answers import BATCH_SIZE, BULK_CHANGE, STREAM
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import jobs as shapes
from ojs_cluster.http.shapes import workers as worker_shapes
from ojs_cluster.http.shapes.common import Deleted, Error
from ojs_cluster.http.shapes.history import HistoryDeleted, JobHistory, JobLineage, StateHistory
from ojs_cluster.http.shapes.job_requests import (
    BatchBody,
    BulkEnqueueBody,
    EnqueueBody,
    JobEditBody,
)
from ojs_cluster.http.shapes.jobs import BulkEnqueueResult

_LOCATION: Final = {"Location": "The path of the job."}
_OVER: Final = Answer(description="The job has ended, and the client has read its last event.")

ROUTES: Final = table(
    Route(
        "POST /ojs/v1/jobs",
        jobs.enqueue,
        a.WRITE_BY_HANDLER_OF_TENANT,
        {201: Answer(shapes.EnqueuedJob, headers=_LOCATION), 200: shapes.Deduplicated},
        body=EnqueueBody,
        errors=(409,),
        fast=True,
        request_class="enqueue",
    ),
    Route(
        "GET /ojs/v1/jobs",
        jobs.list_jobs,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: shapes.JobList},
        parameters=(
            *(p.STATE, p.QUEUE, p.TYPE, p.SEARCH, p.INDEX, p.SORT, p.ORDER),
            *(p.limit(), p.offset(jobs.MAX_OFFSET), p.CURSOR),
        ),
    ),
    Route(
        "POST /ojs/v1/jobs/batch",
        batch.enqueue_many,
        a.WRITE_BY_HANDLER_OF_TENANT,
        {201: shapes.Batch},
        body=BatchBody,
        errors=(409,),
        batch=True,
        fast=True,
        request_class="enqueue",
    ),
    Route(
        "POST /ojs/v1/jobs/bulk",
        bulk_enqueue.enqueue_jobs,
        a.WRITE_BY_HANDLER_OF_TENANT,
        {
            201: Answer(BulkEnqueueResult, "All jobs are enqueued.", headers=BATCH_SIZE),
            207: Answer(BulkEnqueueResult, "Some jobs are enqueued.", headers=BATCH_SIZE),
            422: Answer(
                (BulkEnqueueResult, Error), "No job is enqueued, or the request is not possible."
            ),
        },
        body=BulkEnqueueBody,
        parameters=(p.IDEMPOTENCY_KEY,),
        errors=(409,),
        batch=True,
        request_class="enqueue",
    ),
    Route(
        "POST /ojs/v1/jobs/bulk/cancel",
        bulk_views.cancel_jobs,
        a.WRITE_BY_HANDLER_OF_TENANT,
        BULK_CHANGE,
        body=bulk_views.BulkBody,
        action="bulk.cancel",
    ),
    Route(
        "POST /ojs/v1/jobs/bulk/retry",
        bulk_views.retry_jobs,
        a.ADMIN_WRITE_BY_HANDLER_OF_TENANT,
        BULK_CHANGE,
        body=bulk_views.BulkBody,
        action="bulk.retry",
    ),
    Route(
        "POST /ojs/v1/jobs/bulk/delete",
        bulk_views.delete_jobs,
        a.PURGE_BY_HANDLER_OF_TENANT,
        BULK_CHANGE,
        body=bulk_views.BulkBody,
        action="bulk.delete",
    ),
    Route("GET /ojs/v1/jobs/{id}", jobs.get, a.READ_JOB, {200: shapes.WholeJob}, fast=True),
    Route(
        "PATCH /ojs/v1/jobs/{id}",
        edit.change,
        a.WRITE_JOB,
        {200: shapes.EnqueuedJob},
        body=JobEditBody,
        errors=(409, 413),
    ),
    Route(
        "DELETE /ojs/v1/jobs/{id}",
        jobs.cancel,
        a.WRITE_JOB,
        {200: shapes.JobAnswer},
        errors=(409,),
        aliases=("POST /ojs/v1/jobs/{id}/cancel",),
    ),
    Route(
        "POST /ojs/v1/jobs/{id}/activate",
        jobs.activate,
        a.WRITE_JOB,
        {200: shapes.JobAnswer},
        errors=(409,),
    ),
    Route("GET /ojs/v1/jobs/{id}/retries", retries.list_retries, a.READ_JOB, {200: shapes.Retries}),
    Route(
        "GET /ojs/v1/jobs/{id}/history",
        history.get,
        a.READ_JOB,
        {200: JobHistory},
        parameters=p.page(),
    ),
    Route(
        "GET /ojs/v1/events/{id}/history",
        history.get_states,
        a.READ_JOB,
        {200: StateHistory},
        parameters=p.page(),
    ),
    Route(
        "DELETE /ojs/v1/jobs/{id}/history",
        history.delete,
        a.PURGE_JOB,
        {200: HistoryDeleted},
        action="job.delete_history",
    ),
    Route("GET /ojs/v1/jobs/{id}/lineage", lineage.get, a.READ_JOB, {200: JobLineage}),
    Route(
        "GET /ojs/v1/jobs/{id}/result",
        result.get,
        a.READ_JOB,
        {200: shapes.JobResult},
        parameters=(
            p.flag("wait", "Whether to wait until the job is finished."),
            p.number("timeout", "Maximum time to wait, in seconds.", low=0, high=300, default=30),
        ),
        errors=(408, 410),
    ),
    Route(
        "GET /ojs/v1/jobs/{id}/checkpoint",
        checkpoints.get,
        a.READ_JOB,
        {200: shapes.CheckpointAnswer},
    ),
    Route(
        "PUT /ojs/v1/jobs/{id}/checkpoint",
        checkpoints.save,
        a.WORK_JOB,
        {200: shapes.CheckpointAnswer},
        body=checkpoints.CheckpointBody,
        errors=(409,),
        aliases=(
            "POST /ojs/v1/jobs/{id}/checkpoint",
            "POST /ojs/v1/checkpoints/{id}",
            # The Python and JS SDKs send the base path twice.
            "POST /ojs/v1/ojs/v1/checkpoints/{id}",
        ),
    ),
    Route(
        "DELETE /ojs/v1/jobs/{id}/checkpoint",
        checkpoints.delete,
        a.WORK_JOB,
        {200: Deleted},
        aliases=(
            "DELETE /ojs/v1/checkpoints/{id}",
            "DELETE /ojs/v1/ojs/v1/checkpoints/{id}",
        ),
    ),
    Route(
        "GET /ojs/v1/checkpoints/{id}/resume",
        checkpoints.resume,
        a.READ_JOB,
        {200: shapes.Resume},
        aliases=("GET /ojs/v1/ojs/v1/checkpoints/{id}/resume",),
    ),
    Route(
        "GET /ojs/v1/jobs/{id}/progress",
        progress.get,
        a.READ_JOB,
        {
            200: Answer(
                shapes.JobProgress,
                headers={
                    "Last-Modified": "When the progress was reported.",
                    "X-OJS-Progress": "The progress, from 0 to 1.",
                },
            )
        },
    ),
    Route(
        "GET /ojs/v1/jobs/{id}/progress/stream",
        event_streams.stream_progress,
        a.READ_JOB,
        {200: STREAM},
    ),
    Route(
        "GET /ojs/v1/jobs/{id}/events",
        event_streams.stream_job,
        a.READ_JOB,
        {200: STREAM, 204: _OVER},
        parameters=(*p.TYPES, p.LAST_EVENT_ID),
    ),
    Route(
        "PUT /ojs/v1/jobs/{id}/progress",
        progress.report_by_path,
        a.WORK_JOB,
        {200: shapes.JobProgress},
        body=progress.ProgressBody,
        errors=(404, 409),
    ),
    Route(
        "POST /ojs/v1/jobs/{id}/ack",
        settle.ack_by_path,
        a.WORK_JOB,
        {200: worker_shapes.AckAnswer},
        optional_body=settle.AckBody,
        errors=(404, 409),
        fast=True,
    ),
    Route(
        "POST /ojs/v1/jobs/{id}/nack",
        settle.nack_by_path,
        a.WORK_JOB,
        {200: worker_shapes.NackAnswer},
        optional_body=settle.NackBody,
        errors=(404, 409),
        fast=True,
    ),
    Route(
        "GET /ojs/v1/unique-jobs",
        unique_jobs.list_unique_jobs,
        a.ADMIN_READ,
        {200: shapes.UniqueLocks},
        parameters=p.numbered_page(),
    ),
)
