"""Admit new jobs of tenants that have limits (spec: ojs-multi-tenancy 8).

The jobs of a tenant lie in many shards, and a limit counts them all. So before the enqueue, one
script in the shard of the tenant compares the limits with an estimate (``tenant_admit.lua``): the
sum of the counters of all shards, and the jobs that were admitted since that sum. The sum is read
when it is five seconds old, and at most five times per second when the estimate reaches a limit.
One request reads it. Meanwhile the script decides about others by the present sum, or, if there is
none, they wait for that request.

A request whose jobs are admitted, but not stored yet when a sum is read, is missing in it. So the
jobs of such requests may exceed a limit. One that waits for room in a full queue is checked again
every five seconds. Jobs that a tenant has already, and that wait again after
a failed attempt, are never refused, and count from the next sum on. If an admitted request stores
fewer jobs, because it fails or has duplicates, the others count until the next sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from ojs_cluster.core.errors import BackendUnavailable, TenantLimitExceeded
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.tenants.settings import ENQUEUE_RATE, SCHEDULED, TenantLimits
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.engine.tenants.tenant_counts import read_counts
from ojs_cluster.store.ground.partial_failures import before_first_write

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store
    from ojs_cluster.store.ground.runtime import Arg

_TRIES: Final = 5
"""How often one request may be asked for the sum. More than once is needed only if Redis has lost
writes, or if another request that read the sum has failed."""
_MAX_WAIT_S: Final = 2.0
"""Longest time in seconds that a request waits for the sum that another request reads."""
WAITING: Final = ("available", "scheduled", "retryable", "pending")
"""The states of waiting jobs, as for the depth of a queue."""


_ADMITTED_S: Final = 5.0
"""For so long a request whose jobs are admitted, but not stored, is not checked again, in seconds.
Later sums do not have its jobs, so without a new check many waiting requests could fill a queue
with more jobs than the tenant may have. It is no shorter than a sum is used."""
Admitted = dict[str, float]
"""The tenants whose jobs of a request are admitted, with the time of trio's clock."""


async def admit_jobs(store: Store, jobs: Iterable[NewJob], admitted: Admitted) -> None:
    """Check the limits of the tenants of new jobs, and count the jobs.

    Args:
        store: the store.
        jobs: the new jobs of a request.
        admitted: the tenants whose jobs an earlier try of this request has admitted. They are not
            counted again in the rate. The function adds others.

    Raises:
        TenantLimitExceeded: a tenant would exceed a limit.
        BackendUnavailable: Redis did not answer in time.
    """
    waiting: Counter[str] = Counter()
    scheduled: Counter[str] = Counter()
    for job in jobs:
        if job.tenant:
            waiting[job.tenant] += 1
            scheduled[job.tenant] += job.scheduled is not None
    for tenant, number in waiting.items():
        is_repeated = tenant in admitted
        if not is_repeated or trio.current_time() - admitted[tenant] >= _ADMITTED_S:
            await admit(store, tenant, number, scheduled[tenant], is_repeated=is_repeated)
            admitted[tenant] = trio.current_time()


async def admit(
    store: Store, tenant: str, waiting: int, scheduled: int = 0, *, is_repeated: bool = False
) -> None:
    """Check the limits of one tenant, and count its new jobs.

    Args:
        store: the store.
        tenant: the tenant.
        waiting: the number of new jobs.
        scheduled: the number of scheduled jobs among them.
        is_repeated: whether the rate has counted these jobs already.

    Raises:
        TenantLimitExceeded: the tenant would exceed a limit.
        BackendUnavailable: Redis did not answer in time.
    """
    with before_first_write():
        settings = await store.tenants.get(store, tenant)
        await store.tenants.register(store, tenant)
        if settings is not None and settings.limits:
            limits = settings.limits
            if is_repeated:
                limits = replace(limits, max_enqueue_rate=None)
            if limits:
                await _admit(store, tenant, limits, waiting, scheduled)


async def _admit(
    store: Store, tenant: str, limits: TenantLimits, waiting: int, scheduled: int
) -> None:
    shard = store.keys.shard_of_tenant(tenant)
    rate = limits.max_enqueue_rate
    bounds = (limits.max_queue_depth, limits.max_scheduled)
    fixed: list[Arg] = [store.events_arg, waiting, scheduled]
    fixed += ("" if bound is None else bound for bound in bounds)
    fixed += ("", "") if rate is None else (rate.limit, rate.period_ms)
    keys = [shard.tenant_admission(tenant), shard.events]
    being_read = store.tenants.sums_being_read
    for _ in range(_TRIES):
        reply = await store.run(shard, "tenant_admit", keys, [*fixed, "", "", "", "", tenant])
        if reply[0] == b"sum":
            await ensure_task()
            if tenant in being_read:
                with trio.move_on_after(_MAX_WAIT_S):
                    await being_read[tenant].wait()
                continue
            ended = being_read[tenant] = trio.Event()
            try:
                counts = await read_counts(store, tenant)
                total = [sum(counts[state] for state in WAITING), counts["scheduled"], *reply[1:]]
                reply = await store.run(shard, "tenant_admit", keys, [*fixed, *total, tenant])
            finally:
                del being_read[tenant]
                ended.set()
        if reply[0] == b"ok":
            return
        if reply[0] == b"full":
            new = scheduled if reply[1].decode() == SCHEDULED else waiting
            raise _refusal(tenant, new, *reply[1:])
    raise BackendUnavailable(
        f"the jobs of tenant '{tenant}' cannot be counted at present", outcome="not_applied"
    )


def _refusal(
    tenant: str, new: int, name: bytes, current: int, maximum: int, retry_ms: int
) -> TenantLimitExceeded:
    limit = name.decode()
    counted = "new jobs in the period" if limit == ENQUEUE_RATE else "jobs"
    can_never_fit = f"; {new} jobs at once can never fit" if new > max(1, maximum) else ""
    return TenantLimitExceeded(
        f"tenant '{tenant}' would exceed its {limit}: it has {current} of {maximum} {counted}"
        f"{can_never_fit}",
        retry_after_s=retry_ms / 1000,
        tenant_id=tenant,
        limit=limit,
        current=current,
        maximum=maximum,
    )
