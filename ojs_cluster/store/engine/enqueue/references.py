"""Check that the references of a job exist: its alias and its lock in other shards.

A job with a client-chosen id may have an alias in the owner shard of the id. A unique job has a
lock in the owner shard of its fingerprint. Both are written before the job. With asynchronous
replication a failover may lose the last writes of one master. So an alias or a lock may be lost
while the job still exists. After a job was removed, the removal of its alias may be lost.

So each job with a reference is listed in its own shard (``keys.Shard.references``) when it is
stored, retried by hand or removed. The janitor checks the job two minutes later, when a failover of
that time is over. The janitor writes a missing alias or lock again, and removes an alias without a
job. Then it removes the entry, so the list holds only the jobs of a few minutes. The functions
``aliases.check_old_claims`` and ``unique.check_old_locks`` handle a lost job whose alias or lock
still exists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal

from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine import aliases
from ojs_cluster.store.engine import unique_locks as locks
from ojs_cluster.store.engine.jobs.by_id import restore_alias
from ojs_cluster.store.engine.unique_locks import LockRequest
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

CHECK_MS: Final = 120_000
"""Age in ms at which the references of a job are checked."""
_PORTION: Final = 500
"""Maximum number of jobs whose results one script records."""

_CheckResult = Literal["done", "later"]


async def check_references(store: Store, shard: Shard, limit: int) -> int:
    """Check the references of up to ``limit`` jobs of a shard; return how many were checked.

    A job that cannot be checked now does not delay others; the janitor checks it again later.

    Args:
        store: the store.
        shard: the shard of the jobs.
        limit: maximum number of jobs.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.references], [CHECK_MS, limit], idempotent=True
    )
    results: dict[str, _CheckResult] = {}
    removed_ids: list[str] = []

    async def check(raw_id: bytes) -> None:
        job_id = raw_id.decode()
        fields: Any = await store.redis.call(
            shard.slot,
            *("HMGET", shard.job(job_id), f.STATE, f.TRANSACTION, f.UNIQUE, f.REPLAYS),
            *(f.QUEUE, f.TYPE, f.CREATED),
            idempotent=True,
        )
        if not any(fields):  # the job was removed, or its id has an alias to another shard
            removed_ids.append(job_id)
            return
        try:
            results[job_id] = await _check(store, shard, job_id, fields[:4])
        except Exception as error:  # a malformed field must not delay other jobs either
            log.warning(
                "the alias and the lock of job %s cannot be checked; the janitor will try again",
                job_id,
                exc_info=error,
            )
            results[job_id] = "later"

    await run_concurrently(ids, check)
    unanswered_ids, _ = await aliases.drop_aliases(store, shard, removed_ids)
    results.update(dict.fromkeys(removed_ids, "done"))
    results.update(dict.fromkeys(unanswered_ids, "later"))
    await _note_results(store, shard, results)
    return len(ids)


async def _check(store: Store, shard: Shard, job_id: str, fields: Sequence[Any]) -> _CheckResult:
    """Write the missing references of a job again.

    Args:
        store: the store.
        shard: the shard of the job.
        job_id: id of the job.
        fields: values of its fields state, transaction, unique and replays; None where absent.
    """
    state, transaction, unique, replays = fields
    if transaction is not None:
        return "later"  # the job's transaction is not applied yet
    if store.keys.shard_of_id(job_id) is not shard and not await restore_alias(
        store, shard, job_id
    ):
        log.warning(
            "the id of job %s in shard %d has the alias of another job", job_id, shard.index
        )
    if unique is None:
        return "done"
    keeps_lock_after_end = unique.endswith(b"+")
    if state is None:
        return "later"  # the hash is malformed, so it is unknown whether the job holds its lock
    if state.decode() in TERMINAL and not keeps_lock_after_end:
        return "done"
    fingerprint = unique.removesuffix(b"+").decode()
    request = LockRequest(fingerprint, job_id, shard.index, int(replays or 0))
    owner = store.keys.shard_of_fingerprint(fingerprint)
    reply = await locks.try_claim(store, owner, [request])
    has_undecided_transaction = isinstance(reply, locks.LockHeld) and b"transaction" in reply.lock
    return "later" if has_undecided_transaction else "done"


async def _note_results(store: Store, shard: Shard, results: dict[str, _CheckResult]) -> None:
    checked = list(results.items())
    for start in range(0, len(checked), _PORTION):
        args: list[Arg] = [CHECK_MS]
        for job_id, result in checked[start : start + _PORTION]:
            args += (job_id, result)
        keys = [shard.references]
        await store.run(shard, "references_checked", keys, args, idempotent=True)
