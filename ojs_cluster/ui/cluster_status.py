"""The status of the Redis nodes and schedulers, which the viewers of a process share."""

from __future__ import annotations

from typing import Any, Final

import orjson

from ojs_cluster.http.app import App
from ojs_cluster.store.operators.operations.nodes import read_cluster
from ojs_cluster.ui.visit import Visit

SLOTS: Final = 16384
"""Number of the slots of a Redis Cluster. A standalone server serves all of them."""
KEPT_S: Final = 1.0
"""Maximum age of the status in seconds. A page that refreshes every five seconds then shows within
ten seconds that the schedulers have died: after 3.75 seconds their leases end."""
_GROUP: Final = "OJS_SCHEDULER_GROUP"


def scheduler_group(app: App) -> str:
    """Return the scheduler group that this process is configured for."""
    return next((v.value for v in app.configuration if v.name == _GROUP), "") or "default"


async def cluster_status(visit: Visit) -> dict[str, Any]:
    """Return the members of ``nodes.ClusterStatus``, read at most ``KEPT_S`` ago.

    The read takes one or two seconds at most, because it waits for no silent node. It is only for
    users who may see the whole cluster.
    """

    async def read() -> bytes:
        return orjson.dumps(await read_cluster(visit.app.store, scheduler_group(visit.app)))

    status: dict[str, Any] = orjson.loads(await visit.snapshots.get("cluster", read, KEPT_S))
    return status
