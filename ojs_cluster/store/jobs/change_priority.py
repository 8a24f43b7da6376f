"""Change the priority of a waiting job (spec: ojs-priority)."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.by_id import run_on_job
from ojs_cluster.store.jobs.record import JobRecord


async def change_priority(store: Store, job_id: str, priority: int) -> JobRecord:
    """Change the priority of a waiting job; return the job. Repeating it changes nothing.

    Args:
        store: the store.
        job_id: the job.
        priority: from -100 to 100; higher runs first.

    Raises:
        NotFound: no such job.
        Conflict: the job is active or terminal; nothing changed.
        BackendUnavailable: Redis did not answer in time.
    """
    return await run_on_job(store, "change_priority", job_id, (), [priority], idempotent=True)
