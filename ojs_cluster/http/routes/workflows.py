"""The routes of workflows."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.payload_limits import MAX_BATCH_JOBS
from ojs_cluster.http.handlers import workflows
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.described import Answer
from ojs_cluster.http.routing.router import Route, table
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

ROUTES: Final = table(
    Route(
        "POST /ojs/v1/workflows",
        workflows.create,
        a.WRITE_BY_HANDLER_OF_TENANT,
        {201: Answer(shapes.CreatedWorkflow, headers={"Location": "The path of the workflow."})},
        body=WorkflowBody,
        errors=(409,),
        batch=True,
        request_class="enqueue",
    ),
    Route(
        "GET /ojs/v1/workflows",
        workflows.list_workflows,
        a.READ_BY_HANDLER_OF_TENANT,
        {200: shapes.WorkflowList},
        parameters=(_STATE, *p.numbered_page(50, 200)),
    ),
    Route(
        "GET /ojs/v1/workflows/{id}",
        workflows.get,
        a.READ_WORKFLOW,
        {200: shapes.WorkflowAnswer},
        parameters=_STEPS,
        errors=(409,),
    ),
    Route(
        "DELETE /ojs/v1/workflows/{id}",
        workflows.cancel,
        a.WRITE_WORKFLOW,
        {200: shapes.WorkflowAnswer},
        errors=(409,),
        aliases=("POST /ojs/v1/workflows/{id}/cancel",),
    ),
    Route(
        "GET /ojs/v1/workflows/{id}/progress",
        workflows.progress,
        a.READ_WORKFLOW,
        {200: shapes.WorkflowProgressAnswer},
        errors=(409,),
    ),
)
