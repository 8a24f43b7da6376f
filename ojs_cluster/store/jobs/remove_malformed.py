"""The end of a malformed job: removed by whoever cancels or deletes it."""

from __future__ import annotations

from contextlib import suppress

from ojs_cluster.core.errors import BackendUnavailable, Conflict, MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.jobs.validate_job import remains
from ojs_cluster.store.outbox.outbox import deliver

_IN_FLIGHT_MS = 60_000
"""As in ``aliases``, which cannot be imported here: it depends on ``cancel``."""
_INDEXES = (
    "due",
    "active",
    "execution_deadlines",
    "expiring",
    "pending",
    "finished",
    "dead",
    "quarantine",
)
"""Of a shard's jobs, whatever their queues."""


async def remove_malformed(store: Store, malformed: MalformedJob) -> JobRecord:
    """Remove a malformed job, then its alias elsewhere; returns what is known of it, cancelled.

    The alias goes last: without it no id would lead to the job, and no removal is due that would be
    repeated. The janitor drops an alias that is left (``references``).

    Raises:
        NotFound: it is gone.
        Conflict: it has been repaired meanwhile, or a transaction has prepared it.
        BackendUnavailable: Redis did not answer in time.
    """
    if malformed.shard is None:
        raise malformed
    job_id, shard = malformed.job_id, store.keys.shard(malformed.shard)
    home = store.keys.shard_of_id(job_id)
    reply = await store.run(
        shard,
        "remove_malformed",
        [shard.job(job_id), *(getattr(shard, name) for name in _INDEXES), shard.references],
        ["1" if home is not shard else ""],
        idempotent=True,
    )
    if reply[0] == b"missing":
        raise NotFound("job", job_id)
    if reply[0] != b"ok":
        raise Conflict(f"job '{job_id}' has changed meanwhile: try again", job_id=job_id)
    await deliver(store, shard, reply[2])
    if home is not shard:
        await _drop_alias(store, home, job_id, shard)
    return JobRecord(job_id, remains(job_id, record(job_id, reply[1]).fields))


async def _drop_alias(store: Store, home: Shard, job_id: str, shard: Shard) -> None:
    """Drop the alias of a job that has gone, as far as Redis answers."""
    with suppress(BackendUnavailable):
        # One that was claimed lately stays: the janitor drops it when it finds no job.
        await store.run(
            home,
            "settle_alias",
            [home.alias_claims, home.job(job_id)],
            [_IN_FLIGHT_MS, job_id, "drop", shard.index],
            idempotent=True,
        )
