"""The one route table that every door serves."""

from __future__ import annotations

from functools import cache

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import (
    batch,
    cron,
    dead_letters,
    events,
    fetch,
    heartbeat,
    jobs,
    metrics,
    queues,
    rate_limits,
    result,
    settle,
    settle_many,
    system,
    workers,
    workflows,
)
from ojs_cluster.http.handlers.admin import audit, outbox, queue_config
from ojs_cluster.http.handlers.admin import bulk_retry as admin_bulk
from ojs_cluster.http.handlers.admin import dead_letters as admin_dead_letter
from ojs_cluster.http.handlers.admin import jobs as admin_jobs
from ojs_cluster.http.handlers.admin import overview as admin_overview
from ojs_cluster.http.handlers.admin import test_hooks as admin
from ojs_cluster.http.handlers.admin import workers as admin_workers
from ojs_cluster.http.router import Reach, Route, Router

V1 = "/ojs/v1"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/ojs/manifest", system.manifest, Scope.DATA_READ, Reach.NOTHING),
    Route("GET", f"{V1}/health", system.health, open=True, fast=True),
    Route("GET", "/health", system.alive, open=True, fast=True),
    Route("GET", "/live", system.live, open=True, fast=True),
    Route("GET", "/ready", system.ready, open=True, fast=True),
    Route("GET", "/metrics", metrics.scrape, Scope.ADMIN_READ, metrics=True),
    Route("POST", f"{V1}/jobs", jobs.enqueue, Scope.DATA_WRITE, Reach.HANDLER, fast=True),
    Route("GET", f"{V1}/jobs", jobs.list_jobs, Scope.DATA_READ, Reach.HANDLER),
    Route(
        "POST",
        f"{V1}/jobs/batch",
        batch.enqueue_many,
        Scope.DATA_WRITE,
        Reach.HANDLER,
        batch=True,
        fast=True,
    ),
    Route(
        "POST", f"{V1}/jobs/fetch", fetch.fetch, Scope.WORKER, Reach.HANDLER, waits=True, fast=True
    ),
    Route("GET", f"{V1}/jobs/{{id}}", jobs.get, Scope.DATA_READ, Reach.JOB, fast=True),
    Route("DELETE", f"{V1}/jobs/{{id}}", jobs.cancel, Scope.DATA_WRITE, Reach.JOB),
    Route("POST", f"{V1}/jobs/{{id}}/cancel", jobs.cancel, Scope.DATA_WRITE, Reach.JOB),
    Route("POST", f"{V1}/jobs/{{id}}/activate", jobs.activate, Scope.DATA_WRITE, Reach.JOB),
    Route("GET", f"{V1}/jobs/{{id}}/result", result.get, Scope.DATA_READ, Reach.JOB),
    Route("POST", f"{V1}/jobs/{{id}}/ack", settle.ack_by_path, Scope.WORKER, Reach.JOB, fast=True),
    Route(
        "POST", f"{V1}/jobs/{{id}}/nack", settle.nack_by_path, Scope.WORKER, Reach.JOB, fast=True
    ),
    Route(
        "POST",
        f"{V1}/workers/fetch",
        fetch.fetch,
        Scope.WORKER,
        Reach.HANDLER,
        waits=True,
        fast=True,
    ),
    Route("POST", f"{V1}/workers/ack", settle.ack, Scope.WORKER, Reach.HANDLER, fast=True),
    Route("POST", f"{V1}/workers/nack", settle.nack, Scope.WORKER, Reach.HANDLER, fast=True),
    Route(
        "POST",
        f"{V1}/workers/ack/batch",
        settle_many.ack_many,
        Scope.WORKER,
        Reach.HANDLER,
        batch=True,
        fast=True,
    ),
    Route(
        "POST",
        f"{V1}/workers/nack/batch",
        settle_many.nack_many,
        Scope.WORKER,
        Reach.HANDLER,
        batch=True,
        fast=True,
    ),
    Route(
        "POST", f"{V1}/workers/heartbeat", heartbeat.beat, Scope.WORKER, Reach.HANDLER, fast=True
    ),
    Route("POST", f"{V1}/workers/beat", heartbeat.beat, Scope.WORKER, Reach.HANDLER, fast=True),
    Route("GET", f"{V1}/workers", workers.list_workers, Scope.DATA_READ),
    Route("GET", f"{V1}/workers/{{id}}/health", workers.health, Scope.DATA_READ),
    Route("GET", f"{V1}/queues", queues.list_queues, Scope.DATA_READ, Reach.HANDLER),
    Route("GET", f"{V1}/queues/{{name}}", queues.get, Scope.DATA_READ, Reach.QUEUE),
    Route("GET", f"{V1}/queues/{{name}}/stats", queues.stats, Scope.DATA_READ, Reach.QUEUE),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/pause",
        queues.pause,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.pause",
    ),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/resume",
        queues.resume,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.resume",
    ),
    Route(
        "POST",
        f"{V1}/queues/{{name}}/purge",
        queues.purge,
        Scope.ADMIN_PURGE,
        Reach.QUEUE,
        action="queue.purge",
    ),
    Route("GET", f"{V1}/dead-letter", dead_letters.list_dead, Scope.DATA_READ, Reach.HANDLER),
    Route("GET", f"{V1}/dead-letter/stats", dead_letters.stats, Scope.DATA_READ, Reach.HANDLER),
    Route("GET", f"{V1}/dead-letter/{{id}}", dead_letters.get, Scope.DATA_READ, Reach.JOB),
    Route(
        "POST",
        f"{V1}/dead-letter/{{id}}/retry",
        dead_letters.retry,
        Scope.ADMIN_WRITE,
        Reach.JOB,
        action="dead_letter.retry",
    ),
    Route(
        "DELETE",
        f"{V1}/dead-letter/{{id}}",
        dead_letters.delete,
        Scope.ADMIN_WRITE,
        Reach.JOB,
        action="dead_letter.delete",
    ),
    Route("POST", f"{V1}/workflows", workflows.create, Scope.DATA_WRITE, Reach.HANDLER, batch=True),
    Route("GET", f"{V1}/workflows", workflows.list_workflows, Scope.DATA_READ, Reach.HANDLER),
    Route("GET", f"{V1}/workflows/{{id}}", workflows.get, Scope.DATA_READ, Reach.WORKFLOW),
    Route("DELETE", f"{V1}/workflows/{{id}}", workflows.cancel, Scope.DATA_WRITE, Reach.WORKFLOW),
    Route(
        "POST", f"{V1}/workflows/{{id}}/cancel", workflows.cancel, Scope.DATA_WRITE, Reach.WORKFLOW
    ),
    Route(
        "GET",
        f"{V1}/workflows/{{id}}/progress",
        workflows.progress,
        Scope.DATA_READ,
        Reach.WORKFLOW,
    ),
    Route("GET", f"{V1}/cron", cron.list_crons, Scope.DATA_READ, Reach.HANDLER),
    Route("POST", f"{V1}/cron", cron.register, Scope.DATA_WRITE, Reach.HANDLER),
    Route("GET", f"{V1}/cron/{{name}}", cron.get, Scope.DATA_READ, Reach.CRON),
    Route("PATCH", f"{V1}/cron/{{name}}", cron.change, Scope.DATA_WRITE, Reach.CRON),
    Route("DELETE", f"{V1}/cron/{{name}}", cron.drop, Scope.DATA_WRITE, Reach.CRON),
    Route("POST", f"{V1}/cron/{{name}}/trigger", cron.trigger, Scope.DATA_WRITE, Reach.CRON),
    Route("POST", f"{V1}/cron/{{name}}/pause", cron.pause, Scope.DATA_WRITE, Reach.CRON),
    Route("POST", f"{V1}/cron/{{name}}/resume", cron.resume, Scope.DATA_WRITE, Reach.CRON),
    Route("GET", f"{V1}/cron/{{name}}/history", cron.history, Scope.DATA_READ, Reach.CRON),
    Route("GET", f"{V1}/crons", cron.list_crons, Scope.DATA_READ, Reach.HANDLER),
    Route("POST", f"{V1}/crons", cron.register, Scope.DATA_WRITE, Reach.HANDLER),
    Route("GET", f"{V1}/crons/{{name}}", cron.get, Scope.DATA_READ, Reach.CRON),
    Route("PATCH", f"{V1}/crons/{{name}}", cron.change, Scope.DATA_WRITE, Reach.CRON),
    Route("DELETE", f"{V1}/crons/{{name}}", cron.drop, Scope.DATA_WRITE, Reach.CRON),
    Route("GET", f"{V1}/events", events.list_events, Scope.DATA_READ, Reach.HANDLER),
    Route("GET", f"{V1}/rate-limits", rate_limits.list_keys, Scope.ADMIN_READ),
    Route("GET", f"{V1}/rate-limits/{{key}}", rate_limits.get_key, Scope.ADMIN_READ),
    Route(
        "PUT",
        f"{V1}/rate-limits/{{key}}",
        rate_limits.override_key,
        Scope.ADMIN_WRITE,
        action="rate_limit.override",
    ),
    Route(
        "PUT",
        f"{V1}/rate-limits/{{key}}/override",
        rate_limits.override_key,
        Scope.ADMIN_WRITE,
        action="rate_limit.override",
    ),
    Route(
        "DELETE",
        f"{V1}/rate-limits/{{key}}/override",
        rate_limits.drop_override,
        Scope.ADMIN_WRITE,
        action="rate_limit.end_override",
    ),
    Route("GET", f"{V1}/admin/stats", admin_overview.stats, Scope.ADMIN_READ, Reach.HANDLER),
    Route("GET", f"{V1}/admin/queues", admin_overview.list_queues, Scope.ADMIN_READ, Reach.HANDLER),
    Route(
        "GET",
        f"{V1}/admin/queues/{{name}}",
        admin_overview.get_queue,
        Scope.ADMIN_READ,
        Reach.QUEUE,
    ),
    Route(
        "POST",
        f"{V1}/admin/queues/{{name}}/pause",
        queues.pause,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.pause",
    ),
    Route(
        "POST",
        f"{V1}/admin/queues/{{name}}/resume",
        queues.resume,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.resume",
    ),
    Route("GET", f"{V1}/admin/jobs", admin_jobs.list_jobs, Scope.ADMIN_READ, Reach.HANDLER),
    Route(
        "POST",
        f"{V1}/admin/jobs/bulk/retry",
        admin_bulk.retry_jobs,
        Scope.ADMIN_WRITE,
        Reach.HANDLER,
        action="job.retry_many",
    ),
    Route("GET", f"{V1}/admin/jobs/{{id}}", admin_jobs.get, Scope.ADMIN_READ, Reach.JOB),
    Route(
        "POST",
        f"{V1}/admin/jobs/{{id}}/retry",
        admin_jobs.retry,
        Scope.ADMIN_WRITE,
        Reach.JOB,
        action="job.retry",
    ),
    Route(
        "POST",
        f"{V1}/admin/jobs/{{id}}/cancel",
        admin_jobs.cancel,
        Scope.ADMIN_WRITE,
        Reach.JOB,
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
        "POST",
        f"{V1}/admin/workers/{{id}}/quiet",
        admin_workers.quiet,
        Scope.ADMIN_WRITE,
        action="worker.quiet",
    ),
    Route(
        "GET",
        f"{V1}/admin/dead-letter",
        admin_dead_letter.list_dead,
        Scope.ADMIN_READ,
        Reach.HANDLER,
    ),
    Route(
        "GET", f"{V1}/admin/dead-letter/stats", dead_letters.stats, Scope.ADMIN_READ, Reach.HANDLER
    ),
    Route(
        "POST",
        f"{V1}/admin/dead-letter/retry",
        admin_bulk.retry_dead,
        Scope.ADMIN_WRITE,
        Reach.HANDLER,
        action="dead_letter.retry_many",
    ),
    Route(
        "POST",
        f"{V1}/admin/dead-letter/{{id}}/retry",
        admin_dead_letter.retry,
        Scope.ADMIN_WRITE,
        Reach.JOB,
        action="dead_letter.retry",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/dead-letter/{{id}}",
        admin_dead_letter.delete,
        Scope.ADMIN_WRITE,
        Reach.JOB,
        action="dead_letter.delete",
    ),
    Route(
        "GET",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.get_queue,
        Scope.ADMIN_READ,
        Reach.QUEUE,
    ),
    Route(
        "PUT",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.set_queue,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.limit",
    ),
    Route(
        "DELETE",
        f"{V1}/admin/queues/{{name}}/rate-limit",
        rate_limits.drop_queue,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.end_limit",
    ),
    Route("GET", f"{V1}/admin/audit", audit.list_entries, Scope.ADMIN_READ),
    Route("GET", f"{V1}/admin/outbox", outbox.list_parked, Scope.ADMIN_READ),
    Route(
        "POST", f"{V1}/admin/outbox/retry", outbox.retry, Scope.ADMIN_WRITE, action="outbox.retry"
    ),
    Route(
        "GET", f"{V1}/admin/queues/{{name}}/config", queue_config.get, Scope.ADMIN_READ, Reach.QUEUE
    ),
    Route(
        "PUT",
        f"{V1}/admin/queues/{{name}}/config",
        queue_config.put,
        Scope.ADMIN_WRITE,
        Reach.QUEUE,
        action="queue.configure",
    ),
    Route(
        "POST",
        f"{V1}/admin/reset",
        admin.reset,
        Scope.ADMIN_PURGE,
        test_hook=True,
        action="data.reset",
    ),
)


@cache
def router_for(test_hooks: bool) -> Router:
    """The router over the table, with or without the test hooks."""
    return Router(ROUTES, test_hooks=test_hooks)
