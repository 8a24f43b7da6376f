"""The Redis nodes, the schedulers, and the API process that serves the page."""

from __future__ import annotations

import platform
import socket
import time

from ojs_cluster.ui.cluster_status import cluster_status, scheduler_group
from ojs_cluster.ui.problems.of_cluster import problems_of_cluster
from ojs_cluster.ui.visit import Answer, Page, Visit


async def show(visit: Visit) -> Answer:
    """Show the cluster to users who may see all queues."""
    if not visit.sees_cluster:
        context = {
            "what": "Your API key may not see the cluster",
            "why": f"The key '{visit.principal.name}' is for some queues only.",
            "hint": "Log in with a key for all queues.",
        }
        return Page("error.html", context, 403)
    status, group = await cluster_status(visit), scheduler_group(visit.app)
    return Page(
        "cluster.html",
        {
            "cluster": status,
            "group": group,
            "advice": sorted(
                problems_of_cluster(status, group), key=lambda problem: not problem.severe
            ),
            "process": {
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "uptime_ms": (time.monotonic() - visit.app.started) * 1000,
            },
        },
    )
