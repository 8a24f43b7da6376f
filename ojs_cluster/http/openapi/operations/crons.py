"""Cron jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import cron, cron_backfill
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails, Parameter
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import crons as shapes
from ojs_cluster.http.shapes.job_requests import CronBody, CronChange
from ojs_cluster.store.features.cron.cron_store import HISTORY_KEPT

_CRON: Final = OperationDetails({200: shapes.CronAnswer}, errors=(409,))

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    cron.list_crons: OperationDetails(
        {200: shapes.CronList},
        parameters=(
            Parameter("enabled", "Only enabled cron jobs, or only disabled ones.", p.BOOLEAN),
            *p.page(),
        ),
    ),
    cron.register: OperationDetails(
        {201: Answer(shapes.RegisteredCron, headers={"Location": "The path of the cron job."})},
        body=CronBody,
        errors=(409,),
    ),
    cron.get: _CRON,
    cron.change: OperationDetails({200: shapes.RegisteredCron}, body=CronChange, errors=(409,)),
    cron.pause: _CRON,
    cron.resume: _CRON,
    cron.drop: OperationDetails({200: shapes.CronDeleted}, errors=(409,)),
    cron.trigger: OperationDetails(
        {
            201: Answer(shapes.CronTriggered, headers={"Location": "The path of the job."}),
            200: Answer(shapes.CronTriggered, "The job would duplicate a unique job."),
        },
        errors=(409,),
    ),
    cron_backfill.run: OperationDetails(
        {200: shapes.CronBackfill}, body=cron_backfill.BackfillBody, errors=(409, 413)
    ),
    cron.history: OperationDetails(
        {200: shapes.CronHistory}, parameters=(p.limit(50, HISTORY_KEPT),), errors=(409,)
    ),
}
