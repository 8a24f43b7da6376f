"""Unique jobs that are steps of workflows, whose ids were fixed when the workflow was created.

The policy applies when the step is enqueued. Any number of processes may do that, at any time and
again, and must agree on what came of it. Either the job is there; or it was refused, and then it
never will be: who finds it refused fences its id for good before anybody is told, so that a process
that tries later, when nothing is in the way any more, stores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ojs_cluster.core.errors import Duplicate
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue.enqueue import enqueue
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.unique.locks import fence


@dataclass(frozen=True, slots=True)
class Refused:
    """A step's job is not stored.

    Args:
        ignored: whether its policy says to go on without it; else the step has failed.
        existing: id of the job in its way, '' when another process knows that.
    """

    ignored: bool
    existing: str


async def enqueue_step(
    store: Store, job_id: str, job: NewJob, fields: Sequence[bytes], *, lapses: int
) -> Refused | None:
    """Store a unique job under its fixed id, unless it is there; None when it is.

    Args:
        fields: names and values of more fields of the job's hash.
        lapses: ms after which it must not be stored any more.

    Raises:
        Conflict, TooManyQueues, BackendUnavailable: as ``enqueue``.
        NotFound: others are about to store it; worth another try.
    """
    try:
        found = await enqueue(
            store, replace(job, id=job_id), fields=fields, lapses=lapses, accepted=True
        )
    except Duplicate as error:
        existing = str(error.details.get("existing_job_id", ""))
    else:
        existing = found.id
        if existing == job_id:
            return None
    # Whatever is in the way: the job may be there by now, stored by another process.
    assert job.unique is not None  # noqa: S101 - by contract
    if job.unique.on_conflict not in ("reject", "ignore"):
        await read_jobs.get(store, job_id)  # it replaces what is in its way, so it must be there
        return None
    if not await fence(store, store.keys.shard_of_id(job_id), job_id, for_good=True):
        return None
    return Refused(job.unique.on_conflict == "ignore", existing if existing != job_id else "")
