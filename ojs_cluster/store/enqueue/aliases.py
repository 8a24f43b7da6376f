"""Aliases of ids that clients choose: how they are claimed, checked and removed.

A client-chosen id may name another shard than the shard of its queue. The owner shard of the id
then holds an alias, which is claimed before the job is stored (see ``enqueue``). When the job is
removed, its alias is removed first. A crash between the two leaves a job that its id does not find
and that is still due for removal; the next janitor run repeats both steps.

An alias tells where the first request with the id stores its job. It does not prove that the job
exists: the request may be running, or its process may have died. ``claimed_ids`` explains what the
next request with the id does.

A producer may claim the id again at any time. So a recently claimed alias is never removed. Its
claim stays listed, and the janitor checks it until it finds the job, or finds nothing where the
alias points.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from ojs_cluster.core.errors import BackendUnavailable, Duplicate, OJSError, WritesRefused
from ojs_cluster.keys import Shard
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.transactions import transactions

T = TypeVar("T")
log = logging.getLogger("ojs.store")

CLAIM_MS = 30_000
"""Time in ms within which the job of a claimed alias must be stored, or its transaction committed.
The janitor removes unused claims much later."""
_PORTION = 100
"""Aliases or jobs that one script visits: a few ms of its node."""
_OLD_CLAIM_MS = 10 * 60_000
"""Age in ms of a claim that the janitor checks. The claim expired long before."""
IN_FLIGHT_MS = 60_000
"""Age in ms of a claim up to which its job may still be stored: twice the life of a claim."""

_AliasDecision = Literal["keep", "drop", "later"]


@dataclass(frozen=True, slots=True)
class ForeignAlias:
    """An id of a request whose alias points to another shard than the request stores the job in.

    Args:
        job_id: the id.
        index: position of its job in the request.
        target: the shard to which the alias points.
    """

    job_id: str
    index: int
    target: Shard


class ClaimedElsewhere(Exception):
    """Another request has claimed ids of this request for other shards.

    ``claimed_ids.first_shards`` finds out whether the jobs of that request exist.

    Args:
        ids: the ids, and the shards to which their aliases point.
    """

    def __init__(self, ids: Sequence[ForeignAlias]) -> None:
        super().__init__(*ids)
        self.ids = ids


class AliasClaims:
    """The ids that one producer claims for one request. It releases those that it does not use.

    Only the first claimer of an id releases it, and only while no other producer has claimed it.
    Another producer of the same id, such as a repetition of the request, may be about to store its
    job; without the alias no request would find that job. The janitor removes the other claims.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = ""
        self._mine: set[str] = set()

    async def claim(
        self, shard: Shard, ids: Sequence[tuple[str, int]], valid_ms: int, *, total: int
    ) -> int:
        """Claim client-chosen ids, in their owner shards, for jobs that will live in ``shard``.

        Repeated, it changes nothing.

        Args:
            shard: where the jobs will live.
            ids: the ids, each with the position of its job in the request.
            valid_ms: time in ms for which the claims are valid.
            total: number of jobs in the request.

        Returns:
            Time in ms, by the clock of the owner shard whose claim expires first, before which the
            jobs must be stored; 0 when there are no ids.

        Raises:
            Duplicate: a job with one of the ids is stored in the id's owner shard. The error names
                the first in the request. The other ids were released.
            ClaimedElsewhere: aliases of ids before that one point to other shards. The claimed ids
                stay claimed.
        """
        if not ids:
            return 0
        self._name = self._name or os.urandom(8).hex()
        expiries: list[int] = []
        taken: list[tuple[int, str]] = []
        elsewhere: list[ForeignAlias] = []

        async def claim_one(item: tuple[str, int]) -> None:
            job_id, index = item
            owner = self._store.keys.shard_of_id(job_id)
            keys = [owner.job(job_id), owner.alias_claims]
            args: list[Arg] = [job_id, shard.index, valid_ms, self._name]
            reply = await self._store.run(owner, "claim_alias", keys, args, idempotent=True)
            if reply[0] == b"ok":
                expiries.append(int(reply[1]))
                self._mine.add(job_id)
            elif reply[0] == b"taken":
                target = self._store.keys.shard(int(reply[1]))
                elsewhere.append(ForeignAlias(job_id, index, target))
            else:
                taken.append((index, job_id))

        try:
            await run_concurrently(ids, claim_one)
        except WritesRefused:
            await self.release()
            raise
        if elsewhere and (not taken or min(one.index for one in elsewhere) < min(taken)[0]):
            raise ClaimedElsewhere(elsewhere)
        if taken:
            await self.release()
            index, job_id = min(taken)
            raise duplicate_id(job_id, index, total)
        return earliest(*expiries)

    def keep(self, job_id: str) -> None:
        """Never release ``job_id``: a job is stored, or may be stored, where its alias points."""
        self._mine.discard(job_id)

    async def release(self, ids: Iterable[str] | None = None) -> None:
        """Release claims whose jobs this request has not stored and will not store.

        It never raises. If Redis does not answer, the janitor removes the claims.

        Args:
            ids: ids to release, by default all that this request has claimed.
        """

        async def release_one(job_id: str) -> None:
            owner = self._store.keys.shard_of_id(job_id)
            keys = [owner.job(job_id), owner.alias_claims]
            args: list[Arg] = [job_id, self._name]
            await self._store.run(owner, "release_alias", keys, args, idempotent=True)

        released = sorted(self._mine if ids is None else self._mine.intersection(ids))
        self._mine.difference_update(released)
        with suppress(OJSError), cleaning_up():
            await run_concurrently(released, release_one)


