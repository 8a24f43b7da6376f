"""The commands of unique locks; ``unique`` says what they are for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ojs_cluster.core.unique import UniquePolicy
from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.jobs import validate_job
from ojs_cluster.store.jobs.record import JobRecord, record
from ojs_cluster.store.portions import PORTION_KEYS
from ojs_cluster.store.runtime import Arg

_CHECK_MS = 600_000
"""The janitor looks at a lock when it is this old, then when it is twice as old, and so on."""


@dataclass(frozen=True, slots=True)
class Want:
    """A job that wants a lock.

    Args:
        shard: index of the shard where the job will live.
        retries: how often the job was retried by hand: with each it is another holder.
        expected: the holder that was looked at and is not in the way, '' for none.
        expected_retries: how often that had been retried.
        remember: whether that one may still count, should the job not be stored after all.
        claim: name of the claim that is to be settled, '' where any claim is meant.
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
class Holder:
    """A job that holds a lock.

    Args:
        shard: index of its shard.
        age_ms: how long ago it was created.
        retries: how often it had been retried by hand when it claimed the lock.
    """

    job: JobRecord
    shard: int
    age_ms: int
    retries: int = 0

    def blocks(self, policy: UniquePolicy) -> bool:
        return policy.counts(self.job.state, self.age_ms)


@dataclass(frozen=True, slots=True)
class Refused:
    """A lock of a claim is held by another: its fields, and its shard's clock."""

    position: int
    lock: Mapping[bytes, bytes]
    now_ms: int


def claim_name() -> str:
    """A name for a claim that no other claim has."""
    return secrets.token_urlsafe(6)


async def try_claim(
    store: Store, shard: Shard, wants: Sequence[Want], transaction: str = "", name: str = ""
) -> int | Refused:
    """Claim locks of one shard; returns its ms, or the first that is held otherwise."""
    reply: int | Refused = 0
    name = name or claim_name()
    for start in range(0, len(wants), PORTION_KEYS):
        portion = wants[start : start + PORTION_KEYS]
        reply = await _claim_portion(store, shard, portion, transaction, name)
        if isinstance(reply, Refused):
            return replace(reply, position=start + reply.position)
    return reply


async def _claim_portion(
    store: Store, shard: Shard, wants: Sequence[Want], transaction: str, name: str
) -> int | Refused:
    keys = [shard.locks]
    args: list[Arg] = [transaction, _CHECK_MS, name]
    for want in wants:
        keys.append(shard.lock(want.fingerprint))
        args += (want.fingerprint, want.job_id, want.shard, want.retries)
        args += (want.expected, want.expected_retries, "1" * want.remember)
    reply = await store.run(shard, "lock_claim", keys, args, idempotent=True)
    if reply[0] == b"ok":
        return int(reply[1])
    return Refused(int(reply[1]) - 1, record("", reply[3]).fields, int(reply[2]))


async def look(store: Store, shard: Shard, job_id: str) -> Holder | None:
    """A job and its age, found in ``shard`` or where the id leads from there; None when there is no
    such job.

    Raises:
        MalformedJob: its stored fields cannot be used.
    """
    for _ in range(2):
        now, flat = await store.run(shard, "read_hash", [shard.job(job_id)], idempotent=True)
        job = record(job_id, flat)
        if f.ALIAS in job.fields:
            shard = store.keys.shard(int(job.fields[f.ALIAS]))
            continue
        if not any(name in job.fields for name in (f.STATE, f.QUEUE, f.TYPE)):
            break
        validate_job.check(job_id, job.fields, shard.index)
        return Holder(job, shard.index, now - job.created_ms)
    return None


async def leads_to(store: Store, job_id: str, shard: Shard) -> Shard:
    """Return the shard to which the alias of an id leads, ``shard`` where it has none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    home = store.keys.shard_of_id(job_id)
    alias = await store.redis.call(home.slot, "HGET", home.job(job_id), f.ALIAS, idempotent=True)
    return store.keys.shard(int(alias)) if isinstance(alias, bytes) else shard


async def fence(store: Store, shard: Shard, job_id: str, *, for_good: bool = False) -> bool:
    """Make it impossible that a job is stored in ``shard``, or where the id leads from there;
    returns False when it is there.

    A producer that meets the fence may store the job in spite of it, after it has looked at
    everything anew: it then knows the fence's mark (see ``enqueue``), which one that stalls does
    not. Unless it is ``for_good``: until the janitor removes it, after ten minutes.
    """
    mark = "" if for_good else os.urandom(8).hex()
    while True:
        keys = [shard.job(job_id), shard.alias_claims]
        args: list[Arg] = [job_id, shard.index, mark]
        reply = await store.run(shard, "write_tombstone", keys, args, idempotent=True)
        if reply[0] != b"moved":
            return bool(reply[0] == b"fenced")
        # An alias leads to where its job is, or would be: no further.
        shard = store.keys.shard(int(reply[1]))


async def settle(
    store: Store,
    how: Literal["keep", "drop", "unlock", "later"],
    wants: Sequence[Want],
    transaction: str = "",
) -> None:
    """What becomes of locks where the jobs of ``wants`` hold them (see ``lock_settle.lua``)."""
    shards: dict[Shard, list[Want]] = {}
    for want in wants:
        shards.setdefault(store.keys.shard_of_fingerprint(want.fingerprint), []).append(want)
    for shard, group in shards.items():
        for start in range(0, len(group), PORTION_KEYS):
            await _settle_portion(
                store, shard, how, group[start : start + PORTION_KEYS], transaction
            )


async def _settle_portion(
    store: Store, shard: Shard, how: str, group: Sequence[Want], transaction: str
) -> None:
    keys = [shard.locks, *(shard.lock(want.fingerprint) for want in group)]
    args: list[Arg] = [how, transaction, _CHECK_MS]
    for want in group:
        args += (want.fingerprint, want.job_id, want.retries, want.claim)
    await store.run(shard, "lock_settle", keys, args, idempotent=True)
