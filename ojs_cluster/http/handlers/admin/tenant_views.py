"""Tenants and their numbers, as responses show them."""

from __future__ import annotations

from collections.abc import Mapping

from ojs_cluster.core.durations import format_duration
from ojs_cluster.core.tenants.settings import NO_LIMITS, NO_WEIGHT, TenantSettings
from ojs_cluster.http import replies
from ojs_cluster.http.app import App
from ojs_cluster.http.handlers.queues import state_counts
from ojs_cluster.http.shapes import tenants as shapes
from ojs_cluster.store.engine.tenants.tenant_counts import count_queues
from ojs_cluster.store.features.workers.workers import count_by_status


async def stats_of(
    app: App, counts: Mapping[str, Mapping[str, int]]
) -> dict[str, shapes.TenantNumbers]:
    """Return the numbers that the admin UI shows of tenants, by tenant."""
    queues = await count_queues(app.store, list(counts))
    states, known = await count_by_status(app.store)
    workers = known - states["stale"]
    return {
        tenant: {"queues": queues[tenant], "jobs": state_counts(jobs), "workers": workers}
        for tenant, jobs in counts.items()
    }


def limits_of(settings: TenantSettings | None) -> shapes.TenantLimits:
    """Return the limits of a tenant that are set."""
    limits = NO_LIMITS if settings is None else settings.limits
    shown: shapes.TenantLimits = {}
    if limits.max_queue_depth is not None:
        shown["max_queue_depth"] = limits.max_queue_depth
    if limits.max_scheduled is not None:
        shown["max_scheduled"] = limits.max_scheduled
    if (rate := limits.max_enqueue_rate) is not None:
        period = format_duration(rate.period_ms)
        shown["max_enqueue_rate"] = {"limit": rate.limit, "period": period}
    return shown


def members_of(
    tenant: str,
    settings: TenantSettings | None,
    counts: Mapping[str, int],
    seen_ms: int | None,
) -> shapes.Tenant:
    """Return a tenant.

    Args:
        tenant: its id.
        settings: its settings; None if it has none.
        counts: the numbers of its jobs by state.
        seen_ms: when it was seen last; None to leave that out.
    """
    members: shapes.Tenant = {
        "id": tenant,
        "name": tenant,
        "tenant_id": tenant,
        "total_jobs": sum(counts.values()),
        "jobs": state_counts(counts),
        "limits": limits_of(settings),
        "fairness_weight": NO_WEIGHT if settings is None else settings.fairness_weight,
    }
    if settings is not None:
        members["created_at"] = replies.iso(settings.created_ms)
        members["updated_at"] = replies.iso(settings.updated_ms)
        if settings.reason:
            members["reason"] = settings.reason
    if seen_ms is not None:
        members["last_seen_at"] = replies.iso(seen_ms)
    return members
