"""The Redis nodes, the schedulers, and the API process that serves the page."""

from __future__ import annotations

import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ojs_cluster.ui.cluster_status import cluster_status, scheduler_group
from ojs_cluster.ui.languages.translate import _
from ojs_cluster.ui.problems.of_cluster import problems_of_cluster
from ojs_cluster.ui.visit import Answer, Page, Visit


async def show(visit: Visit) -> Answer:
    """Show the cluster to users who may see all queues."""
    if not visit.sees_cluster:
        context = {
            "what": _("Your API key may not see the cluster"),
            "why": _("The key '%(name)s' is for some queues only.", name=visit.principal.name),
            "hint": _("Log in with a key for all queues."),
        }
        return Page("error.html", context, 403)
    visit.app.access.count_request(visit.principal)
    status, group = await cluster_status(visit), scheduler_group(visit.app)
    return Page(
        "cluster.html",
        {
            "cluster": status,
            "now_ms": visit.clock.now_ms(),
            "group": group,
            "advice": sorted(
                problems_of_cluster(status, group), key=lambda problem: not problem.severe
            ),
            "nodes": _api_nodes(status["processes"] or {}, visit.clock.now_ms()),
            "layout": visit.app.store.layout.record,
            "process": {
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "uptime_ms": (time.monotonic() - visit.app.started) * 1000,
            },
        },
    )


class _ApiNode(NamedTuple):
    """The API processes of one host that have one version. ``uptime_ms`` is that of the oldest."""

    host: str
    version: str
    python: str
    processes: int
    uptime_ms: float


def _api_nodes(processes: Mapping[str, Any], now_ms: int) -> list[_ApiNode]:
    """Return the hosts with API processes. A host has two rows while its version changes."""
    counts: Counter[tuple[str, str, str]] = Counter()
    started: dict[tuple[str, str, str], int] = {}
    for process in processes.values():
        if process["kind"] == "api":
            key = process["host"], process["version"], process["python"]
            counts[key] += 1
            started[key] = min(started.get(key, process["started_ms"]), process["started_ms"])
    return [
        _ApiNode(*key, count, max(0.0, now_ms - started[key]))
        for key, count in sorted(counts.items())
    ]
