"""The bodies of responses about tenants."""

from __future__ import annotations

from typing import TypedDict

from ojs_cluster.http.openapi.shapes.common import Count
from ojs_cluster.http.openapi.shapes.queues import StateCounts


class TenantTotals(TypedDict):
    """What has happened to the jobs of a tenant."""

    enqueued: Count
    completed: Count
    failed: Count
    retried: Count
    discarded: Count


class TenantStats(TypedDict):
    """The numbers of a tenant's jobs."""

    tenant_id: str
    total_jobs: Count
    jobs: StateCounts
    totals: TenantTotals
