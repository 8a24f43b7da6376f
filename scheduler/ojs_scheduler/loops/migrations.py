"""Migrations: change the data to the layout of this version, a small step at a time.

The record of the layout is under the meta tag, so only the leader of the meta tag runs this loop.
"""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.operators.migrations.execution import migrate
from ojs_scheduler.pacing import Step, StepResult


def step(store: Store, *, may_begin: bool) -> Step:
    """Return the step that begins or continues a migration."""

    async def migrate_once(_: int) -> StepResult:
        return await migrate(store, may_begin=may_begin)

    return migrate_once
