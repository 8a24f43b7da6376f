"""Acknowledge a job (spec: ojs-worker-protocol, ACK)."""

from __future__ import annotations

from ojs_cluster.core.errors import PayloadTooLarge
from ojs_cluster.store.by_id import on_job
from ojs_cluster.store.context import Store
from ojs_cluster.store.record import JobRecord

_KEYS = ("active", "running", "finished", "events")


async def ack(
    store: Store,
    job_id: str,
    *,
    worker_id: str | None,
    lease_id: str | None,
    result: bytes | None,
) -> JobRecord:
    """Complete an active job.

    The holder that repeats the ack which completed the job (its reply was lost) gets the stored
    job; so a caller that names itself may be served again, one that does not may not.

    Parameters
    ----------
    worker_id, lease_id: who the caller says it is; None when it does not say.
    result: JSON, stored and returned as it is.

    Raises
    ------
    NotFound: no such job.
    Conflict: not active, or held by another lease.
    PayloadTooLarge: the result is over the limit; the job stays active.
    BackendUnavailable: Redis did not answer in time.
    """
    if result is not None and len(result) > store.settings.result_max_bytes:
        raise PayloadTooLarge(
            f"the result has {len(result)} bytes, at most "
            f"{store.settings.result_max_bytes} are kept",
            field="result",
        )
    return await on_job(
        store,
        "ack",
        job_id,
        _KEYS,
        [
            store.settings.events_per_shard,
            worker_id or "",
            lease_id or "",
            result or b"",
            store.settings.retention_completed_ms,
        ],
        idempotent=bool(worker_id or lease_id),
    )
