"""The bodies of responses about tenants."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from ojs_cluster.http.shapes.common import Count, Duration, Moment, Pagination
from ojs_cluster.http.shapes.queues import StateCounts


class TenantEnqueueRate(TypedDict):
    """At most ``limit`` new jobs in any period."""

    limit: Count
    period: Duration


class TenantLimits(TypedDict):
    """The limits of a tenant that are set, over all queues."""

    max_queue_depth: NotRequired[Count]
    max_scheduled: NotRequired[Count]
    max_enqueue_rate: NotRequired[TenantEnqueueRate]


class TenantNumbers(TypedDict):
    """The queues in which a tenant has jobs, its jobs, and the workers that may take them.

    No worker is bound to a tenant: ``workers`` is the number of all workers that are not stale.
    """

    queues: Count
    jobs: StateCounts
    workers: Count


class Tenant(TypedDict):
    """A tenant, with the numbers of its jobs. One with settings has the times of their changes.

    ``id`` and ``name`` are ``tenant_id`` too.
    """

    id: str
    name: str
    tenant_id: str
    total_jobs: Count
    jobs: StateCounts
    limits: TenantLimits
    fairness_weight: float
    reason: NotRequired[str]
    created_at: NotRequired[Moment]
    updated_at: NotRequired[Moment]
    last_seen_at: NotRequired[Moment]
    stats: NotRequired[TenantNumbers]


class TenantAnswer(Tenant):
    """A tenant, flat and as a member."""

    tenant: Tenant


class TenantList(TypedDict):
    """A page of the known tenants."""

    tenants: list[Tenant]
    items: list[Tenant]
    total: Count
    pagination: Pagination


class TenantDeleted(TypedDict):
    """A tenant whose settings are deleted."""

    deleted: bool
    tenant_id: str


class TenantTotals(TypedDict):
    """What has happened to the jobs of a tenant."""

    enqueued: Count
    completed: Count
    failed: Count
    retried: Count
    discarded: Count


class LimitUse(TypedDict):
    """A limit, and the jobs that count."""

    limit: Count
    current: Count


class LimitUses(TypedDict):
    """The limits on the number of jobs that are set."""

    max_queue_depth: NotRequired[LimitUse]
    max_scheduled: NotRequired[LimitUse]


class TenantFairness(TypedDict):
    """The weight of a tenant in queues with a fair share."""

    weight: float


class TenantStats(TypedDict):
    """The numbers of a tenant's jobs."""

    tenant_id: str
    total_jobs: Count
    jobs: StateCounts
    totals: TenantTotals
    limits: LimitUses
    fairness: TenantFairness
