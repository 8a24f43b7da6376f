"""Statistics over time: record the numbers of all queues once per minute."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.history.samples import Sampler
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from scheduler.pacing import Step, StepResult

_RETRY_MS = 5_000
"""Pause after a record that could not be stored, in milliseconds."""


def step(store: Store) -> Step:
    """Return the step that stores the record of the present minute, unless there is one.

    The step knows no Redis time: ``next_ms`` is the pause until the next minute.
    """
    sampler = Sampler(store)

    async def record(_: int) -> StepResult:
        minute, left_ms = await sampler.minute_to_record()
        if minute is None:
            return SweepResult(0, next_ms=left_ms, now_ms=0, more=False)
        stored = await sampler.record(minute)
        pause_ms = left_ms if stored else min(left_ms, _RETRY_MS)
        return SweepResult(int(stored), next_ms=pause_ms, now_ms=0, more=False)

    return record
