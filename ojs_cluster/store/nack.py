"""Report a failure, or hand a job back (spec: ojs-worker-protocol, FAIL; ojs-retry)."""

from __future__ import annotations

import random

from ojs_cluster.core.failure import Failure
from ojs_cluster.store.by_id import on_job
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.record import JobRecord

_KEYS = ("due", "active", "running", "expiring", "finished", "dead", "events")


async def nack(
    store: Store,
    job_id: str,
    *,
    worker_id: str | None,
    lease_id: str | None,
    failure: Failure,
    requeue: bool = False,
) -> JobRecord:
    """Fail the current attempt: retryable with backoff, discarded, or dead-lettered.

    A lease id that repeats the nack it already made gets the stored job.

    Parameters
    ----------
    worker_id, lease_id: who the caller says it is; None when it does not say.
    requeue: not a failure: the job is available again at once and keeps its attempt count.

    Raises
    ------
    NotFound: no such job.
    Conflict: not active, or held by another lease.
    BackendUnavailable: Redis did not answer in time.
    """
    return await on_job(
        store,
        "nack",
        job_id,
        _KEYS,
        [
            *_head(store, worker_id, lease_id, "requeue" if requeue else "fail"),
            failure.json,
            failure.action or int(failure.retryable),
            *_limits(store),
            failure.hold_until_ms or "",
            *failure.names,
        ],
        idempotent=lease_id is not None,
    )


async def release(store: Store, job: JobRecord) -> None:
    """Undo a fetch whose client will never see the job: as if it had not been fetched.

    Raises
    ------
    NotFound, Conflict: the lease is over, so there is nothing to undo.
    BackendUnavailable: Redis did not answer in time; the lease's deadline will do it.
    """
    await on_job(
        store,
        "nack",
        job.id,
        _KEYS,
        [*_head(store, None, job.lease_id, "release"), b"", 0, *_limits(store)],
        idempotent=True,
    )


def _head(store: Store, worker_id: str | None, lease_id: str | None, how: str) -> list[Arg]:
    return [store.settings.events_per_shard, worker_id or "", lease_id or "", how]


def _limits(store: Store) -> list[Arg]:
    settings = store.settings
    return [
        random.random(),  # noqa: S311 - jitter spreads retries, it guards nothing
        settings.errors_kept,
        settings.retention_discarded_ms,
        settings.retention_dead_ms,
        settings.dead_letter_max,
    ]
