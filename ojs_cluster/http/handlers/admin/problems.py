"""Return the problems of the cluster, which the overview of the dashboard shows."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from ojs_cluster.core.errors import Unsupported
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.http.problems import Problem
from ojs_cluster.redis.driven_coroutines import ensure_task


async def list_problems(app: App, _request: Request) -> Response:
    """List the problems of the cluster, critical ones first.

    They are those of the overview of the dashboard, in English. The response also comes while
    masters of Redis are down.
    """
    if app.find_problems is None:
        raise Unsupported("this process does not look for problems")
    await ensure_task()
    found = await app.find_problems(app)
    items = [_members(problem) for problem in found]
    return replies.json_response(200, {"items": items, "total": len(items)})


def _members(problem: Problem) -> dict[str, Any]:
    members: dict[str, Any] = {
        "id": problem.id,
        "rule": problem.rule,
        "severity": "critical" if problem.severe else "warning",
        "text": problem.what,
        "action": problem.action,
    }
    if problem.since_ms is not None:
        members["since"] = replies.iso(problem.since_ms)
    if problem.path:
        page = "/".join(quote(segment, safe="") for segment in problem.path)
        query = f"?{urlencode(problem.query)}" if problem.query else ""
        members["link"] = f"ui/{page}{query}"
    return members