def duplicate_id(job_id: str, index: int, total: int) -> Duplicate:
    """Return the error for an id that another job has.

    Args:
        job_id: the id.
        index: position of the job in the request.
        total: number of jobs in the request.
    """
    return Duplicate(
        f"a job with id '{job_id}' already exists",
        field="id",
        existing_job_id=job_id,
        index=index if total > 1 else None,
    )


def is_owner_shard(store: Store, shard: Shard, job_id: str) -> bool:
    """Return whether ``shard`` is the owner shard of an id."""
    return store.keys.shard_of_id(job_id) is shard


def earliest(*times_ms: int) -> int:
    """Return the earliest of some times in ms; 0 stands for no time."""
    return min((ms for ms in times_ms if ms), default=0)


@dataclass(frozen=True, slots=True)
class RemovalResult:
    """What an attempt to remove jobs has done.

    Args:
        removed: how many jobs are gone.
        left: ids of jobs that stay because the owner shard of the id did not answer.
        error: the error of one of these shards.
    """

    removed: int
    left: Sequence[str] = ()
    error: BackendUnavailable | None = None


async def remove_expired_jobs(store: Store, shard: Shard, job_ids: Sequence[str]) -> RemovalResult:
    """Remove jobs of ``shard`` whose retention is over, and before that their aliases.

    One script removes up to ``_PORTION`` aliases or jobs of a shard. If an owner shard does not
    answer, only the jobs whose aliases it holds stay.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    left, failure = await drop_aliases(store, shard, job_ids)
    away = set(left)
    keys = [shard.finished, shard.dead, shard.expiring, shard.references]
    removed = 0
    for foreign in (True, False):
        ids = [
            job_id
            for job_id in job_ids
            if job_id not in away and foreign == (not is_owner_shard(store, shard, job_id))
        ]
        for part in _portions(ids):
            jobs = [shard.job(job_id) for job_id in part]
            args = ["1" * foreign]
            removed += int(
                await store.run(shard, "delete_jobs", [*keys, *jobs], args, idempotent=True)
            )
    return RemovalResult(removed, left, failure)


async def drop_aliases(
    store: Store, shard: Shard, job_ids: Sequence[str]
) -> tuple[list[str], BackendUnavailable | None]:
    """Remove aliases that point to ``shard``, for jobs that are removed from there.

    Returns:
        Ids whose owner shard did not answer, and the error of one of these shards.
    """
    by_owner: dict[Shard, list[str]] = {}
    for job_id in job_ids:
        by_owner.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)
    left: list[str] = []
    failure: BackendUnavailable | None = None

    async def drop_in(owner: Shard) -> None:
        nonlocal failure
        try:
            for ids in _portions(by_owner[owner]):
                checks = [_AliasCheck(job_id, "drop", shard) for job_id in ids]
                await _settle(store, owner, checks, IN_FLIGHT_MS)
        except BackendUnavailable as error:
            failure = error
            left.extend(by_owner[owner])

    await run_concurrently([owner for owner in by_owner if owner is not shard], drop_in)
    return left, failure


async def drop_if_unused(store: Store, target: Shard, job_id: str) -> bool:
    """Remove an alias that points to ``target`` if its claim is old and there is no job.

    The claim is read first. Once it is older than ``IN_FLIGHT_MS``, no request can store a job in
    ``target`` any more. So a job that is absent then stays absent until the removal. The script
    compares the age of the claim again.

    Returns:
        Whether the alias is gone.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(job_id)
    call = store.redis.call
    claimed: Any = await call(owner.slot, "ZSCORE", owner.alias_claims, job_id, idempotent=True)
    seconds, micros = cast(list[bytes], await call(owner.slot, "TIME", idempotent=True))
    age_ms = int(seconds) * 1000 + int(micros) // 1000 - int(claimed or 0)
    if age_ms < IN_FLIGHT_MS or await _decide(store, target, job_id) != "drop":
        return False
    return bool(await _settle(store, owner, [_AliasCheck(job_id, "drop", target)], IN_FLIGHT_MS))


