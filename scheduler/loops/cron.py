"""Cron: ticks that are due become jobs.

One index under the meta tag lists all cron jobs, so this loop has one shard. Like other loops it
sleeps until the next deadline, so a tick fires within its second.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.cron.cron_store import RedisCronStore
from ojs_cluster.store.cron.firing import fire_due
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop, which checks at most ``batch`` cron jobs."""
    cron_store = RedisCronStore(store)

    async def fire(_: int) -> StepResult:
        return await fire_due(cron_store, batch)

    return fire
