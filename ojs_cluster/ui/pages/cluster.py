"""The Redis nodes, the schedulers, and the API process that serves the page."""

from __future__ import annotations

import platform
import socket
import time
from typing import Any, Final

import orjson

from ojs_cluster.store.operations.nodes import read_cluster
from ojs_cluster.ui.visit import Answer, Page, Visit

_GROUP: Final = "OJS_SCHEDULER_GROUP"
_SLOTS: Final = 16384


async def show(visit: Visit) -> Answer:
    """Show the cluster to users who may see all queues."""
    if not visit.sees_cluster:
        context = {
            "what": "Your API key may not see the cluster",
            "why": f"The key '{visit.principal.name}' is for some queues only.",
            "hint": "Log in with a key for all queues.",
        }
        return Page("error.html", context, 403)
    group = next((v.value for v in visit.app.configuration if v.name == _GROUP), "") or "default"

    async def read() -> bytes:
        return orjson.dumps(await read_cluster(visit.app.store, group))

    status: dict[str, Any] = orjson.loads(await visit.snapshots.get("cluster", read))
    return Page(
        "cluster.html",
        {
            "cluster": status,
            "group": group,
            "uncovered": _SLOTS - status["slots_covered"],
            "silent": sum(not master["answers"] for master in status["masters"]),
            "process": {
                "host": socket.gethostname(),
                "python": platform.python_version(),
                "uptime_ms": (time.monotonic() - visit.app.started) * 1000,
            },
        },
    )
