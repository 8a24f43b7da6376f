"""Worker pools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.admin import pools
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import pools as shapes

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    pools.list_pools: OperationDetails({200: shapes.PoolList}),
    pools.get: OperationDetails({200: shapes.PoolAnswer}),
    pools.put: OperationDetails(
        {200: shapes.PoolAnswer, 201: shapes.PoolAnswer}, body=pools.PoolBody, errors=(409,)
    ),
    pools.drop: OperationDetails({200: shapes.PoolDeleted}),
    pools.stats: OperationDetails({200: shapes.SchedulingStatsAnswer}),
}
