"""What workers call, and workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.admin import workers as admin_workers
from ojs_cluster.http.handlers.workers import (
    fetch,
    heartbeat,
    list_workers,
    settle,
    settle_many,
)
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import workers as shapes
from ojs_cluster.http.shapes.common import Error

_REFUSED: Final = (404, 409)

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    fetch.fetch: OperationDetails({200: shapes.FetchedJobs}, body=fetch.FetchBody, errors=(404,)),
    settle.ack: OperationDetails({200: shapes.AckAnswer}, body=settle.AckBody, errors=_REFUSED),
    settle.ack_by_path: OperationDetails(
        {200: shapes.AckAnswer}, body=settle.AckBody, body_required=False, errors=_REFUSED
    ),
    settle.nack: OperationDetails({200: shapes.NackAnswer}, body=settle.NackBody, errors=_REFUSED),
    settle.nack_by_path: OperationDetails(
        {200: shapes.NackAnswer}, body=settle.NackBody, body_required=False, errors=_REFUSED
    ),
    settle_many.ack_many: OperationDetails({200: shapes.SettleResults}, body=settle_many.AcksBody),
    settle_many.nack_many: OperationDetails(
        {200: shapes.SettleResults}, body=settle_many.NacksBody
    ),
    heartbeat.receive: OperationDetails(
        {200: shapes.HeartbeatAnswer}, body=heartbeat.HeartbeatBody
    ),
    heartbeat.deregister: OperationDetails({200: shapes.WorkerRemoved}, errors=(409,)),
    list_workers.list_workers: OperationDetails(
        {200: shapes.WorkerList}, parameters=p.page(100, 1000)
    ),
    list_workers.health: OperationDetails(
        {
            200: Answer(shapes.Worker, "The worker takes jobs."),
            503: Answer((shapes.Worker, Error), "The worker drains or is stale."),
        }
    ),
    admin_workers.list_workers: OperationDetails(
        {200: shapes.AdminWorkerList},
        parameters=(
            *p.numbered_page(),
            p.text("sort", "The order.", enum=["last_seen", "id"], default="last_seen"),
        ),
    ),
    admin_workers.get: OperationDetails({200: shapes.WorkerDetail}),
    admin_workers.quiet: OperationDetails({200: shapes.WorkerDirective}),
    admin_workers.deregister: OperationDetails({200: shapes.WorkerRemoved}, errors=(409,)),
    admin_workers.direct: OperationDetails(
        {200: shapes.DirectiveAnswer}, body=admin_workers.DirectiveBody
    ),
}
