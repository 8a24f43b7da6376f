"""Commands on unique locks: claim, and *settle*, which ends a claim (see ``settle``).

``unique`` explains the protocol.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ojs_cluster.core.jobs.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs import validate_job
from ojs_cluster.store.engine.jobs.record import JobRecord, record
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.portions import PORTION_KEYS
from ojs_cluster.store.ground.runtime import Arg

_CHECK_MS = 600_000
"""Age in ms at which the janitor checks a lock. After that it checks when the age has doubled."""


@dataclass(frozen=True, slots=True)
class LockRequest:
    """A job that requests a lock.

    Args:
        fingerprint: fingerprint whose lock is requested.
        job_id: id of the job.
        shard: index of the shard where the job will live.
        retries: how often the job was retried by hand. After a retry it counts as another holder.
        expected: id of the holder that the caller has checked, and that does not conflict; '' for
            none.
        expected_retries: how often the expected holder had been retried by hand.
        remember: whether the expected holder gets the lock back if the job is not stored.
        claim: name of the claim to settle, '' for any claim.
    """

    fingerprint: str
    job_id: str
    shard: int
    retries: int = 0
    expected: str = ""
    expected_retries: int = 0
    remember: bool = False
    claim: str = ""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A job that holds a lock.

    Args:
        job: the job.
        shard: index of the job's shard.
        age_ms: time since the job's creation, in ms.
        retries: how often the job had been retried by hand when it claimed the lock.
    """

    job: JobRecord
    shard: int
    age_ms: int
    retries: int = 0

    def blocks(self, policy: UniquePolicy) -> bool:
        """Return whether the job conflicts with a new job of this policy."""
        return policy.conflicts(self.job.state, self.age_ms)


@dataclass(frozen=True, slots=True)
class LockHeld:
    """A requested lock that another job holds.

    Args:
        position: position of the lock in the request.
        lock: the lock's fields, as described in ``lock_claim.lua``.
        now_ms: Unix time in ms by the clock of the lock's shard.
    """

    position: int
    lock: Mapping[bytes, bytes]
    now_ms: int


def claim_name() -> str:
    """Return a name for a claim that no other claim has."""
    return secrets.token_urlsafe(6)


async def try_claim(
    store: Store,
    shard: Shard,
    requests: Sequence[LockRequest],
    transaction: str = "",
    name: str = "",
) -> int | LockHeld:
    """Claim locks of one shard.

    Args:
        store: the store.
        shard: the shard of all locks.
        requests: locks to claim, in this order.
        transaction: id of the transaction that claims them, '' for none.
        name: name of the claim, by default a new one.

    Returns:
        Unix time in ms by the shard's clock, or the first lock that another job holds. The locks
        before that lock stay claimed.
    """
    reply: int | LockHeld = 0
    name = name or claim_name()
    for start in range(0, len(requests), PORTION_KEYS):
        portion = requests[start : start + PORTION_KEYS]
        reply = await _claim_portion(store, shard, portion, transaction, name)
        if isinstance(reply, LockHeld):
            return replace(reply, position=start + reply.position)
    return reply


async def _claim_portion(
    store: Store, shard: Shard, requests: Sequence[LockRequest], transaction: str, name: str
) -> int | LockHeld:
    keys = [shard.locks]
    args: list[Arg] = [transaction, _CHECK_MS, name]
    for request in requests:
        keys.append(shard.lock(request.fingerprint))
        args += (request.fingerprint, request.job_id, request.shard, request.retries)
        args += (request.expected, request.expected_retries, "1" * request.remember)
    reply = await store.run(shard, "lock_claim", keys, args, idempotent=True)
    if reply[0] == b"ok":
        return int(reply[1])
    return LockHeld(int(reply[1]) - 1, record("", reply[3]).fields, int(reply[2]))


