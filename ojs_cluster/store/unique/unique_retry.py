"""A unique job that has ended is retried by hand: it must hold its lock again before it lives.

Lock and job lie in two shards, and between them somebody else may want the lock. So it is a
transaction:
claim the lock, decide, then let the job run and make the lock certain. Who wants the lock meanwhile
meets the transaction, and ends it one way or the other before looking at the job.
"""

from __future__ import annotations

import time
from contextlib import suppress

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, OJSError
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import read_jobs
from ojs_cluster.store.jobs.record import JobRecord
from ojs_cluster.store.transactions import transactions
from ojs_cluster.store.transactions.transactions import ManualRetry, Transaction
from ojs_cluster.store.unique import locks, unique
from ojs_cluster.store.unique.locks import Want

_TRIES = 3


async def revive(store: Store, job_id: str, must_be: str) -> JobRecord:
    """Run a unique job again that was discarded.

    Args:
        must_be: as ``retry_dead.lua`` has it.

    Raises:
        NotFound: no such job.
        Conflict: it is not what it must be.
        Duplicate: another job of its uniqueness has not ended.
        BackendUnavailable: Redis did not answer in time, or others kept the lock undecided.
    """
    for _ in range(_TRIES):
        found = await locks.look(store, store.keys.shard_of_id(job_id), job_id)
        if found is None or found.job.hidden:
            raise NotFound("job", job_id)
        job = found.job
        if not job.dead and (must_be == "dead" or job.state is not State.DISCARDED):
            raise Conflict(f"job '{job_id}' is {job.state}", job_id=job_id, state=job.state)
        fingerprint = job.fields[f.UNIQUE].decode().removesuffix("+")
        retries = int(job.fields.get(f.REPLAYS, 0))
        want = Want(fingerprint, job_id, found.shard, retries + 1)
        transaction = _deal(
            store, want, ManualRetry(job_id, found.shard, job.queue, retries, must_be)
        )
        now_ms = await _decide(store, want, transaction)
        if now_ms is None:
            continue
        try:
            records = await transactions.apply(store, transaction, now_ms)
        except OJSError as error:
            raise BackendUnavailable(
                f"the retry is accepted, but not carried out yet: {error.message}",
                outcome=transactions.outcome_of(error),
            ) from error
        # Who met the transaction may have carried it out before.
        retried = records.get(job_id) or await read_jobs.get(store, job_id)
        if int(retried.fields.get(f.REPLAYS, 0)) > retries:
            return retried
    raise BackendUnavailable("the job could not be retried in time", outcome="not_applied")


def _deal(store: Store, want: Want, revival: ManualRetry) -> Transaction:
    # Decided where the lock lies, so that one clock says how long its claim is good.
    home = store.keys.shard_of_fingerprint(want.fingerprint)
    transaction_id = new_job_id(home.index, len(store.keys), time.time_ns() // 1_000_000)
    return Transaction(
        transaction_id, {}, locks=[(want.fingerprint, want.job_id)], revivals=[revival]
    )


async def _decide(store: Store, want: Want, transaction: Transaction) -> int | None:
    """Claim the lock, then decide; None when others were faster, and it is worth another try."""
    try:
        lapses = await unique.claim_for_retry(store, want, transaction.id)
        now_ms = await transactions.commit(store, transaction, lapses)
    except BackendUnavailable as error:
        # What may have been decided is not touched: who meets it finds out.
        if error.outcome == "not_applied":
            await _give_back(store, want, transaction)
        raise
    if now_ms is None:
        await _give_back(store, want, transaction)
    return now_ms


async def _give_back(store: Store, want: Want, transaction: Transaction) -> None:
    with suppress(OJSError), cleaning_up():
        await locks.settle(store, "drop", [want], transaction.id)
