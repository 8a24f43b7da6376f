"""What operators use about tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ojs_cluster.http.handlers.admin import tenants
from ojs_cluster.http.openapi import parameters as p
from ojs_cluster.http.openapi.described import OperationDetails
from ojs_cluster.http.routing.router import Handler
from ojs_cluster.http.shapes import jobs as job_shapes
from ojs_cluster.http.shapes import tenants as shapes

OPERATIONS: Final[Mapping[Handler, OperationDetails]] = {
    tenants.list_tenants: OperationDetails(
        {200: shapes.TenantList}, parameters=p.numbered_page(20, 100)
    ),
    tenants.get: OperationDetails({200: shapes.TenantAnswer}),
    tenants.put: OperationDetails(
        {200: shapes.TenantAnswer, 201: shapes.TenantAnswer}, body=tenants.TenantBody
    ),
    tenants.put_limits: OperationDetails(
        {200: shapes.TenantAnswer}, body=tenants.TenantChangesBody
    ),
    tenants.drop: OperationDetails({200: shapes.TenantDeleted}, errors=(409,)),
    tenants.stats: OperationDetails({200: shapes.TenantStats}),
    tenants.list_jobs: OperationDetails(
        {200: job_shapes.JobItems},
        parameters=(
            *(p.QUEUE, p.STATE, p.TYPE),
            *(p.SEARCH, p.INDEX, p.SORT, p.ORDER),
            *p.numbered_page(20, 100),
        ),
    ),
}
