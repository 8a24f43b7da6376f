"""Acknowledge a job (spec: ojs-worker-protocol, ACK)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ojs_cluster.core.errors import PayloadTooLarge
from ojs_cluster.redis.durability import required_durability
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.by_id import on_job
from ojs_cluster.store.jobs.by_ids import Outcome, Part, on_jobs
from ojs_cluster.store.jobs.record import JobRecord

_KEYS = ("active", "execution_deadlines", "finished", "events")


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

    Args:
        worker_id, lease_id: who the caller says it is; None when it does not say.
        result: JSON, stored and returned as it is.

    Raises:
        NotFound: no such job.
        Conflict: not active, or held by another lease.
        PayloadTooLarge: the result is over the limit; the job stays active.
        BackendUnavailable: Redis did not answer in time.
    """
    refusal = _too_large(store, result)
    if refusal is not None:
        raise refusal
    # What answers that it did nothing would be confirmed all the same, before the other is asked.
    name = "ack_full" if required_durability(store.redis.durability) else "ack"
    return await on_job(
        store,
        name,
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
        lease_id=lease_id,
    )


@dataclass(frozen=True, slots=True)
class Ack:
    """One of many: as the arguments of ``ack``."""

    job_id: str
    lease_id: str | None
    result: bytes | None


async def ack_many(store: Store, acks: Sequence[Ack], *, worker_id: str | None) -> list[Outcome]:
    """Complete many active jobs, each by itself; the outcomes are in the order given."""
    parts = [
        Part(
            one.job_id,
            (worker_id or "", one.lease_id or "", one.result or b""),
            partial(
                ack,
                store,
                one.job_id,
                worker_id=worker_id,
                lease_id=one.lease_id,
                result=one.result,
            ),
            _too_large(store, one.result),
            one.lease_id,
        )
        for one in acks
    ]
    settings = store.settings
    return await on_jobs(
        *(store, "ack_many", _KEYS),
        [settings.events_per_shard, settings.retention_completed_ms],
        parts,
        idempotent=bool(worker_id) or all(one.lease_id for one in acks),
    )


def _too_large(store: Store, result: bytes | None) -> PayloadTooLarge | None:
    most = store.settings.result_max_bytes
    if result is None or len(result) <= most:
        return None
    return PayloadTooLarge(
        f"the result has {len(result)} bytes, at most {most} are kept", field="result"
    )
