"""Delete the history that a job has recorded (spec: ojs-execution-history 7.3)."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.history_entries import recorded


async def clear_history(store: Store, job_id: str) -> int:
    """Delete the history that a job has recorded; return the number of deleted entries.

    Args:
        store: the store.
        job_id: the job.

    Raises:
        NotFound: no such job.
        MalformedJob: the job's stored fields are malformed; nothing changed.
        BackendUnavailable: Redis did not answer in time.
    """
    job = await run_on_job(store, "clear_history", job_id, (), [], idempotent=True)
    return len(recorded(job.fields).entries)
