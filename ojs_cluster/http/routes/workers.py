"""The routes of workers."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import progress
from ojs_cluster.http.handlers.workers import fetch, heartbeat, settle, settle_many
from ojs_cluster.http.handlers.workers import list_workers as workers
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import jobs as job_shapes
from ojs_cluster.http.shapes import workers as shapes
from ojs_cluster.http.shapes.common import Error

ROUTES: Final = table(
    Route(
        "POST /ojs/v1/workers/fetch",
        fetch.fetch,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.FetchedJobs},
        body=fetch.FetchBody,
        errors=(404,),
        waits_for_jobs=True,
        fast=True,
        request_class="fetch",
        aliases=("POST /ojs/v1/jobs/fetch",),
    ),
    Route(
        "POST /ojs/v1/workers/ack",
        settle.ack,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.AckAnswer},
        body=settle.AckBody,
        errors=(404, 409),
        fast=True,
    ),
    Route(
        "POST /ojs/v1/workers/nack",
        settle.nack,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.NackAnswer},
        body=settle.NackBody,
        errors=(404, 409),
        fast=True,
    ),
    Route(
        "POST /ojs/v1/workers/ack/batch",
        settle_many.ack_many,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.SettleResults},
        body=settle_many.AcksBody,
        batch=True,
        fast=True,
    ),
    Route(
        "POST /ojs/v1/workers/nack/batch",
        settle_many.nack_many,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.SettleResults},
        body=settle_many.NacksBody,
        batch=True,
        fast=True,
    ),
    Route(
        "POST /ojs/v1/workers/heartbeat",
        heartbeat.receive,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: shapes.HeartbeatAnswer},
        body=heartbeat.HeartbeatBody,
        fast=True,
        aliases=("POST /ojs/v1/workers/beat",),
    ),
    Route(
        "POST /ojs/v1/workers/progress",
        progress.report,
        a.WORK_BY_HANDLER_OF_TENANT,
        {200: job_shapes.JobProgress},
        body=progress.ProgressBody,
        errors=(404, 409),
    ),
    Route(
        "GET /ojs/v1/workers",
        workers.list_workers,
        a.READ,
        {200: shapes.WorkerList},
        parameters=p.page(100, 1000),
    ),
    Route(
        "DELETE /ojs/v1/workers/{id}",
        heartbeat.deregister,
        # Any worker key could send the heartbeat that this needs: the queues do not matter.
        a.WORK_NO_QUEUE,
        {200: shapes.WorkerRemoved},
        errors=(409,),
    ),
    Route(
        "GET /ojs/v1/workers/{id}/health",
        workers.health,
        a.READ,
        {
            200: Answer(shapes.Worker, "The worker takes jobs."),
            503: Answer((shapes.Worker, Error), "The worker drains or is stale."),
        },
    ),
)
