"""Check that a job still has its alias and its lock in other shards.

A job with a client-chosen id has an alias in the owner shard of the id. A unique job has a lock in
the shard of its fingerprint. Both are written before the job. With asynchronous replication a
failover may lose the last writes of one master: an alias or a lock may be lost while the job's own
master lives. The removal of an alias may be lost, too, after its job was removed.

So each such job is listed in its own shard (``keys.Shard.references``) when it is stored, retried
by hand or removed. The janitor checks it two minutes later, when any failover of that time is over.
It writes a missing alias or lock again, and removes an alias without a job. Then the entry is
removed, so the list holds the jobs of a few minutes only. For the opposite loss, an alias or a lock
without its job, see ``aliases.check_old_claims`` and ``unique.check_old_locks``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal

from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import aliases
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.by_id import restore_alias
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.unique import locks
from ojs_cluster.store.unique.locks import LockRequest

log = logging.getLogger("ojs.store")

CHECK_MS: Final = 120_000
"""Age in ms at which the references of a job are checked."""
_PORTION: Final = 500

_CheckResult = Literal["done", "later"]


async def check_references(store: Store, shard: Shard, limit: int) -> int:
    """Check the references of up to ``limit`` jobs of a shard; return how many were checked.

    A job that cannot be checked now does not delay others; it is checked again later.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.references], [CHECK_MS, limit], idempotent=True
    )
    results: dict[str, _CheckResult] = {}
    gone: list[str] = []

    async def check(raw: bytes) -> None:
        job_id = raw.decode()
        found: Any = await store.redis.call(
            shard.slot,
            *("HMGET", shard.job(job_id), f.STATE, f.TRANSACTION, f.UNIQUE, f.REPLAYS),
            *(f.QUEUE, f.TYPE, f.CREATED),
            idempotent=True,
        )
        if not any(found):  # no job, or an alias that points elsewhere
            gone.append(job_id)
            return
        try:
            results[job_id] = await _check(store, shard, job_id, found[:4])
        except Exception as error:  # also for a malformed field: it must not delay other jobs
            log.warning(
                "references of job %s cannot be checked; the janitor will try again",
                job_id,
                exc_info=error,
            )
            results[job_id] = "later"

    await run_concurrently(ids, check)
    left, _ = await aliases.drop_aliases(store, shard, gone)
    away = set(left)
    for job_id in gone:
        results[job_id] = "later" if job_id in away else "done"
    await _note_results(store, shard, results)
    return len(ids)


async def _check(store: Store, shard: Shard, job_id: str, found: Sequence[Any]) -> _CheckResult:
    """Write the missing references of a job again, given some fields of its hash."""
    state, transaction, unique, replays = found
    if transaction is not None:
        return "later"  # its transaction is not applied yet
    if store.keys.shard_of_id(job_id) is not shard and not await restore_alias(
        store, shard, job_id
    ):
        log.warning(
            "the id of job %s in shard %d has the alias of another job", job_id, shard.index
        )
    if unique is None:
        return "done"
    outlives = unique.endswith(b"+")
    if state is None:
        return "later"  # malformed: the state is unknown
    if state.decode() in TERMINAL and not outlives:
        return "done"
    fingerprint = unique.removesuffix(b"+").decode()
    request = LockRequest(fingerprint, job_id, shard.index, int(replays or 0))
    owner = store.keys.shard_of_fingerprint(fingerprint)
    reply = await locks.try_claim(store, owner, [request])
    undecided = isinstance(reply, locks.LockHeld) and b"t" in reply.lock
    return "later" if undecided else "done"


async def _note_results(store: Store, shard: Shard, results: dict[str, _CheckResult]) -> None:
    checked = list(results.items())
    for at in range(0, len(checked), _PORTION):
        args: list[Arg] = [CHECK_MS]
        for job_id, result in checked[at : at + _PORTION]:
            args += (job_id, result)
        keys = [shard.references]
        await store.run(shard, "references_checked", keys, args, idempotent=True)
