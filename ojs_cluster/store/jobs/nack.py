"""Report a failure, or hand a job back (spec: ojs-worker-protocol, FAIL; ojs-retry)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from ojs_cluster.core.jobs.failure import Failure
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.by_id import on_job
from ojs_cluster.store.jobs.by_ids import Outcome, Part, on_jobs
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.runtime import Arg

_KEYS = ("due", "active", "execution_deadlines", "expiring", "finished", "dead", "events")

WALKED = 500
"""Active jobs that one call walks through in search of some: about one ms."""

_How = Literal["fail", "requeue", "release"]


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

    Args:
        worker_id, lease_id: who the caller says it is; None when it does not say.
        requeue: not a failure: the job is available again at once and keeps its attempt count.

    Raises:
        NotFound: no such job.
        Conflict: not active, or held by another lease.
        BackendUnavailable: Redis did not answer in time.
    """
    how: _How = "requeue" if requeue else "fail"
    return await on_job(
        *(store, "nack", job_id, _KEYS),
        [*_limits(store), _packed(how, worker_id, lease_id, failure)],
        idempotent=lease_id is not None,
        lease_id=lease_id,
    )


@dataclass(frozen=True, slots=True)
class Nack:
    """One of many: as the arguments of ``nack``."""

    job_id: str
    lease_id: str | None
    failure: Failure
    requeue: bool


async def nack_many(store: Store, nacks: Sequence[Nack], *, worker_id: str | None) -> list[Outcome]:
    """End the attempts of many active jobs, each by itself; the outcomes are in the order given."""
    parts = [
        Part(
            one.job_id,
            (_packed("requeue" if one.requeue else "fail", worker_id, one.lease_id, one.failure),),
            partial(
                nack,
                store,
                one.job_id,
                worker_id=worker_id,
                lease_id=one.lease_id,
                failure=one.failure,
                requeue=one.requeue,
            ),
            lease_id=one.lease_id,
        )
        for one in nacks
    ]
    return await on_jobs(
        *(store, "nack_many", _KEYS, _limits(store), parts),
        idempotent=all(one.lease_id for one in nacks),
    )


async def release(store: Store, job: JobRecord) -> None:
    """Undo a fetch whose client will never see the job: as if it had not been fetched.

    Raises:
        NotFound, Conflict: the lease is over, so there is nothing to undo.
        BackendUnavailable: Redis did not answer in time; the lease's deadline will do it.
    """
    await on_job(
        *(store, "nack", job.id, _KEYS),
        [*_limits(store), _packed("release", None, job.lease_id)],
        idempotent=True,
        lease_id=job.lease_id,
    )


async def release_unanswered(store: Store, shard: Shard, prefixes: Sequence[bytes]) -> list[bytes]:
    """Undo fetches of one shard that were never answered: as if they had not been made.

    Args:
        prefixes: what the lease ids of each fetch begin with, all of one length.

    Returns the prefix of each job that was released.

    Raises:
        BackendUnavailable: Redis did not answer in time; some jobs may have been released.
    """
    keys = [
        shard.active,
        shard.execution_deadlines,
        shard.expiring,
        shard.finished,
        shard.events,
        shard.due,
    ]
    released: list[bytes] = []
    cursor = b""
    while True:
        cursor, owed, *found = await store.run(
            shard,
            "release_unanswered",
            keys,
            [store.settings.events_per_shard, cursor, WALKED, *prefixes],
            idempotent=True,
        )
        await deliver(store, shard, owed)
        released += found
        if not cursor:
            return released


def _packed(
    how: _How, worker_id: str | None, lease_id: str | None, failure: Failure | None = None
) -> bytes:
    """A nack as the script reads it: see ``store/include/jobs/nack_job.lua``. Redis reads no binary
    there.
    """
    chance = random.random()  # noqa: S311 - jitter spreads retries, it guards nothing
    head = (worker_id or "", lease_id or "", how)
    if failure is None:
        return msgspec.msgpack.encode((*head, "", "0", chance, ""))
    verdict = failure.action or str(int(failure.retryable))
    hold = "" if failure.hold_until_ms is None else str(failure.hold_until_ms)
    error = failure.json.decode()
    return msgspec.msgpack.encode((*head, error, verdict, chance, hold, *failure.names))


def _limits(store: Store) -> list[Arg]:
    settings = store.settings
    return [
        settings.events_per_shard,
        settings.errors_kept,
        settings.retention_discarded_ms,
        settings.retention_dead_ms,
        settings.dead_letter_max,
    ]
