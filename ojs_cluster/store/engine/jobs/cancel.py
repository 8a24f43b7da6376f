"""Cancel a job (spec: ojs-core, CANCEL)."""

from __future__ import annotations

from typing import Literal

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.by_id import run_on_job
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause, history_arg
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.ground.runtime import Arg

_KEYS = ("due", "active", "execution_deadlines", "expiring", "pending", "finished", "events")


async def cancel(
    store: Store,
    job_id: str,
    *,
    keep_ms: int | None = None,
    only: Literal["", "inactive", "waiting", "available"] = "",
    repeatable: bool = False,
    created_ms: int | None = None,
    cause: Cause = UNKNOWN,
) -> JobRecord:
    """Cancel a job that is not terminal.

    If a worker still runs the job, its ack gets a conflict later. A malformed job in any state is
    removed, and its readable fields are returned.

    Args:
        store: the store.
        job_id: the job.
        keep_ms: time in milliseconds for which the cancelled job is kept; None for the configured
            retention.
        only: which jobs may be cancelled. ``available``: a job in any other state is a conflict.
            ``waiting``: an active job is a conflict. ``inactive``: an active job is a conflict, but
            it is cancelled instead of running again after this attempt. Empty: any job that is not
            terminal.
        repeatable: whether to repeat the call after a lost reply. If the first call has cancelled
            the job, the second raises ``Conflict``.
        created_ms: when the job was created, in Unix milliseconds; None for any time. A client may
            reuse the id of a deleted job, and the new job is not cancelled.
        cause: who cancels the job, for its history.

    Returns:
        The cancelled job.

    Raises:
        NotFound: no such job.
        Conflict: the job's state does not allow it, for instance because the job is terminal.
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    keep = settings.retention_cancelled_ms if keep_ms is None else keep_ms
    args: list[Arg] = [store.events_arg, keep, only, "" if created_ms is None else created_ms]
    args.append(history_arg(store, cause))
    idempotent = repeatable or only == "inactive"
    try:
        return await run_on_job(store, "cancel", job_id, _KEYS, args, idempotent=idempotent)
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
