"""Delete a terminal job before the end of its retention (spec: ojs-bulk-operations 8)."""

from __future__ import annotations

from ojs_cluster.core.errors import Conflict, MalformedJob
from ojs_cluster.core.jobs.states import State
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import remove_expired_jobs
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.ground.partial_failures import after_first_write


async def delete_finished(
    store: Store,
    job_id: str,
    *,
    expected_state: State | None = None,
    expected_replays: int | None = None,
    created_ms: int | None = None,
) -> JobRecord:
    """Remove a terminal job permanently; return the job as it was.

    A job whose id was fixed in advance (by a workflow or a cron job) is only hidden at first: it
    reserves the id for two minutes after it finished. A malformed job is removed in any state.

    Args:
        store: the store.
        job_id: the job.
        expected_state: the terminal state that the job must have, None for any.
        expected_replays: how often an operator has retried the job before, None for any number.
        created_ms: when the job was created, in Unix milliseconds; None for any time. A client may
            reuse the id of a deleted job, and the new job is not deleted.

    Raises:
        NotFound: no such job, or it was deleted.
        Conflict: the job is not terminal, or not as expected; nothing changed.
        BackendUnavailable: Redis did not answer in time. The janitor removes the job.
    """
    try:
        job = await run_on_job(
            *(store, "delete_finished", job_id, ("finished", "dead")),
            [
                "" if expected_state is None else expected_state.value,
                "" if expected_replays is None else expected_replays,
                "" if created_ms is None else created_ms,
            ],
            idempotent=True,
        )
    except Conflict as conflict:
        if expected_state is not None and conflict.details.get("state") == expected_state:
            message = f"job '{job_id}' was retried since"
            raise Conflict(message, job_id=job_id, state=expected_state) from None
        raise
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
    await remove_deleted(store, job)
    return job


async def remove_deleted(store: Store, job: JobRecord) -> None:
    """Remove a job that a script has deleted, with its alias, unless it reserves its id.

    Raises:
        BackendUnavailable: Redis did not answer in time. The janitor removes the job.
    """
    if job.hidden:
        return
    with after_first_write():
        shard = await read_jobs.shard_of(store, job.queue, job.id)
        removal = await remove_expired_jobs(store, shard, [job.id])
        if removal.error is not None:
            raise removal.error