async def find_job(store: Store, shard: Shard, job_id: str) -> LockHolder | None:
    """Read a job and its age, in ``shard`` or in the shard to which the id's alias points.

    Returns:
        None when there is no such job.

    Raises:
        MalformedJob: the stored fields of the job cannot be used.
    """
    for _ in range(2):
        now, flat = await store.run(shard, "read_hash", [shard.job(job_id)], idempotent=True)
        job = record(job_id, flat)
        if f.ALIAS in job.fields:
            shard = store.keys.shard(int(job.fields[f.ALIAS]))
            continue
        if not any(name in job.fields for name in (f.STATE, f.QUEUE, f.TYPE)):
            break
        validate_job.raise_if_malformed(job_id, job.fields, shard.index)
        return LockHolder(job, shard.index, now - job.created_ms)
    return None


async def alias_target(store: Store, job_id: str, shard: Shard) -> Shard:
    """Return the shard that the alias of an id names, ``shard`` where there is no alias.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(job_id)
    alias = await store.redis.call(owner.slot, "HGET", owner.job(job_id), f.ALIAS, idempotent=True)
    return store.keys.shard(int(alias)) if isinstance(alias, bytes) else shard


async def write_tombstone(
    store: Store,
    shard: Shard,
    job_id: str,
    *,
    overridable: bool = True,
    follow_alias: bool = True,
) -> bool:
    """Prevent a late request from storing a job under an id.

    The tombstone is written in ``shard``. If an alias of the id is there, another one is written in
    the shard to which the alias points, and that in ``shard`` appears when the alias is removed.

    The janitor removes the tombstones after ten minutes.

    Args:
        store: the store.
        shard: the shard where the job would be stored.
        job_id: id of the job.
        overridable: whether a producer that reads the tombstone's token and then starts over may
            store the job (see ``enqueue``). A stalled producer does not know the token.
        follow_alias: whether another tombstone is written in the shard to which an alias points;
            not if that shard has a job of another request.

    Returns:
        False when the job is already stored.
    """
    token = new_token() if overridable else ""
    while True:
        reply = await _write_tombstone(store, shard, job_id, token)
        if reply[0] != b"moved" or not follow_alias:
            return bool(reply[0] != b"stored")
        # An alias points to the shard of its job, so this repeats at most once.
        shard = store.keys.shard(int(reply[1]))


async def replace_tombstone(store: Store, shard: Shard, job_id: str) -> bool:
    """Write a tombstone with a new token, which no request knows, in ``shard``.

    Returns:
        False when a job is stored there, or something else is there that must stay.
    """
    return bool((await _write_tombstone(store, shard, job_id, new_token()))[0] == b"ok")


async def _write_tombstone(store: Store, shard: Shard, job_id: str, token: str) -> Any:
    keys = [shard.job(job_id), shard.alias_claims]
    args: list[Arg] = [job_id, shard.index, token]
    return await store.run(shard, "write_tombstone", keys, args, idempotent=True)


def new_token() -> str:
    """Return a token for a tombstone that no other tombstone has."""
    return os.urandom(8).hex()


async def settle(
    store: Store,
    action: Literal["keep", "drop", "unlock", "later"],
    requests: Sequence[LockRequest],
    transaction: str = "",
) -> None:
    """End claims: apply an action of ``lock_settle.lua`` to locks that the given jobs still hold.

    Args:
        store: the store.
        action: what to do with the locks.
        requests: locks and their holders.
        transaction: id of the transaction that claimed the locks, '' for none.
    """
    shards: dict[Shard, list[LockRequest]] = {}
    for request in requests:
        shards.setdefault(store.keys.shard_of_fingerprint(request.fingerprint), []).append(request)
    for shard, group in shards.items():
        for start in range(0, len(group), PORTION_KEYS):
            portion = group[start : start + PORTION_KEYS]
            await _settle_portion(store, shard, action, portion, transaction)


async def _settle_portion(
    store: Store, shard: Shard, action: str, requests: Sequence[LockRequest], transaction: str
) -> None:
    keys = [shard.locks, *(shard.lock(request.fingerprint) for request in requests)]
    args: list[Arg] = [action, transaction, _CHECK_MS]
    for request in requests:
        args += (request.fingerprint, request.job_id, request.retries, request.claim)
    await store.run(shard, "lock_settle", keys, args, idempotent=True)
