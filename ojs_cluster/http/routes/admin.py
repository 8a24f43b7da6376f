"""What operators see and change of the cluster: workers, jobs, dead letters, bulk operations."""

# The docstring of a table describes its tag in the API document. Other tables have further routes
# under ``/ojs/v1/admin/``: queues, pools, tenants, schemas and dashboard.
from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import dead_letters, edit, rate_limits
from ojs_cluster.http.handlers.admin import audit, outbox, queue_config, queue_config_body
from ojs_cluster.http.handlers.admin import bulk_retry as admin_bulk_retry
from ojs_cluster.http.handlers.admin import configuration as admin_configuration
from ojs_cluster.http.handlers.admin import dead_letters as admin_dead_letters
from ojs_cluster.http.handlers.admin import errors as admin_errors
from ojs_cluster.http.handlers.admin import history as admin_history
from ojs_cluster.http.handlers.admin import jobs as admin_jobs
from ojs_cluster.http.handlers.admin import maintenance as admin_maintenance
from ojs_cluster.http.handlers.admin import overview as admin_overview
from ojs_cluster.http.handlers.admin import test_hooks as admin_test_hooks
from ojs_cluster.http.handlers.admin import trace as admin_trace
from ojs_cluster.http.handlers.admin import workers as admin_workers
from ojs_cluster.http.handlers.bulk import operations as bulk_operations
from ojs_cluster.http.handlers.bulk import views as bulk_views
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.answers import BULK, BULK_CHANGE
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import bulk as bulk_shapes
from ojs_cluster.http.shapes import jobs as job_shapes
from ojs_cluster.http.shapes import queues as queue_shapes
from ojs_cluster.http.shapes import rate_limits as limit_shapes
from ojs_cluster.http.shapes import system as system_shapes
from ojs_cluster.http.shapes import workers as worker_shapes
from ojs_cluster.http.shapes.bulk import AuditList
from ojs_cluster.http.shapes.job_requests import JobEditBody

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/admin/stats",
        admin_overview.stats,
        a.ADMIN_READ_BY_HANDLER,
        {200: system_shapes.ClusterStats},
        parameters=(
            p.QUEUE,
            p.flag("detail", "Whether `queues` lists the queues whose jobs run longest."),
            p.limit(10, 100),
        ),
        errors=(404,),
    ),
    Route(
        "GET /ojs/v1/admin/stats/history",
        admin_history.get,
        a.ADMIN_READ_BY_HANDLER,
        {200: queue_shapes.StatsHistory},
        parameters=(
            p.text(
                "period", "The length of a period.", enum=["1m", "5m", "1h", "1d"], default="5m"
            ),
            p.text("since", f"The beginning of the series. {p.AGE}"),
            p.text("until", f"The end of the series. {p.AGE}"),
            p.QUEUE,
            p.text("type", "Only jobs of this type, in all queues. Not together with `queue`."),
        ),
        errors=(404,),
    ),
    Route(
        "GET /ojs/v1/admin/queues",
        admin_overview.list_queues,
        a.ADMIN_READ_BY_HANDLER,
        {200: queue_shapes.AdminQueueList},
        parameters=p.numbered_page(),
    ),
    Route(
        "GET /ojs/v1/admin/queues/{name}",
        admin_overview.get_queue,
        a.ADMIN_READ_QUEUE,
        {200: queue_shapes.AdminQueueDetail},
    ),
    Route(
        "GET /ojs/v1/admin/errors",
        admin_errors.list_errors,
        a.ADMIN_READ_BY_HANDLER,
        {200: queue_shapes.ErrorGroups},
        parameters=(
            p.QUEUE,
            p.text("since", "Only groups with a failure since a time, or an age such as `1h`."),
            *p.page(),
        ),
    ),
    Route(
        "GET /ojs/v1/admin/jobs",
        admin_jobs.list_jobs,
        a.ADMIN_READ_BY_HANDLER_OF_TENANT,
        {200: job_shapes.JobItems},
        parameters=(
            *(p.QUEUE, p.STATE, p.TYPE),
            p.text("worker_id", "Only active jobs of this worker."),
            *(p.SEARCH, p.INDEX, p.SINCE, p.UNTIL, p.SORT, p.ORDER),
            *p.numbered_page(20, 100),
        ),
    ),
    Route(
        "POST /ojs/v1/admin/jobs/bulk/retry",
        admin_bulk_retry.retry_jobs,
        a.ADMIN_WRITE_BY_HANDLER_OF_TENANT,
        {200: bulk_shapes.RetriedJobs},
        body=admin_bulk_retry.BulkRetryBody,
        action="job.retry_many",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/bulk/cancel",
        bulk_views.cancel_jobs_as_admin,
        a.ADMIN_WRITE_BY_HANDLER_OF_TENANT,
        BULK_CHANGE,
        body=bulk_views.BulkBody,
        action="bulk.cancel",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/bulk/delete",
        bulk_views.delete_jobs_as_admin,
        a.PURGE_BY_HANDLER_OF_TENANT,
        BULK_CHANGE,
        body=bulk_views.BulkBody,
        action="bulk.delete",
    ),
    Route(
        "DELETE /ojs/v1/admin/queues/{name}/jobs",
        bulk_views.purge_queue,
        a.PURGE_QUEUE_OF_TENANT,
        BULK,
        body=bulk_views.PurgeBody,
        action="queue.purge_states",
    ),
    Route(
        "GET /ojs/v1/admin/jobs/{id}", admin_jobs.get, a.ADMIN_READ_JOB, {200: job_shapes.AdminJob}
    ),
    Route(
        "GET /ojs/v1/admin/jobs/{id}/trace",
        admin_trace.get,
        a.ADMIN_READ_JOB,
        {200: job_shapes.Trace},
    ),
    Route(
        "PATCH /ojs/v1/admin/jobs/{id}",
        edit.change_as_admin,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.Job},
        body=JobEditBody,
        errors=(409, 413),
        action="job.edit",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/{id}/retry",
        admin_jobs.retry,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.AdminJob},
        errors=(409,),
        action="job.retry",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/{id}/cancel",
        admin_jobs.cancel,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.AdminJob},
        errors=(409,),
        action="job.cancel",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/{id}/move",
        admin_jobs.move,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.AdminJob},
        body=admin_jobs.JobMoveBody,
        errors=(409,),
        action="job.move",
    ),
    Route(
        "POST /ojs/v1/admin/jobs/{id}/cancel-run",
        admin_jobs.cancel_run,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.AdminJob},
        errors=(409,),
        action="job.cancel_run",
    ),
    Route(
        "GET /ojs/v1/admin/workers",
        admin_workers.list_workers,
        a.ADMIN_READ,
        {200: worker_shapes.AdminWorkerList},
        parameters=(
            *p.numbered_page(),
            p.text("sort", "The order.", enum=["last_seen", "id"], default="last_seen"),
        ),
    ),
    Route(
        "POST /ojs/v1/admin/workers/directive",
        admin_workers.direct,
        a.ADMIN_WRITE,
        {200: worker_shapes.DirectiveAnswer},
        body=admin_workers.DirectiveBody,
        action="worker.direct",
    ),
    Route(
        "GET /ojs/v1/admin/workers/{id}",
        admin_workers.get,
        a.ADMIN_READ,
        {200: worker_shapes.WorkerDetail},
    ),
    Route(
        "DELETE /ojs/v1/admin/workers/{id}",
        admin_workers.deregister,
        a.ADMIN_WRITE,
        {200: worker_shapes.WorkerRemoved},
        errors=(409,),
        action="worker.deregister",
    ),
    Route(
        "POST /ojs/v1/admin/workers/{id}/quiet",
        admin_workers.quiet,
        a.ADMIN_WRITE,
        {200: worker_shapes.WorkerDirective},
        action="worker.quiet",
    ),
    Route(
        "GET /ojs/v1/admin/dead-letter",
        admin_dead_letters.list_dead,
        a.ADMIN_READ_BY_HANDLER_OF_TENANT,
        {200: job_shapes.JobItems},
        parameters=(
            *(p.QUEUE, p.STATE, p.TYPE, p.SEARCH, p.INDEX, p.SINCE, p.UNTIL),
            *p.numbered_page(),
        ),
    ),
    Route(
        "GET /ojs/v1/admin/dead-letter/stats",
        dead_letters.stats,
        a.ADMIN_READ_BY_HANDLER,
        {200: queue_shapes.DeadLetterCounts},
    ),
    Route(
        "POST /ojs/v1/admin/dead-letter/{id}/retry",
        admin_dead_letters.retry,
        a.ADMIN_WRITE_JOB,
        {200: job_shapes.Job},
        errors=(409,),
        action="dead_letter.retry",
    ),
    Route(
        "DELETE /ojs/v1/admin/dead-letter/{id}",
        admin_dead_letters.delete,
        a.ADMIN_WRITE_JOB,
        {204: Answer(description="The dead letter is deleted.")},
        action="dead_letter.delete",
    ),
    Route(
        "GET /ojs/v1/admin/queues/{name}/rate-limit",
        rate_limits.get_queue,
        a.ADMIN_READ_QUEUE,
        {200: limit_shapes.QueueLimits},
    ),
    Route(
        "PUT /ojs/v1/admin/queues/{name}/rate-limit",
        rate_limits.set_queue,
        a.ADMIN_WRITE_QUEUE,
        {200: limit_shapes.QueueLimits},
        body=rate_limits.LimitsBody,
        action="queue.limit",
    ),
    Route(
        "DELETE /ojs/v1/admin/queues/{name}/rate-limit",
        rate_limits.drop_queue,
        a.ADMIN_WRITE_QUEUE,
        {200: limit_shapes.QueueLimits},
        action="queue.end_limit",
    ),
    Route(
        "GET /ojs/v1/admin/audit",
        audit.list_entries,
        a.ADMIN_READ,
        {200: AuditList},
        parameters=(
            p.text("principal", "Only changes by this API key."),
            p.text("action", "Only this kind of change, such as `queue.pause`."),
            p.text("object", "Only changes of this object, such as a queue or a job."),
            p.SINCE,
            p.UNTIL,
            p.limit(50, 500),
            p.CURSOR,
        ),
    ),
    Route(
        "GET /ojs/v1/admin/outbox",
        outbox.list_dead_letters,
        a.ADMIN_READ,
        {200: system_shapes.OutboxList},
        parameters=(p.limit(), p.CURSOR),
    ),
    Route(
        "POST /ojs/v1/admin/outbox/retry",
        outbox.retry,
        a.ADMIN_WRITE,
        {200: system_shapes.OutboxRetried},
        body=outbox.OutboxRetryBody,
        action="outbox.retry",
    ),
    Route(
        "GET /ojs/v1/admin/system/config",
        admin_configuration.get,
        a.ADMIN_READ,
        {200: system_shapes.ConfigurationAnswer},
        aliases=("GET /ojs/v1/admin/config",),
    ),
    Route(
        "GET /ojs/v1/admin/system/maintenance",
        admin_maintenance.get,
        a.ADMIN_READ,
        {200: system_shapes.MaintenanceMembers},
        aliases=("GET /ojs/v1/admin/maintenance",),
    ),
    Route(
        "POST /ojs/v1/admin/system/maintenance",
        admin_maintenance.change,
        a.ADMIN_WRITE,
        {200: system_shapes.MaintenanceMembers},
        body=admin_maintenance.MaintenanceBody,
        action="system.maintenance",
        aliases=("POST /ojs/v1/admin/maintenance",),
    ),
    Route(
        "GET /ojs/v1/admin/bulk",
        bulk_operations.list_operations,
        a.ADMIN_READ_BY_HANDLER,
        {200: bulk_shapes.BulkOperationList},
        parameters=p.numbered_page(),
    ),
    Route(
        "POST /ojs/v1/admin/bulk",
        bulk_operations.create,
        a.ADMIN_WRITE_BY_HANDLER,
        {
            202: Answer(
                bulk_shapes.ShownBulkOperation,
                "The scheduler carries the operation out.",
                headers={"Location": "The path of the operation."},
            )
        },
        body=bulk_operations.OperationBody,
        errors=(404, 409),
        action="bulk.create",
    ),
    Route(
        "GET /ojs/v1/admin/bulk/{id}",
        bulk_operations.get,
        a.ADMIN_READ_BY_HANDLER,
        {200: bulk_shapes.ShownBulkOperation},
    ),
    Route(
        "POST /ojs/v1/admin/bulk/{id}/stop",
        bulk_operations.stop,
        a.ADMIN_WRITE_BY_HANDLER,
        {200: bulk_shapes.ShownBulkOperation},
        errors=(409,),
        action="bulk.stop",
    ),
    Route(
        "GET /ojs/v1/admin/queues/{name}/config",
        queue_config.get,
        a.ADMIN_READ_QUEUE,
        {200: queue_shapes.QueueConfigAnswer},
        aliases=("GET /ojs/v1/queues/{name}/config",),
    ),
    Route(
        "PUT /ojs/v1/admin/queues/{name}/config",
        queue_config.put,
        a.ADMIN_WRITE_QUEUE,
        {200: queue_shapes.QueueConfigAnswer},
        body=queue_config_body.QueueConfigBody,
        errors=(409,),
        action="queue.configure",
        aliases=("PUT /ojs/v1/queues/{name}/config",),
    ),
    Route(
        "POST /ojs/v1/admin/reset",
        admin_test_hooks.reset,
        a.PURGE,
        {},
        test_hook=True,
        action="data.reset",
    ),
)
