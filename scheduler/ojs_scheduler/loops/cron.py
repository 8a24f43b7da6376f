"""Cron: enqueue the job of each cron occurrence that is due.

One index under the meta tag lists all cron jobs, so only the leader of the meta tag runs this loop.
The loop sleeps until the next occurrence is due, so a job is enqueued within a second.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.maintenance.maintenance import read_maintenance
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Step

# Time in ms after which the loop reads again whether maintenance mode is on. Occurrences that are
# missed in between result in one late run.
_MAINTENANCE_PAUSE_MS = 2000


def step(store: Store, batch: int) -> Step:
    """Return the step that fires due cron jobs.

    Args:
        store: an open store.
        batch: maximum number of cron jobs that one step checks.
    """
    cron_store = RedisCronStore(store)

    async def fire(_: int) -> SweepResult:
        if await read_maintenance(store) is not None:
            return SweepResult(0, next_ms=_MAINTENANCE_PAUSE_MS, now_ms=0, more=False)
        return await fire_due(cron_store, batch)

    return fire
