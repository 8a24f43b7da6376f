"""Bulk: carry out bulk operations, a slice of each in turn.

All operations are under the meta tag, so only the leader of the meta tag runs this loop. The
position of an operation is stored after each slice, so the next leader continues where this one
has stopped.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk.execution import run_due
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store) -> Step:
    """Return the step that continues the bulk operations that are due."""

    async def carry_out(_: int) -> StepResult:
        return await run_due(store)

    return carry_out
