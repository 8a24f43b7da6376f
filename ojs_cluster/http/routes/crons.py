"""The routes of cron jobs."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import cron, cron_backfill
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer, Parameter
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import crons as shapes
from ojs_cluster.http.shapes.job_requests import CronBody, CronChange
from ojs_cluster.store.features.cron.cron_store import HISTORY_KEPT

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/cron",
        cron.list_crons,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: shapes.CronList},
        parameters=(
            Parameter("enabled", "Only enabled cron jobs, or only disabled ones.", p.BOOLEAN),
            *p.page(),
        ),
        aliases=("GET /ojs/v1/crons",),
    ),
    Route(
        "POST /ojs/v1/cron",
        cron.register,
        a.WRITE_BY_HANDLER_OF_TENANT,
        {201: Answer(shapes.RegisteredCron, headers={"Location": "The path of the cron job."})},
        body=CronBody,
        errors=(409,),
        aliases=("POST /ojs/v1/crons",),
    ),
    Route(
        "GET /ojs/v1/cron/{name}",
        cron.get,
        a.READ_CRON,
        {200: shapes.CronAnswer},
        errors=(409,),
        aliases=("GET /ojs/v1/crons/{name}",),
    ),
    Route(
        "PATCH /ojs/v1/cron/{name}",
        cron.change,
        a.WRITE_CRON,
        {200: shapes.RegisteredCron},
        body=CronChange,
        errors=(409,),
        aliases=("PATCH /ojs/v1/crons/{name}",),
    ),
    Route(
        "DELETE /ojs/v1/cron/{name}",
        cron.drop,
        a.WRITE_CRON,
        {200: shapes.CronDeleted},
        errors=(409,),
        aliases=("DELETE /ojs/v1/crons/{name}",),
    ),
    Route(
        "POST /ojs/v1/cron/{name}/trigger",
        cron.trigger,
        a.WRITE_CRON,
        {
            201: Answer(shapes.CronTriggered, headers={"Location": "The path of the job."}),
            200: Answer(shapes.CronTriggered, "The job would duplicate a unique job."),
        },
        errors=(409,),
        request_class="enqueue",
    ),
    Route(
        "POST /ojs/v1/cron/{name}/backfill",
        cron_backfill.run,
        a.WRITE_CRON,
        {200: shapes.CronBackfill},
        body=cron_backfill.BackfillBody,
        errors=(409, 413),
        request_class="enqueue",
    ),
    Route(
        "POST /ojs/v1/cron/{name}/pause",
        cron.pause,
        a.WRITE_CRON,
        {200: shapes.CronAnswer},
        errors=(409,),
    ),
    Route(
        "POST /ojs/v1/cron/{name}/resume",
        cron.resume,
        a.WRITE_CRON,
        {200: shapes.CronAnswer},
        errors=(409,),
    ),
    Route(
        "GET /ojs/v1/cron/{name}/history",
        cron.history,
        a.READ_CRON,
        {200: shapes.CronHistory},
        parameters=(p.limit(50, HISTORY_KEPT),),
        errors=(409,),
    ),
)
