"""Show operators the jobs of a tenant, and their numbers (spec: ojs-multi-tenancy 10)."""

from __future__ import annotations

from dataclasses import replace

from ojs_cluster.core.jobs.states import State
from ojs_cluster.core.jobs.tenant import check_tenant
from ojs_cluster.http import query, replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.admin.jobs import listed
from ojs_cluster.http.handlers.job_order import with_order
from ojs_cluster.http.handlers.jobs import filter_of
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.store.tenants.tenant_counts import TOTALS, read_counts


async def stats(app: App, _request: Request, tenant: str) -> Response:
    """Return how many jobs a tenant has. For an unknown tenant all numbers are 0.

    ``total_jobs`` is the number of jobs that are stored now. ``totals`` counts what has happened,
    and begins again after the tenant has had no jobs for a week.

    ``GET /ojs/v1/admin/tenants/{id}/stats`` (spec: ojs-multi-tenancy 10.2)
    """
    numbers = await read_counts(app.store, check_tenant(tenant, field="id"))
    by_state = {state.value: numbers[state.value] for state in State}
    return replies.json_response(
        200,
        {
            "tenant_id": tenant,
            "total_jobs": sum(by_state.values()),
            "jobs": by_state,
            "totals": {_NAMES.get(name, name): numbers[name] for name in TOTALS},
        },
    )


_NAMES = {"acked": "completed", "retried_total": "retried", "discarded_total": "discarded"}


async def list_jobs(app: App, request: Request, tenant: str) -> Response:
    """List the jobs of a tenant, as ``GET /ojs/v1/admin/jobs`` lists those of all tenants.

    ``GET /ojs/v1/admin/tenants/{id}/jobs?queue&state&type&query&sort&order&page&per_page&cursor``
    (spec: ojs-multi-tenancy 10.3)
    """
    given = query.parameters(request.query)
    wanted = replace(filter_of(given, request), tenant=check_tenant(tenant, field="id"))
    return await listed(app, with_order(wanted, given), given)
