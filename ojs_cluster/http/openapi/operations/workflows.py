"""Workflows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.core.payload_limits import MAX_BATCH_JOBS
from ojs_cluster.http.handlers import workflows
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import Answer, OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import workflows as shapes
from ojs_cluster.http.shapes.job_requests import WorkflowBody

_STATE: Final = p.text(
    "state",
    "Only workflows in this state. `active` is an alias of `running`.",
    enum=["running", "active", "pending", "completed", "failed", "cancelled"],
)

_STEPS: Final = (
    p.number(
        "limit",
        "Maximum number of steps, nested ones and callbacks included; 0 for none.",
        low=0,
        high=MAX_BATCH_JOBS,
        default=MAX_BATCH_JOBS,
    ),
    p.offset(MAX_BATCH_JOBS),
)

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    workflows.create: OperationDetails(
        {201: Answer(shapes.CreatedWorkflow, headers={"Location": "The path of the workflow."})},
        body=WorkflowBody,
        errors=(409,),
    ),
    workflows.list_workflows: OperationDetails(
        {200: shapes.WorkflowList}, parameters=(_STATE, *p.numbered_page(50, 200))
    ),
    workflows.get: OperationDetails({200: shapes.WorkflowAnswer}, parameters=_STEPS, errors=(409,)),
    workflows.cancel: OperationDetails({200: shapes.WorkflowAnswer}, errors=(409,)),
    workflows.progress: OperationDetails({200: shapes.WorkflowProgressAnswer}, errors=(409,)),
}
