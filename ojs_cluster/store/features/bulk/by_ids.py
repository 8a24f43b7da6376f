"""Change a bounded list of jobs within one request. No operation is stored for it."""

from __future__ import annotations

from collections.abc import Sequence

from ojs_cluster.core.bulk.selection import BulkAction
from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.history_entries import Cause
from ojs_cluster.store.features.bulk.apply import apply
from ojs_cluster.store.features.bulk_records.operation import Target
from ojs_cluster.store.ground.fanout import run_concurrently


async def change_jobs(
    store: Store, action: BulkAction, job_ids: Sequence[str], cause: Cause
) -> dict[str, OJSError | None]:
    """Change each job by the same transition as a request for that single job.

    A shard that does not answer affects only its own jobs. ``cause`` tells the histories of the
    jobs who changes them.

    Returns:
        For each id the error, None for a job that has the wanted state.

    Raises:
        BackendUnavailable: Redis did not answer for any of the jobs.
    """
    outcomes: dict[str, OJSError | None] = {}

    async def change_one(job_id: str) -> None:
        try:
            outcomes[job_id] = await apply(store, action, Target(job_id), active=True, cause=cause)
        except BackendUnavailable as error:
            outcomes[job_id] = error

    await run_concurrently(job_ids, change_one)
    errors = [error for error in outcomes.values() if isinstance(error, BackendUnavailable)]
    if errors and len(errors) == len(outcomes):
        raise errors[0]
    return outcomes
