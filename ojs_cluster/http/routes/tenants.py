"""The routes about tenants.

Those about one tenant also serve requests for this tenant. The others are about all tenants, so a
request for one tenant gets 403.
"""

from __future__ import annotations

from typing import Final

from ojs_cluster.http.handlers.admin import tenants
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.routing import access as a
from ojs_cluster.http.routing.router import Route, table
from ojs_cluster.http.shapes import jobs as job_shapes
from ojs_cluster.http.shapes import tenants as shapes

ROUTES: Final = table(
    Route(
        "GET /ojs/v1/admin/tenants",
        tenants.list_tenants,
        a.ADMIN_READ,
        {200: shapes.TenantList},
        parameters=p.numbered_page(20, 100),
    ),
    Route(
        "GET /ojs/v1/admin/tenants/{id}",
        tenants.get,
        a.ADMIN_READ_OF_TENANT,
        {200: shapes.TenantAnswer},
    ),
    Route(
        "PUT /ojs/v1/admin/tenants/{id}",
        tenants.put,
        a.ADMIN_WRITE,
        {200: shapes.TenantAnswer, 201: shapes.TenantAnswer},
        body=tenants.TenantBody,
        action="tenant.set",
    ),
    Route(
        "DELETE /ojs/v1/admin/tenants/{id}",
        tenants.drop,
        a.ADMIN_WRITE,
        {200: shapes.TenantDeleted},
        errors=(409,),
        action="tenant.delete",
    ),
    Route(
        "PUT /ojs/v1/admin/tenants/{id}/limits",
        tenants.put_limits,
        a.ADMIN_WRITE,
        {200: shapes.TenantAnswer},
        body=tenants.TenantChangesBody,
        action="tenant.set_limits",
    ),
    Route(
        "GET /ojs/v1/admin/tenants/{id}/stats",
        tenants.stats,
        a.ADMIN_READ_OF_TENANT,
        {200: shapes.TenantStats},
    ),
    Route(
        "GET /ojs/v1/admin/tenants/{id}/jobs",
        tenants.list_jobs,
        a.ADMIN_READ_OF_TENANT,
        {200: job_shapes.JobItems},
        parameters=(
            *(p.QUEUE, p.STATE, p.TYPE),
            *(p.SEARCH, p.INDEX, p.SORT, p.ORDER),
            *p.numbered_page(20, 100),
        ),
    ),
)
