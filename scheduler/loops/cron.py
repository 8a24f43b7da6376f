"""Cron: ticks that are due become jobs.

All cron jobs are one index under the meta tag, so this loop has one shard where others have many.
It sleeps until the next tick like they do: a tick is met at its second.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.cron.cron_store import RedisCronStore
from ojs_cluster.store.cron.firing import fire_due
from scheduler.pacing import Step, StepResult


def step(store: Store, batch: int) -> Step:
    """Return the step of the loop: at most `batch` cron jobs."""
    book = RedisCronStore(store)

    async def fire(_: int) -> StepResult:
        return await fire_due(book, batch)

    return fire
