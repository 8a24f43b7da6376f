"""Statistics over time: record all queues once per minute, and sum job types once per hour."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.statistics.record_minutes import MinuteRecorder
from ojs_cluster.store.features.statistics.type_hours import HourRollUp
from ojs_cluster.store.ground.process_state.job_counts import WIDTH
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.pacing import Step

_RETRY_MS = 5_000
"""Pause after a record that could not be stored, in milliseconds."""


def step(store: Store) -> Step:
    """Return the step that stores the record of the present minute, unless there is one."""
    recorder = MinuteRecorder(store)
    hours = HourRollUp(store, WIDTH)

    async def record(_: int) -> SweepResult:
        minute, left_ms = await recorder.minute_to_record()
        if minute is None:
            return SweepResult.with_pause(0, left_ms)
        stored = await recorder.record(minute)
        await hours.run(minute)
        return SweepResult.with_pause(int(stored), left_ms if stored else min(left_ms, _RETRY_MS))

    return record
