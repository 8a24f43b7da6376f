"""Pressure: announce that queues which were nearly full are not any more.

These queues are listed under the meta tag, so only its leader runs this loop.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.pressure.pressure import check_due
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store) -> Step:
    """Return the step that checks the queues which are due."""

    async def check(_: int) -> StepResult:
        return await check_due(store)

    return check
