"""What operators use, except requests about many jobs and workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import edit
from ojs_cluster.http.handlers.admin import (
    audit,
    configuration,
    dead_letters,
    errors,
    history,
    jobs,
    maintenance,
    outbox,
    overview,
    queue_config,
    queue_config_changes,
    trace,
)
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import jobs as job_shapes
from ojs_cluster.http.shapes import queues as queue_shapes
from ojs_cluster.http.shapes import system as shapes
from ojs_cluster.http.shapes.bulk import AuditList
from ojs_cluster.http.shapes.job_requests import JobEditBody

_AGE: Final = "A time, or an age such as `24h`."
_CHANGED_JOB: Final = OperationDetails({200: job_shapes.AdminJob}, errors=(409,))

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    overview.stats: OperationDetails(
        {200: shapes.ClusterStats},
        parameters=(
            p.QUEUE,
            p.flag("detail", "Whether `queues` lists the queues whose jobs run longest."),
            p.limit(10, 100),
        ),
        errors=(404,),
    ),
    history.get: OperationDetails(
        {200: queue_shapes.StatsHistory},
        parameters=(
            p.text(
                "period",
                "The length of a period.",
                enum=["1m", "5m", "1h", "1d"],
                default="5m",
            ),
            p.text("since", f"The beginning of the series. {_AGE}"),
            p.text("until", f"The end of the series. {_AGE}"),
            p.QUEUE,
            p.text("type", "Only jobs of this type, in all queues. Not together with `queue`."),
        ),
        errors=(404,),
    ),
    overview.list_queues: OperationDetails(
        {200: queue_shapes.AdminQueueList}, parameters=p.numbered_page()
    ),
    overview.get_queue: OperationDetails({200: queue_shapes.AdminQueueDetail}),
    queue_config.get: OperationDetails({200: queue_shapes.QueueConfigAnswer}),
    queue_config.put: OperationDetails(
        {200: queue_shapes.QueueConfigAnswer},
        body=queue_config_changes.QueueConfigBody,
        errors=(409,),
    ),
    errors.list_errors: OperationDetails(
        {200: queue_shapes.ErrorGroups},
        parameters=(
            p.QUEUE,
            p.text("since", "Only groups with a failure since a time, or an age such as `1h`."),
            *p.page(),
        ),
    ),
    jobs.list_jobs: OperationDetails(
        {200: job_shapes.JobItems},
        parameters=(
            *(p.QUEUE, p.STATE, p.TYPE),
            p.text("worker_id", "Only active jobs of this worker."),
            *(p.SEARCH, p.INDEX, p.SINCE, p.UNTIL, p.SORT, p.ORDER),
            *p.numbered_page(20, 100),
        ),
    ),
    jobs.get: OperationDetails({200: job_shapes.AdminJob}),
    jobs.retry: _CHANGED_JOB,
    jobs.cancel: _CHANGED_JOB,
    edit.change_as_admin: OperationDetails(
        {200: job_shapes.Job}, body=JobEditBody, errors=(409, 413)
    ),
    trace.get: OperationDetails({200: job_shapes.Trace}),
    dead_letters.list_dead: OperationDetails(
        {200: job_shapes.JobItems},
        parameters=(p.QUEUE, p.STATE, p.TYPE, p.SEARCH, p.SINCE, p.UNTIL, *p.numbered_page()),
    ),
    dead_letters.retry: OperationDetails({200: job_shapes.Job}, errors=(409,)),
    dead_letters.delete: OperationDetails({204: Answer(description="The dead letter is deleted.")}),
    audit.list_entries: OperationDetails(
        {200: AuditList},
        parameters=(
            p.text("principal", "Only changes by this API key."),
            p.text("action", "Only this kind of change, such as `queue.pause`."),
            p.SINCE,
            p.UNTIL,
            p.limit(50, 500),
            p.CURSOR,
        ),
    ),
    outbox.list_dead_letters: OperationDetails(
        {200: shapes.OutboxList}, parameters=(p.limit(), p.CURSOR)
    ),
    outbox.retry: OperationDetails({200: shapes.OutboxRetried}, body=outbox.OutboxRetryBody),
    configuration.get: OperationDetails({200: shapes.ConfigurationAnswer}),
    maintenance.get: OperationDetails({200: shapes.MaintenanceMembers}),
    maintenance.put: OperationDetails(
        {200: shapes.MaintenanceMembers}, body=maintenance.MaintenanceBody
    ),
}
