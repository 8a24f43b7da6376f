"""The routes of agents, under the path of the suites and those of the SDKs."""

from __future__ import annotations

from typing import Final

from ojs_cluster.core.access.scopes import Scope
from ojs_cluster.http.handlers import agents
from ojs_cluster.http.routing.router import V1, QueueAccess, Route

_JS: Final = "/v1/agent/jobs"
_PYTHON: Final = "/v1/agents"
_ALL: Final = (f"{V1}/agents", _PYTHON, _JS)

ROUTES: Final[tuple[Route, ...]] = (
    *(
        Route("POST", f"{base}/{{id}}/{name}", handler, scope, QueueAccess.JOB)
        for name, handler, scope in (
            ("pause", agents.pause, Scope.WORKER),
            # A worker cannot approve what its own agent has asked for.
            ("resume", agents.resume, Scope.DATA_WRITE),
            ("fork", agents.fork, Scope.WORKER),
            ("merge", agents.merge, Scope.WORKER),
        )
        for base in _ALL
    ),
    Route(
        "POST",
        f"{V1}/agents/{{id}}/tool-retry",
        agents.tool_retry,
        Scope.WORKER,
        QueueAccess.JOB,
    ),
    *(
        Route("GET", f"{base}/{{id}}/state", agents.state, Scope.DATA_READ, QueueAccess.JOB)
        for base in (f"{V1}/agents", _PYTHON)
    ),
)
