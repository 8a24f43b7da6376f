"""Retry a discarded unique job by hand: the job claims its lock again before it becomes available.

Lock and job live in two shards, and another job could claim the lock between two writes. So the
retry is a cross-shard transaction: claim the lock, commit, then make the job available and settle
the lock. Another producer that needs the lock first applies or aborts the transaction.
"""

from __future__ import annotations

from contextlib import suppress

from ojs_cluster.core.errors import BackendUnavailable, Conflict, NotFound, OJSError
from ojs_cluster.core.jobs.ids import new_job_id
from ojs_cluster.core.jobs.states import State
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.jobs import read_jobs
from ojs_cluster.store.engine.jobs.history_entries import UNKNOWN, Cause
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.transactions.contents import ManualRetry, Transaction
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.ground import job_fields as f

_TRIES = 3
"""Attempts to commit before the request is answered 503."""


async def retry_unique_job(
    store: Store,
    job_id: str,
    required_kind: str,
    expected_replays: int | None = None,
    cause: Cause = UNKNOWN,
) -> JobRecord:
    """Run a discarded unique job again.

    Args:
        store: the store.
        job_id: id of the job.
        required_kind: which jobs may be retried; ``retry_dead.lua`` lists the values.
        expected_replays: how often an operator has retried the job before, None for any number.
        cause: who retries the job, for its history.

    Raises:
        NotFound: there is no such job.
        Conflict: the job is in another state, or was retried since.
        Duplicate: another job with the same fingerprint has not ended.
        BackendUnavailable: Redis did not answer in time, or other requests kept the lock undecided.
    """
    for _ in range(_TRIES):
        found = await locks.find_job(store, store.keys.shard_of_id(job_id), job_id)
        if found is None or found.job.hidden:
            raise NotFound("job", job_id)
        job = found.job
        if not job.dead and (required_kind == "dead" or job.state is not State.DISCARDED):
            raise Conflict(f"job '{job_id}' is {job.state}", job_id=job_id, state=job.state)
        if expected_replays is not None and job.replays != expected_replays:
            raise Conflict(f"job '{job_id}' was retried since", job_id=job_id, state=job.state)
        fingerprint = job.fields[f.UNIQUE].decode().removesuffix("+")
        retries = int(job.fields.get(f.REPLAYS, 0))
        request = LockRequest(fingerprint, job_id, found.shard, retries + 1)
        retry = ManualRetry(job_id, found.shard, job.queue, retries, required_kind, cause)
        transaction = _transaction(store, request, retry)
        now_ms = await _commit(store, request, transaction)
        if now_ms is None:
            continue
        try:
            records = await transactions.apply(store, transaction, now_ms)
        except OJSError as error:
            raise BackendUnavailable(
                f"the retry is accepted, but the job is not available yet: {error.message}",
                outcome=transactions.outcome_of(error),
            ) from error
        # Another process may have applied the transaction first.
        retried = records.get(job_id) or await read_jobs.get(store, job_id)
        if int(retried.fields.get(f.REPLAYS, 0)) > retries:
            return retried
    raise BackendUnavailable("the job could not be retried in time", outcome="not_applied")


def _transaction(store: Store, request: LockRequest, retry: ManualRetry) -> Transaction:
    # The owner shard of the transaction is the shard of the lock. So the clock that limits the time
    # of the commit is the clock by which the claim expires.
    owner = store.keys.shard_of_fingerprint(request.fingerprint)
    transaction_id = new_job_id(owner.index, len(store.keys), store.clock.now_ms())
    held_locks = [(request.fingerprint, request.job_id)]
    return Transaction(transaction_id, {}, locks=held_locks, retries=[retry])


async def _commit(store: Store, request: LockRequest, transaction: Transaction) -> int | None:
    """Claim the lock, then commit; return None when the commit came too late or was aborted."""
    try:
        expires_at_ms = await unique.claim_for_retry(store, request, transaction.id)
        now_ms = await transactions.commit(store, transaction, expires_at_ms)
    except BackendUnavailable as error:
        # A transaction with an unknown outcome may be committed, so the lock stays claimed.
        if error.outcome == "not_applied":
            await _release_lock(store, request, transaction)
        raise
    if now_ms is None:
        await _release_lock(store, request, transaction)
    return now_ms


async def _release_lock(store: Store, request: LockRequest, transaction: Transaction) -> None:
    with suppress(OJSError), cleaning_up():
        await locks.settle(store, "drop", [request], transaction.id)
