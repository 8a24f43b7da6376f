"""Cancel a job (spec: ojs-core, CANCEL)."""

from __future__ import annotations

from typing import Literal

from ojs_cluster.core.errors import MalformedJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.by_id import run_on_job
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.jobs.remove_malformed import remove_malformed
from ojs_cluster.store.runtime import Arg

_KEYS = ("due", "active", "execution_deadlines", "expiring", "pending", "finished", "events")


async def cancel(
    store: Store,
    job_id: str,
    *,
    keep_ms: int | None = None,
    only: Literal["", "inactive", "waiting", "available"] = "",
    repeatable: bool = False,
) -> JobRecord:
    """Cancel a job that is not terminal. The ack of a worker that still runs it gets a conflict.

    A malformed job is removed whatever its state is; its readable fields are returned.

    Args:
        job_id: the job.
        keep_ms: how long the cancelled job is kept in milliseconds; None for the configured
            retention.
        only: with ``available`` a job in any other state is a conflict, with ``waiting`` an active
            job. With ``inactive`` an active job is a conflict too, but gets a cancel request: it
            finishes its attempt and has no other.
        repeatable: repeat the call after a lost reply; a job that the first call has cancelled is
            then a conflict.

    Returns:
        The cancelled job.

    Raises:
        NotFound: no such job.
        Conflict: already terminal; the record is unchanged.
        BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    keep = settings.retention_cancelled_ms if keep_ms is None else keep_ms
    args: list[Arg] = [settings.events_per_shard, keep, only]
    idempotent = repeatable or only == "inactive"
    try:
        return await run_on_job(store, "cancel", job_id, _KEYS, args, idempotent=idempotent)
    except MalformedJob as malformed:
        return await remove_malformed(store, malformed)
