"""Agents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers import agents
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import agents as shapes

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    agents.pause: OperationDetails(
        {200: shapes.AgentPaused}, body=agents.PauseBody, body_required=False, errors=(409,)
    ),
    agents.resume: OperationDetails(
        {200: shapes.AgentResumed}, body=agents.ResumeBody, body_required=False, errors=(409,)
    ),
    agents.fork: OperationDetails(
        {200: shapes.AgentForked}, body=agents.ForkBody, body_required=False, errors=(409,)
    ),
    agents.merge: OperationDetails({200: shapes.AgentMerged}, body=agents.MergeBody, errors=(409,)),
    agents.tool_retry: OperationDetails(
        {200: shapes.ToolRetried}, body=agents.ToolRetryBody, errors=(409,)
    ),
    agents.state: OperationDetails({200: shapes.AgentStateAnswer}),
}
