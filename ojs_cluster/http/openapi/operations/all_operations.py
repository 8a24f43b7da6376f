"""The tables of all families, joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.openapi.operations import (
    admin,
    agents,
    bulk,
    crons,
    dashboard,
    events,
    jobs,
    pools,
    queues,
    schemas,
    system,
    tenants,
    webhooks,
    workers,
    workflows,
)
from ojs_cluster.http.routing.router import Handler

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    **system.OPERATIONS,
    **jobs.OPERATIONS,
    **bulk.OPERATIONS,
    **workers.OPERATIONS,
    **queues.OPERATIONS,
    **workflows.OPERATIONS,
    **crons.OPERATIONS,
    **events.OPERATIONS,
    **webhooks.OPERATIONS,
    **schemas.OPERATIONS,
    **pools.OPERATIONS,
    **agents.OPERATIONS,
    **admin.OPERATIONS,
    **tenants.OPERATIONS,
    **dashboard.OPERATIONS,
}
