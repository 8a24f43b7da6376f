"""The one route table that every door serves."""

from __future__ import annotations

from functools import cache

from ojs_cluster.http.handlers import (
    admin,
    batch,
    cron,
    dead_letter,
    events,
    fetch,
    heartbeat,
    jobs,
    metrics,
    outbox,
    queues,
    rate_limits,
    result,
    settle,
    system,
    workers,
    workflows,
)
from ojs_cluster.http.router import Route, Router

V1 = "/ojs/v1"

ROUTES: tuple[Route, ...] = (
    Route("GET", "/ojs/manifest", system.manifest),
    Route("GET", f"{V1}/health", system.health, open=True, fast=True),
    Route("GET", "/health", system.alive, open=True, fast=True),
    Route("GET", "/live", system.live, open=True, fast=True),
    Route("GET", "/ready", system.ready, open=True, fast=True),
    Route("GET", "/metrics", metrics.scrape, metrics=True),
    Route("POST", f"{V1}/jobs", jobs.enqueue, fast=True),
    Route("GET", f"{V1}/jobs", jobs.list_jobs),
    Route("POST", f"{V1}/jobs/batch", batch.enqueue_many, batch=True, fast=True),
    Route("POST", f"{V1}/jobs/fetch", fetch.fetch, waits=True, fast=True),
    Route("GET", f"{V1}/jobs/{{id}}", jobs.get, fast=True),
    Route("DELETE", f"{V1}/jobs/{{id}}", jobs.cancel),
    Route("POST", f"{V1}/jobs/{{id}}/cancel", jobs.cancel),
    Route("POST", f"{V1}/jobs/{{id}}/activate", jobs.activate),
    Route("GET", f"{V1}/jobs/{{id}}/result", result.get),
    Route("POST", f"{V1}/jobs/{{id}}/ack", settle.ack_by_path, fast=True),
    Route("POST", f"{V1}/jobs/{{id}}/nack", settle.nack_by_path, fast=True),
    Route("POST", f"{V1}/workers/fetch", fetch.fetch, waits=True, fast=True),
    Route("POST", f"{V1}/workers/ack", settle.ack, fast=True),
    Route("POST", f"{V1}/workers/nack", settle.nack, fast=True),
    Route("POST", f"{V1}/workers/heartbeat", heartbeat.beat, fast=True),
    Route("POST", f"{V1}/workers/beat", heartbeat.beat, fast=True),
    Route("GET", f"{V1}/workers", workers.list_workers),
    Route("GET", f"{V1}/workers/{{id}}/health", workers.health),
    Route("GET", f"{V1}/queues", queues.list_queues),
    Route("GET", f"{V1}/queues/{{name}}", queues.get),
    Route("GET", f"{V1}/queues/{{name}}/stats", queues.stats),
    Route("POST", f"{V1}/queues/{{name}}/pause", queues.pause),
    Route("POST", f"{V1}/queues/{{name}}/resume", queues.resume),
    Route("POST", f"{V1}/queues/{{name}}/purge", queues.purge),
    Route("GET", f"{V1}/dead-letter", dead_letter.list_dead),
    Route("GET", f"{V1}/dead-letter/stats", dead_letter.stats),
    Route("GET", f"{V1}/dead-letter/{{id}}", dead_letter.get),
    Route("POST", f"{V1}/dead-letter/{{id}}/retry", dead_letter.retry),
    Route("DELETE", f"{V1}/dead-letter/{{id}}", dead_letter.delete),
    Route("POST", f"{V1}/workflows", workflows.create, batch=True),
    Route("GET", f"{V1}/workflows", workflows.list_workflows),
    Route("GET", f"{V1}/workflows/{{id}}", workflows.get),
    Route("DELETE", f"{V1}/workflows/{{id}}", workflows.cancel),
    Route("POST", f"{V1}/workflows/{{id}}/cancel", workflows.cancel),
    Route("GET", f"{V1}/workflows/{{id}}/progress", workflows.progress),
    Route("GET", f"{V1}/cron", cron.list_crons),
    Route("POST", f"{V1}/cron", cron.register),
    Route("GET", f"{V1}/cron/{{name}}", cron.get),
    Route("PATCH", f"{V1}/cron/{{name}}", cron.change),
    Route("DELETE", f"{V1}/cron/{{name}}", cron.drop),
    Route("POST", f"{V1}/cron/{{name}}/trigger", cron.trigger),
    Route("POST", f"{V1}/cron/{{name}}/pause", cron.pause),
    Route("POST", f"{V1}/cron/{{name}}/resume", cron.resume),
    Route("GET", f"{V1}/cron/{{name}}/history", cron.history),
    Route("GET", f"{V1}/crons", cron.list_crons),
    Route("POST", f"{V1}/crons", cron.register),
    Route("GET", f"{V1}/crons/{{name}}", cron.get),
    Route("PATCH", f"{V1}/crons/{{name}}", cron.change),
    Route("DELETE", f"{V1}/crons/{{name}}", cron.drop),
    Route("GET", f"{V1}/events", events.list_events),
    Route("GET", f"{V1}/rate-limits", rate_limits.list_keys),
    Route("GET", f"{V1}/rate-limits/{{key}}", rate_limits.get_key),
    Route("PUT", f"{V1}/rate-limits/{{key}}", rate_limits.override_key),
    Route("PUT", f"{V1}/rate-limits/{{key}}/override", rate_limits.override_key),
    Route("DELETE", f"{V1}/rate-limits/{{key}}/override", rate_limits.drop_override),
    Route("GET", f"{V1}/admin/queues/{{name}}/rate-limit", rate_limits.get_queue),
    Route("PUT", f"{V1}/admin/queues/{{name}}/rate-limit", rate_limits.set_queue),
    Route("DELETE", f"{V1}/admin/queues/{{name}}/rate-limit", rate_limits.drop_queue),
    Route("GET", f"{V1}/admin/outbox", outbox.list_parked),
    Route("POST", f"{V1}/admin/outbox/retry", outbox.retry),
    Route("POST", f"{V1}/admin/reset", admin.reset, test_hook=True),
)


@cache
def router_for(test_hooks: bool) -> Router:
    """The router over the table, with or without the test hooks."""
    return Router(ROUTES, test_hooks=test_hooks)
