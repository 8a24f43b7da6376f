"""The routes of agents, under the path of the suites.

The aliases are the paths that the agent clients of the Python and JS SDKs call.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers import agents
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import agents as shapes

ROUTES: Final = table(
    Route(
        "POST /ojs/v1/agents/{id}/pause",
        agents.pause,
        a.WORK_JOB,
        {200: shapes.AgentPaused},
        optional_body=agents.PauseBody,
        errors=(409,),
        aliases=(
            "POST /v1/agents/{id}/pause",
            "POST /v1/agent/jobs/{id}/pause",
        ),
    ),
    Route(
        "POST /ojs/v1/agents/{id}/resume",
        agents.resume,
        a.WRITE_JOB,  # a worker cannot approve what its own agent has asked for
        {200: shapes.AgentResumed},
        optional_body=agents.ResumeBody,
        errors=(409,),
        aliases=(
            "POST /v1/agents/{id}/resume",
            "POST /v1/agent/jobs/{id}/resume",
        ),
    ),
    Route(
        "POST /ojs/v1/agents/{id}/fork",
        agents.fork,
        a.WORK_JOB,
        {200: shapes.AgentForked},
        optional_body=agents.ForkBody,
        errors=(409,),
        aliases=(
            "POST /v1/agents/{id}/fork",
            "POST /v1/agent/jobs/{id}/fork",
        ),
    ),
    Route(
        "POST /ojs/v1/agents/{id}/merge",
        agents.merge,
        a.WORK_JOB,
        {200: shapes.AgentMerged},
        body=agents.MergeBody,
        errors=(409,),
        aliases=(
            "POST /v1/agents/{id}/merge",
            "POST /v1/agent/jobs/{id}/merge",
        ),
    ),
    Route(
        "POST /ojs/v1/agents/{id}/tool-retry",
        agents.tool_retry,
        a.WORK_JOB,
        {200: shapes.ToolRetried},
        body=agents.ToolRetryBody,
        errors=(409,),
    ),
    Route(
        "GET /ojs/v1/agents/{id}/state",
        agents.state,
        a.READ_JOB,
        {200: shapes.AgentStateAnswer},
        aliases=("GET /v1/agents/{id}/state",),
    ),
)
