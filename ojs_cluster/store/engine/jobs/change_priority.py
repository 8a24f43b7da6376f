"""Change the priority of a waiting job (spec: ojs-priority)."""

from __future__ import annotations

from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause, history_arg
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.ground.runtime import Arg


async def change_priority(
    store: Store, job_id: str, priority: int, cause: Cause = UNKNOWN
) -> JobRecord:
    """Change the priority of a waiting job; return the job. Repeating it changes nothing.

    Args:
        store: the store.
        job_id: the job.
        priority: from -100 to 100; higher runs first.
        cause: who changes the priority, for the history of the job.

    Raises:
        NotFound: no such job.
        Conflict: the job is active or terminal; nothing changed.
        BackendUnavailable: Redis did not answer in time.
    """
    args: list[Arg] = [priority, history_arg(store, cause)]
    return await run_on_job(store, "change_priority", job_id, (), args, idempotent=True)
