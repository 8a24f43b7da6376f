"""The routes of worker pools."""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers.admin import pools
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import pools as shapes

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/admin/pools", pools.list_pools, a.ADMIN_READ_BY_HANDLER, {200: shapes.PoolList}
    ),
    Route(
        "GET /ojs/v1/admin/pools/{name}",
        pools.get,
        a.ADMIN_READ_BY_HANDLER,
        {200: shapes.PoolAnswer},
    ),
    Route(
        "PUT /ojs/v1/admin/pools/{name}",
        pools.put,
        a.ADMIN_WRITE_BY_HANDLER,
        {200: shapes.PoolAnswer, 201: shapes.PoolAnswer},
        body=pools.PoolBody,
        errors=(409,),
        action="pool.set",
    ),
    Route(
        "DELETE /ojs/v1/admin/pools/{name}",
        pools.drop,
        a.ADMIN_WRITE_BY_HANDLER,
        {200: shapes.PoolDeleted},
        action="pool.delete",
    ),
    Route(
        "GET /ojs/v1/admin/scheduling/stats",
        pools.stats,
        a.ADMIN_READ_BY_HANDLER,
        {200: shapes.SchedulingStatsAnswer},
    ),
)
