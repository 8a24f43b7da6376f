"""The routes of operators, under ``/ojs/v1/admin/``."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import dead_letters, edit, queues, rate_limits
from ojs_cluster.http.handlers.admin import audit, outbox, queue_config
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
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess, with_aliases

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "GET",
        f"{V1}/admin/stats",
        admin_overview.stats,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "GET",
        f"{V1}/admin/stats/history",
        admin_history.get,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "GET",
        f"{V1}/admin/queues",
        admin_overview.list_queues,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "GET",
        f"{V1}/admin/queues/{{name}}",
        admin_overview.get_queue,
        Scope.ADMIN_READ,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
    ),
    Route(
        "POST",
        f"{V1}/admin/queues/{{name}}/pause",
        queues.pause,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
        action="queue.pause",
    ),
    Route(
        "POST",
        f"{V1}/admin/queues/{{name}}/resume",
        queues.resume,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
        action="queue.resume",
    ),
    Route(
        "GET",
        f"{V1}/admin/errors",
        admin_errors.list_errors,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "GET",
        f"{V1}/admin/jobs",
        admin_jobs.list_jobs,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/bulk/retry",
        admin_bulk_retry.retry_jobs,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="job.retry_many",
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/bulk/cancel",
        bulk_views.cancel_jobs_as_admin,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="bulk.cancel",
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/bulk/delete",
        bulk_views.delete_jobs_as_admin,
        Scope.ADMIN_PURGE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="bulk.delete",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/queues/{{name}}/jobs",
        bulk_views.purge_queue,
        Scope.ADMIN_PURGE,
        QueueAccess.QUEUE,
        TenantAccess.HANDLER,
        action="queue.purge_states",
    ),
    Route("GET", f"{V1}/admin/jobs/{{id}}", admin_jobs.get, Scope.ADMIN_READ, QueueAccess.JOB),
    Route(
        "GET", f"{V1}/admin/jobs/{{id}}/trace", admin_trace.get, Scope.ADMIN_READ, QueueAccess.JOB
    ),
    Route(
        "PATCH",
        f"{V1}/admin/jobs/{{id}}",
        edit.change_as_admin,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="job.edit",
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/{{id}}/retry",
        admin_jobs.retry,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="job.retry",
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/{{id}}/cancel",
        admin_jobs.cancel,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="job.cancel",
    ),
    Route("GET", f"{V1}/admin/workers", admin_workers.list_workers, Scope.ADMIN_READ),
    Route(
        "POST",
        f"{V1}/admin/workers/directive",
        admin_workers.direct,
        Scope.ADMIN_WRITE,
        action="worker.direct",
    ),
    Route("GET", f"{V1}/admin/workers/{{id}}", admin_workers.get, Scope.ADMIN_READ),
    Route(
        "DELETE",
        f"{V1}/admin/workers/{{id}}",
        admin_workers.deregister,
        Scope.ADMIN_WRITE,
        action="worker.deregister",
    ),
    Route(
        "POST",
        f"{V1}/admin/workers/{{id}}/quiet",
        admin_workers.quiet,
        Scope.ADMIN_WRITE,
        action="worker.quiet",
    ),
    Route(
        "GET",
        f"{V1}/admin/dead-letter",
        admin_dead_letters.list_dead,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "GET",
        f"{V1}/admin/dead-letter/stats",
        dead_letters.stats,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "POST",
        f"{V1}/admin/dead-letter/retry",
        admin_bulk_retry.retry_dead,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="dead_letter.retry_many",
    ),
    Route(
        "POST",
        f"{V1}/admin/dead-letter/{{id}}/retry",
        admin_dead_letters.retry,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="dead_letter.retry",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/dead-letter/{{id}}",
        admin_dead_letters.delete,
        Scope.ADMIN_WRITE,
        QueueAccess.JOB,
        action="dead_letter.delete",
    ),
    Route(
        "GET",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.get_queue,
        Scope.ADMIN_READ,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
    ),
    Route(
        "PUT",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.set_queue,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
        action="queue.limit",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.drop_queue,
        Scope.ADMIN_WRITE,
        QueueAccess.QUEUE,
        TenantAccess.REFUSED,
        action="queue.end_limit",
    ),
    Route("GET", f"{V1}/admin/audit", audit.list_entries, Scope.ADMIN_READ),
    Route("GET", f"{V1}/admin/outbox", outbox.list_dead_letters, Scope.ADMIN_READ),
    Route(
        "POST", f"{V1}/admin/outbox/retry", outbox.retry, Scope.ADMIN_WRITE, action="outbox.retry"
    ),
    *with_aliases(
        Route("GET", f"{V1}/admin/system/config", admin_configuration.get, Scope.ADMIN_READ),
        f"{V1}/admin/config",
    ),
    *with_aliases(
        Route("GET", f"{V1}/admin/system/maintenance", admin_maintenance.get, Scope.ADMIN_READ),
        f"{V1}/admin/maintenance",
    ),
    *with_aliases(
        Route(
            "POST",
            f"{V1}/admin/system/maintenance",
            admin_maintenance.put,
            Scope.ADMIN_WRITE,
            action="system.maintenance",
        ),
        f"{V1}/admin/maintenance",
    ),
    Route(
        "GET",
        f"{V1}/admin/bulk",
        bulk_operations.list_operations,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "POST",
        f"{V1}/admin/bulk",
        bulk_operations.create,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
        action="bulk.create",
    ),
    Route(
        "GET",
        f"{V1}/admin/bulk/{{id}}",
        bulk_operations.get,
        Scope.ADMIN_READ,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
    ),
    Route(
        "POST",
        f"{V1}/admin/bulk/{{id}}/stop",
        bulk_operations.stop,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.REFUSED,
        action="bulk.stop",
    ),
    *with_aliases(
        Route(
            "GET",
            f"{V1}/admin/queues/{{name}}/config",
            queue_config.get,
            Scope.ADMIN_READ,
            QueueAccess.QUEUE,
            TenantAccess.REFUSED,
        ),
        f"{V1}/queues/{{name}}/config",
    ),
    *with_aliases(
        Route(
            "PUT",
            f"{V1}/admin/queues/{{name}}/config",
            queue_config.put,
            Scope.ADMIN_WRITE,
            QueueAccess.QUEUE,
            TenantAccess.REFUSED,
            action="queue.configure",
        ),
        f"{V1}/queues/{{name}}/config",
    ),
    Route(
        "POST",
        f"{V1}/admin/reset",
        admin_test_hooks.reset,
        Scope.ADMIN_PURGE,
        test_hook=True,
        action="data.reset",
    ),
)
