"""Remove a malformed job that is cancelled or deleted by its id."""

from __future__ import annotations

from contextlib import suppress

from ojs_cluster.core.errors import BackendUnavailable, Conflict, MalformedJob, NotFound
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.engine.jobs.validate_job import readable_fields
from ojs_cluster.store.engine.outbox.outbox import deliver

_IN_FLIGHT_MS = 60_000
"""Age in milliseconds below which a claim is not removed, because its job may be stored soon.

The same value is in ``aliases.py``, which cannot be imported here: it depends on ``cancel.py``."""
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
"""The indexes of a shard that may contain the job, as attributes of ``keys.Shard``."""


async def remove_malformed(store: Store, malformed: MalformedJob) -> JobRecord:
    """Remove a malformed job, then its alias in another shard.

    The alias is removed last. Otherwise a crash between the two removals would leave a job that
    cannot be found by its id. The janitor removes a leftover alias (``references.py``).

    Args:
        store: the store.
        malformed: the error of an operation that found the job malformed.

    Returns:
        The readable fields of the job, as a cancelled job.

    Raises:
        NotFound: the job has been removed since.
        Conflict: the job is not malformed any more, or a transaction has prepared it.
        BackendUnavailable: Redis did not answer in time.
    """
    if malformed.shard is None:
        raise malformed
    job_id, shard = malformed.job_id, store.keys.shard(malformed.shard)
    owner = store.keys.shard_of_id(job_id)
    reply = await store.run(
        shard,
        "remove_malformed",
        [shard.job(job_id), *(getattr(shard, name) for name in _INDEXES), shard.references],
        ["1" if owner is not shard else ""],
        idempotent=True,
    )
    if reply[0] == b"missing":
        raise NotFound("job", job_id)
    if reply[0] != b"ok":
        raise Conflict(f"job '{job_id}' has changed: try again", job_id=job_id)
    await deliver(store, shard, reply[2])
    if owner is not shard:
        await _drop_alias(store, owner, job_id, shard)
    return JobRecord(job_id, readable_fields(job_id, record(job_id, reply[1]).fields))


async def _drop_alias(store: Store, owner: Shard, job_id: str, shard: Shard) -> None:
    """Remove the alias of a removed job. If Redis does not answer, the janitor does it later."""
    with suppress(BackendUnavailable):
        # A recent claim is kept; the janitor removes the claim when it finds no job.
        await store.run(
            owner,
            "settle_alias",
            [owner.alias_claims, owner.job(job_id)],
            [_IN_FLIGHT_MS, job_id, "drop", shard.index, ""],
            idempotent=True,
        )