async def check_old_claims(store: Store, shard: Shard, limit: int) -> int:
    """Remove aliases of ``shard`` whose job was never stored; return how many were checked.

    An alias that points to its own shard is a tombstone, or an id that a transaction has reserved.
    An alias that cannot be checked now does not delay others.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.alias_claims], [_OLD_CLAIM_MS, limit], idempotent=True
    )
    checks: list[_AliasCheck] = []

    async def check(raw: bytes) -> None:
        job_id = raw.decode()
        alias, transaction = await _read_alias(store, shard, job_id)
        target = shard if alias is None else store.keys.shard(int(alias))
        try:
            if transaction is not None:
                await transactions.resolve_and_release(store, shard, transaction, [job_id])
                return
            decision: _AliasDecision = "keep"
            if alias is not None:
                decision = "drop" if target is shard else await _decide(store, target, job_id)
        except OJSError as error:
            log.warning(
                "alias %s cannot be checked; the janitor will try again", job_id, exc_info=error
            )
            decision = "later"
        checks.append(_AliasCheck(job_id, decision, target))

    await run_concurrently(ids, check)
    for portion in _portions(checks):
        await _settle(store, shard, portion, _OLD_CLAIM_MS)
    return len(ids)


async def _decide(store: Store, target: Shard, job_id: str) -> _AliasDecision:
    """Return what to do with an alias, given what its id names in ``target``."""
    found: Any = await store.redis.call(
        target.slot,
        *("HMGET", target.job(job_id), f.ALIAS, f.STATE, f.QUEUE, f.TYPE),
        idempotent=True,
    )
    if any(found[1:]):
        return "keep"  # a malformed job may lack one of these fields
    # A reservation or a tombstone has a claim of its own in `target`, and is removed there.
    return "drop" if found[0] is None else "later"


async def _read_alias(store: Store, shard: Shard, job_id: str) -> tuple[bytes | None, str | None]:
    """Return the target of an alias, and the transaction that has reserved its id."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(job_id), f.ALIAS, f.TRANSACTION, idempotent=True
    )
    return found[0], None if found[1] is None else found[1].decode()


@dataclass(frozen=True, slots=True)
class _AliasCheck:
    """What to do with an alias, as long as it points to ``target``."""

    job_id: str
    decision: _AliasDecision
    target: Shard


async def _settle(store: Store, owner: Shard, checks: Sequence[_AliasCheck], age_ms: int) -> int:
    """Run ``settle_alias.lua`` for aliases of ``owner``; return how many were removed."""
    args: list[Arg] = [age_ms]
    for check in checks:
        args += (check.job_id, check.decision, check.target.index)
    keys = [owner.alias_claims, *(owner.job(check.job_id) for check in checks)]
    return int(await store.run(owner, "settle_alias", keys, args, idempotent=True))


def _portions(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + _PORTION] for start in range(0, len(items), _PORTION)]
