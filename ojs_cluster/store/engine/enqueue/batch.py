"""Store a batch of jobs that has unique jobs or jobs of several shards: all jobs or none.

Spec: ojs-bulk-operations. An attempt reserves the client-chosen ids, then claims the unique locks,
then commits a cross-shard transaction that stores all jobs (see ``transactions``). Every attempt
visits shards in the order of their indexes, so two batches never block each other in a circle.

A batch may have several jobs with one fingerprint. The first of them is compared with the job that
holds the lock. Each later one is compared with the previous one of the batch that will be stored.
The policy of the later job decides about a conflict.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ojs_cluster.core.errors import BackendUnavailable, Conflict, OJSError
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.keys import Shard
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.aliases import (
    AliasClaims,
    ClaimedElsewhere,
    duplicate_id,
)
from ojs_cluster.store.engine.enqueue import claimed_ids
from ojs_cluster.store.engine.enqueue.batch_attempt import BatchAttempt
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.engine.limits import depth_bounds
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.engine.unique import unique
from ojs_cluster.store.ground import job_fields as f

_TRIES = 3
"""Maximum number of attempts, then the response is 503. A commit fails when it comes too late."""


async def enqueue_all(
    store: Store,
    jobs: Sequence[NewJob],
    fields: Sequence[bytes] = (),
    store_before_ms: int = 0,
    claims: AliasClaims | None = None,
    *,
    ignore_depth_bound: bool = False,
) -> list[JobRecord]:
    """Store jobs of any shards, all or none; return the jobs in the order given.

    If the conflict policy ``ignore`` prevents a job from being stored, the result has in its place
    the job that it conflicts with, with ``deduplicated`` set.

    Args:
        store: the store.
        jobs: the jobs.
        fields: names and values of further fields of each job's hash.
        store_before_ms: Unix time in ms, by any shard's clock, from which on the jobs must not be
            stored any more, 0 for never.
        claims: aliases that the caller has claimed for the jobs.
        ignore_depth_bound: whether the jobs are stored even in full queues.

    Raises:
        QueueFull: the depth bound of a queue is reached. A job that replaces another job is never
            refused.
        Duplicate: another job has one of the ids, two jobs have the same id, or a job with the same
            fingerprint exists.
        Conflict: the time ``store_before_ms`` has passed.
        TooManyQueues: the server has the maximum number of queues, and a queue is new.
        BackendUnavailable: Redis did not answer in time.
    """
    await ensure_task()
    await store.queues.ensure(store, dict.fromkeys(job.queue for job in jobs))
    claims = claims or AliasClaims(store)
    shards: dict[str, Shard] = {}
    for _ in range(_TRIES):
        attempt = await _reserve(store, jobs, fields, store_before_ms, claims, shards)
        records = await _commit(store, attempt, ignore_depth_bound)
        if records is not None:
            return records
        if 0 < store_before_ms <= store.clock.now_ms():
            raise Conflict("it is too late to store the jobs")
    raise BackendUnavailable("the jobs could not be stored in time", outcome="not_applied")


async def _commit(
    store: Store, attempt: BatchAttempt, ignore_depth_bound: bool
) -> list[JobRecord] | None:
    """Commit and apply the transaction of an attempt that has reserved all ids and locks.

    Returns:
        The jobs in the order of the request; None when the commit came too late, so that another
        attempt is needed.
    """
    try:
        transaction = attempt.transaction()
        if not ignore_depth_bound:
            await depth_bounds.check_bounds(store, transaction.new_jobs())
        now_ms: int | None = 0
        if transaction.parts:
            now_ms = await transactions.commit(store, transaction, attempt.commit_before_ms)
    except OJSError as error:
        # A transaction with an unknown outcome may be committed, so it keeps its reservations.
        if not isinstance(error, BackendUnavailable) or error.outcome == "not_applied":
            await attempt.release()
        raise
    if now_ms is None:
        await attempt.release()
        return None
    try:
        records = await transactions.apply(store, transaction, now_ms) if transaction.parts else {}
    except OJSError as error:
        raise BackendUnavailable(
            f"the jobs are accepted, but not stored yet: {error.message}",
            outcome=transactions.outcome_of(error),
        ) from error
    await attempt.release_unused()
    results = attempt.results(records)
    for job in results:
        if not job.deduplicated:
            store.job_counts.count_enqueued(job.queue, job.fields[f.TYPE])
    return results


def refuse_repeated_ids(jobs: Sequence[NewJob]) -> None:
    """Check that no two jobs have the same client-chosen id, before anything is written.

    Raises:
        Duplicate: two jobs have the same id.
    """
    seen: set[str] = set()
    for index, job in enumerate(jobs):
        if job.id is not None:
            if job.id in seen:
                raise duplicate_id(job.id, index, len(jobs))
            seen.add(job.id)


async def _reserve(
    store: Store,
    jobs: Sequence[NewJob],
    fields: Sequence[bytes],
    store_before_ms: int,
    claims: AliasClaims,
    shards_of_ids: dict[str, Shard],
) -> BatchAttempt:
    """Return an attempt that has reserved all ids and locks.

    Args:
        store: the store.
        jobs: the jobs.
        fields: names and values of further fields of each job's hash.
        store_before_ms: Unix time in ms from which on the jobs must not be stored, 0 for never.
        claims: alias claims of the request.
        shards_of_ids: shards that other requests have chosen for ids. The function adds the shards
            that it finds out.
    """
    deadline = trio.current_time() + unique.CLAIM_TIMEOUT_S
    while trio.current_time() < deadline:
        attempt = BatchAttempt(store, jobs, fields, store_before_ms, claims, shards_of_ids)
        try:
            await attempt.reserve()
        except ClaimedElsewhere as conflict:
            await attempt.release()
            shards_of_ids.update(await claimed_ids.first_shards(store, claims, jobs, conflict.ids))
        except OJSError as error:
            if not isinstance(error, BackendUnavailable) or error.outcome == "not_applied":
                await attempt.release()
            raise
        else:
            return attempt
    raise unique.contention_error()
