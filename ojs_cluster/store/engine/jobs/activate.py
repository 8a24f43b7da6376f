"""Activate a pending job (spec: ojs-http-binding, activate)."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.record import JobRecord


async def activate(store: Store, job_id: str) -> JobRecord:
    """Make a pending job available, or scheduled if its scheduled time is in the future.

    Raises:
        NotFound: no such job.
        Conflict: the job is not pending.
        BackendUnavailable: Redis did not answer in time.
    """
    return await run_on_job(
        store,
        "activate",
        job_id,
        ("due", "expiring", "pending", "events"),
        [store.events_arg],
    )
