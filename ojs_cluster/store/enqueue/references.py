"""What a job has in other shards, checked once more after a failover could have lost it.

A job with an id of the client's has an alias in the shard that the id names. A unique job has a
lock in the shard of its fingerprint. Both are written before the job. With asynchronous replication
a failover may lose the last writes of one master, and so the alias or the lock of a job whose own
master lives. Likewise the removal of an alias may be lost after its job has gone.

So each such job is listed in its own shard (``keys.Shard.references``), when it is stored, retried
by hand or removed, and the janitor checks it two minutes later, when any failover of that moment is
over: an alias or a lock that is missing is written again, an alias without its job is dropped. The
entry then goes, so the list holds the jobs of some minutes. The opposite loss, of a job whose alias
or lock was kept, is settled by those (``aliases.check_old_claims``, ``unique.sweep``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Literal

from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.enqueue import aliases
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs.by_id import restore_alias
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.unique import locks
from ojs_cluster.store.unique.locks import Want

log = logging.getLogger("ojs.store")

CHECK_MS: Final = 120_000
"""Age at which the references of a job are checked, in ms."""
_PORTION: Final = 500

_Outcome = Literal["done", "later"]


async def check(store: Store, shard: Shard, limit: int) -> int:
    """Check the references of up to ``limit`` jobs of a shard; returns how many were looked at.

    One that cannot be checked now keeps no other waiting: it is checked again later.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.references], [CHECK_MS, limit], idempotent=True
    )
    outcomes: dict[str, _Outcome] = {}
    gone: list[str] = []

    async def one(raw: bytes) -> None:
        job_id = raw.decode()
        found: Any = await store.redis.call(
            shard.slot,
            *("HMGET", shard.job(job_id), f.STATE, f.TRANSACTION, f.UNIQUE, f.REPLAYS),
            *(f.QUEUE, f.TYPE, f.CREATED),
            idempotent=True,
        )
        if not any(found):  # nothing, or an alias that leads elsewhere
            gone.append(job_id)
            return
        try:
            outcomes[job_id] = await _check(store, shard, job_id, found[:4])
        except Exception as error:  # a malformed field, too, must keep no other waiting
            log.warning("references of job %s cannot be checked", job_id, exc_info=error)
            outcomes[job_id] = "later"

    await over_shards(ids, one)
    left, _ = await aliases.drop(store, shard, gone)
    away = set(left)
    for job_id in gone:
        outcomes[job_id] = "later" if job_id in away else "done"
    await _note(store, shard, outcomes)
    return len(ids)


async def _check(store: Store, shard: Shard, job_id: str, found: Sequence[Any]) -> _Outcome:
    """Write again what is missing of a job's references, given some fields of its hash."""
    state, transaction, unique, replays = found
    if transaction is not None:
        return "later"  # its transaction is still to be carried out
    if store.keys.shard_of_id(job_id) is not shard and not await restore_alias(
        store, shard, job_id
    ):
        log.warning("the id of job %s of shard %d leads to another job", job_id, shard.index)
    if unique is None:
        return "done"
    outlives = unique.endswith(b"+")
    if state is None:
        return "later"  # malformed: whether it has ended is not known
    if state.decode() in TERMINAL and not outlives:
        return "done"
    fingerprint = unique.removesuffix(b"+").decode()
    want = Want(fingerprint, job_id, shard.index, int(replays or 0))
    home = store.keys.shard_of_fingerprint(fingerprint)
    reply = await locks.try_claim(store, home, [want])
    undecided = isinstance(reply, locks.Refused) and b"t" in reply.lock
    return "later" if undecided else "done"


async def _note(store: Store, shard: Shard, outcomes: dict[str, _Outcome]) -> None:
    checked = list(outcomes.items())
    for at in range(0, len(checked), _PORTION):
        args: list[Arg] = [CHECK_MS]
        for job_id, outcome in checked[at : at + _PORTION]:
            args += (job_id, outcome)
        keys = [shard.references]
        await store.run(shard, "references_checked", keys, args, idempotent=True)
