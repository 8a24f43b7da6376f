"""The routes of jobs, their checkpoints and their progress."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
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
from ojs_cluster.http.handlers.workers import fetch, settle
from ojs_cluster.http.routing.router import V1, QueueAccess, Route, TenantAccess

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST",
        f"{V1}/jobs",
        jobs.enqueue,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        fast=True,
        request_class="enqueue",
    ),
    Route(
        "GET",
        f"{V1}/jobs",
        jobs.list_jobs,
        Scope.DATA_READ,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
    ),
    Route(
        "POST",
        f"{V1}/jobs/batch",
        batch.enqueue_many,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        batch=True,
        fast=True,
        request_class="enqueue",
    ),
    Route(
        "POST",
        f"{V1}/jobs/bulk",
        bulk_enqueue.enqueue_jobs,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        batch=True,
        request_class="enqueue",
    ),
    Route(
        "POST",
        f"{V1}/jobs/fetch",
        fetch.fetch,
        Scope.WORKER,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        waits_for_jobs=True,
        fast=True,
        request_class="fetch",
    ),
    Route(
        "POST",
        f"{V1}/jobs/bulk/cancel",
        bulk_views.cancel_jobs,
        Scope.DATA_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="bulk.cancel",
    ),
    Route(
        "POST",
        f"{V1}/jobs/bulk/retry",
        bulk_views.retry_jobs,
        Scope.ADMIN_WRITE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="bulk.retry",
    ),
    Route(
        "POST",
        f"{V1}/jobs/bulk/delete",
        bulk_views.delete_jobs,
        Scope.ADMIN_PURGE,
        QueueAccess.HANDLER,
        TenantAccess.HANDLER,
        action="bulk.delete",
    ),
    Route("GET", f"{V1}/jobs/{{id}}", jobs.get, Scope.DATA_READ, QueueAccess.JOB, fast=True),
    Route("PATCH", f"{V1}/jobs/{{id}}", edit.change, Scope.DATA_WRITE, QueueAccess.JOB),
    Route("DELETE", f"{V1}/jobs/{{id}}", jobs.cancel, Scope.DATA_WRITE, QueueAccess.JOB),
    Route("POST", f"{V1}/jobs/{{id}}/cancel", jobs.cancel, Scope.DATA_WRITE, QueueAccess.JOB),
    Route("POST", f"{V1}/jobs/{{id}}/activate", jobs.activate, Scope.DATA_WRITE, QueueAccess.JOB),
    Route(
        "GET", f"{V1}/jobs/{{id}}/retries", retries.list_retries, Scope.DATA_READ, QueueAccess.JOB
    ),
    Route("GET", f"{V1}/jobs/{{id}}/history", history.get, Scope.DATA_READ, QueueAccess.JOB),
    Route(
        "GET",
        f"{V1}/events/{{id}}/history",
        history.get_states,
        Scope.DATA_READ,
        QueueAccess.JOB,
    ),
    Route(
        "DELETE",
        f"{V1}/jobs/{{id}}/history",
        history.delete,
        Scope.ADMIN_PURGE,
        QueueAccess.JOB,
        action="job.delete_history",
    ),
    Route("GET", f"{V1}/jobs/{{id}}/lineage", lineage.get, Scope.DATA_READ, QueueAccess.JOB),
    Route("GET", f"{V1}/jobs/{{id}}/result", result.get, Scope.DATA_READ, QueueAccess.JOB),
    Route("GET", f"{V1}/jobs/{{id}}/checkpoint", checkpoints.get, Scope.DATA_READ, QueueAccess.JOB),
    *(
        Route(method, f"{V1}/{path}/{{id}}{end}", handler, Scope.WORKER, QueueAccess.JOB)
        for path, end, method, handler in (
            ("jobs", "/checkpoint", "PUT", checkpoints.save),
            ("jobs", "/checkpoint", "POST", checkpoints.save),
            ("jobs", "/checkpoint", "DELETE", checkpoints.delete),
            ("checkpoints", "", "POST", checkpoints.save),
            ("checkpoints", "", "DELETE", checkpoints.delete),
            # The Python and JS SDKs send the base path twice.
            ("ojs/v1/checkpoints", "", "POST", checkpoints.save),
            ("ojs/v1/checkpoints", "", "DELETE", checkpoints.delete),
        )
    ),
    *(
        Route(
            "GET",
            f"{V1}/{path}checkpoints/{{id}}/resume",
            checkpoints.resume,
            Scope.DATA_READ,
            QueueAccess.JOB,
        )
        for path in ("", "ojs/v1/")
    ),
    Route("GET", f"{V1}/jobs/{{id}}/progress", progress.get, Scope.DATA_READ, QueueAccess.JOB),
    Route(
        "GET",
        f"{V1}/jobs/{{id}}/progress/stream",
        event_streams.stream_progress,
        Scope.DATA_READ,
        QueueAccess.JOB,
    ),
    Route(
        "GET",
        f"{V1}/jobs/{{id}}/events",
        event_streams.stream_job,
        Scope.DATA_READ,
        QueueAccess.JOB,
    ),
    Route(
        "PUT",
        f"{V1}/jobs/{{id}}/progress",
        progress.report_by_path,
        Scope.WORKER,
        QueueAccess.JOB,
    ),
    Route(
        "POST",
        f"{V1}/jobs/{{id}}/ack",
        settle.ack_by_path,
        Scope.WORKER,
        QueueAccess.JOB,
        fast=True,
    ),
    Route(
        "POST",
        f"{V1}/jobs/{{id}}/nack",
        settle.nack_by_path,
        Scope.WORKER,
        QueueAccess.JOB,
        fast=True,
    ),
    Route("GET", f"{V1}/unique-jobs", unique_jobs.list_unique_jobs, Scope.ADMIN_READ),
)
