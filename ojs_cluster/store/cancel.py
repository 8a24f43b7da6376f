"""Cancel a job (spec: ojs-core, CANCEL)."""

from __future__ import annotations

from ojs_cluster.store.by_id import on_job
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.record import JobRecord

_KEYS = ("due", "active", "running", "expiring", "pending", "finished", "events")


async def cancel(
    store: Store,
    job_id: str,
    *,
    keep_ms: int | None = None,
    spare_active: bool = False,
    repeatable: bool = False,
) -> JobRecord:
    """Cancel a job that is not terminal. The ack of a worker that still runs it gets a conflict.

    Parameters
    ----------
    keep_ms: how long the cancelled job is kept; None for the configured retention.
    spare_active: let an active job finish the attempt it is in, and have no other; that is then a
        Conflict, too.
    repeatable: after a lost reply do it again; a job that it has cancelled is then a Conflict.

    Raises
    ------
    NotFound: no such job.
    Conflict: already terminal; the record is unchanged.
    BackendUnavailable: Redis did not answer in time.
    """
    settings = store.settings
    keep = settings.retention_cancelled_ms if keep_ms is None else keep_ms
    args: list[Arg] = [settings.events_per_shard, keep, "spare" if spare_active else ""]
    return await on_job(store, "cancel", job_id, _KEYS, args, idempotent=spare_active or repeatable)
