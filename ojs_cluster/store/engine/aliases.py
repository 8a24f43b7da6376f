"""Aliases of ids that clients choose: how they are claimed, checked and removed.

The shard to which a client-chosen id maps may hold no partition of the job's queue. The job is then
stored in another shard, and the owner shard of the id holds an alias, which is claimed before the
job is stored (see ``enqueue``). When the job is removed, its alias is removed first. After a crash
between the two steps the job cannot be found by its id, but it is still due for removal, and the
next janitor run repeats both steps.

An alias tells where the first request with the id stores its job. It does not prove that the job
exists: the request may be running, or its process may have died. ``claimed_ids`` explains what the
next request with the id does.

A producer may claim the id again at any time. So a recently claimed alias is never removed. Its
claim stays listed until the janitor has *settled* it: the janitor keeps the alias when it finds the
job, removes the alias when there is no job in the shard to which it points, and otherwise checks it
again later.
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
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.ground import job_fields as f
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.runtime import Arg

T = TypeVar("T")
log = logging.getLogger("ojs.store")

CLAIM_MS = 30_000
"""Time in ms within which the job of a claimed alias, or its transaction, must be stored."""
_PORTION = 100
"""Maximum number of aliases or jobs that one script visits. It blocks its node for a few ms."""
_OLD_CLAIM_MS = 10 * 60_000
"""Age in ms at which the janitor checks a claim. No request can use the claim at that age."""
IN_FLIGHT_MS = 60_000
"""Age in ms of a claim up to which its job may still be stored: twice ``CLAIM_MS``, because the
clocks of the masters may differ."""

_AliasDecision = Literal["keep", "drop", "later"]


@dataclass(frozen=True, slots=True)
class ForeignAlias:
    """An id whose alias points to another shard than the one that the request has chosen.

    Args:
        job_id: the id.
        index: position of the id's job in the request.
        target: the shard to which the alias points.
    """

    job_id: str
    index: int
    target: Shard


class ClaimedElsewhere(Exception):
    """Another request has claimed ids of this request for other shards.

    ``claimed_ids.first_shards`` finds out whether the jobs of that request exist.

    Args:
        ids: the ids with the shards to which their aliases point.
    """

    def __init__(self, ids: Sequence[ForeignAlias]) -> None:
        super().__init__(*ids)
        self.ids = ids


class AliasClaims:
    """The ids that one producer claims for one request. Unused claims are released afterwards.

    Only the first claimer of an id releases the claim, and only while no other producer has claimed
    the id. Another producer of the same id, such as a repetition of the request, may be about to
    store its job; without the alias no request would find that job. The janitor removes claims that
    no producer may release.
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
            Unix time in ms before which the jobs must be stored: the earliest time at which one of
            the claims expires. 0 when there are no ids.

        Raises:
            Duplicate: a job with one of the ids is stored in the id's owner shard. The error names
                the first such id of the request. The other ids were released.
            ClaimedElsewhere: an alias points to another shard, and no stored job has an earlier id
                of the request. The claimed ids stay claimed.
        """
        if not ids:
            return 0
        self._name = self._name or os.urandom(8).hex()
        expiries: list[int] = []
        stored: list[tuple[int, str]] = []
        elsewhere: list[ForeignAlias] = []

        async def claim_one(item: tuple[str, int]) -> None:
            job_id, index = item
            reply = await self._run_claim(shard, job_id, valid_ms)
            if reply[0] == b"ok":
                expiries.append(int(reply[1]))
                self._mine.add(job_id)
            elif reply[0] == b"taken":
                target = self._store.keys.shard(int(reply[1]))
                elsewhere.append(ForeignAlias(job_id, index, target))
            else:
                stored.append((index, job_id))

        try:
            await run_concurrently(ids, claim_one)
        except WritesRefused:
            await self.release()
            raise
        if elsewhere and (not stored or min(alias.index for alias in elsewhere) < min(stored)[0]):
            raise ClaimedElsewhere(elsewhere)
        if stored:
            await self.release()
            index, job_id = min(stored)
            raise duplicate_id(job_id, index, total)
        return earliest(*expiries)

    async def _run_claim(self, shard: Shard, job_id: str, valid_ms: int) -> Any:
        """Run ``claim_alias.lua`` for one id, and return its reply."""
        owner = self._store.keys.shard_of_id(job_id)
        keys = [owner.job(job_id), owner.alias_claims]
        args: list[Arg] = [job_id, shard.index, valid_ms, self._name]
        return await self._store.run(owner, "claim_alias", keys, args, idempotent=True)

    def keep(self, job_id: str) -> None:
        """Never release ``job_id``: a job is stored, or may be stored, where its alias points."""
        self._mine.discard(job_id)

    async def release(self, ids: Iterable[str] | None = None) -> None:
        """Release claims whose jobs this request has not stored and will not store.

        The function never raises. If Redis does not answer, the janitor removes the claims.

        Args:
            ids: ids to release, by default all ids that this request has claimed.
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
    """Return the earliest of some Unix times in ms. 0 stands for no time, also as the result."""
    return min((ms for ms in times_ms if ms), default=0)


@dataclass(frozen=True, slots=True)
class RemovalResult:
    """What an attempt to remove jobs has done.

    Args:
        removed: how many jobs were removed.
        kept_ids: ids of jobs that stay because the owner shard of the id did not answer.
        error: the error of one of these shards.
    """

    removed: int
    kept_ids: Sequence[str] = ()
    error: BackendUnavailable | None = None


async def remove_expired_jobs(store: Store, shard: Shard, job_ids: Sequence[str]) -> RemovalResult:
    """Remove jobs of ``shard`` whose retention is over, and before that their aliases.

    If the owner shard of an alias does not answer, the job of that alias stays; the other jobs are
    removed.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    unanswered_ids, failure = await drop_aliases(store, shard, job_ids)
    kept_ids = set(unanswered_ids)
    keys = [shard.finished, shard.dead, shard.expiring, shard.references]
    removed = 0
    for foreign in (True, False):  # the script has one flag for all jobs of a call
        ids = [
            job_id
            for job_id in job_ids
            if job_id not in kept_ids and foreign == (not is_owner_shard(store, shard, job_id))
        ]
        for part in _portions(ids):
            jobs = [shard.job(job_id) for job_id in part]
            args = ["1" if foreign else ""]
            removed += int(
                await store.run(shard, "delete_jobs", [*keys, *jobs], args, idempotent=True)
            )
    return RemovalResult(removed, unanswered_ids, failure)


async def drop_aliases(
    store: Store, shard: Shard, job_ids: Sequence[str]
) -> tuple[list[str], BackendUnavailable | None]:
    """Remove aliases that point to ``shard``, before their jobs are removed from it.

    Returns:
        Ids whose owner shard did not answer, and the error of one of these shards.
    """
    by_owner: dict[Shard, list[str]] = {}
    for job_id in job_ids:
        by_owner.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)
    unanswered_ids: list[str] = []
    failure: BackendUnavailable | None = None

    async def drop_in(owner: Shard) -> None:
        nonlocal failure
        try:
            for ids in _portions(by_owner[owner]):
                checks = [_AliasCheck(job_id, "drop", shard) for job_id in ids]
                await _settle(store, owner, checks, IN_FLIGHT_MS)
        except BackendUnavailable as error:
            failure = error
            unanswered_ids.extend(by_owner[owner])

    await run_concurrently([owner for owner in by_owner if owner is not shard], drop_in)
    return unanswered_ids, failure


async def read_claim(store: Store, job_id: str) -> tuple[bytes, int]:
    """Read the last claim of an id, in its owner shard.

    Returns:
        The claim as ``drop_claimed`` takes it, and its age in ms by the clock of that shard.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(job_id)
    call = store.redis.call
    claimed: Any = await call(owner.slot, "ZSCORE", owner.alias_claims, job_id, idempotent=True)
    seconds, micros = cast(list[bytes], await call(owner.slot, "TIME", idempotent=True))
    now_ms = int(seconds) * 1000 + int(micros) // 1000
    return claimed or b"none", now_ms - int(claimed or 0)


async def drop_claimed(store: Store, target: Shard, job_id: str, claim: bytes) -> bool:
    """Remove an alias that points to ``target``, unless its id was claimed again since ``claim``.

    Returns:
        Whether the alias is removed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    owner = store.keys.shard_of_id(job_id)
    check = _AliasCheck(job_id, "drop", target, claim)
    return bool(await _settle(store, owner, [check], 0))


async def check_old_claims(store: Store, shard: Shard, limit: int) -> int:
    """Settle old claims of ``shard``; return how many claims were checked.

    An alias whose job was never stored is removed. An alias that points to its own shard is a
    tombstone, which is removed, or a reservation, whose transaction is resolved. An alias that
    cannot be checked does not delay others.

    Args:
        store: the store.
        shard: the owner shard of the ids.
        limit: maximum number of claims.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.alias_claims], [_OLD_CLAIM_MS, limit], idempotent=True
    )
    checks: list[_AliasCheck] = []

    async def check(raw: bytes) -> None:
        job_id = raw.decode()
        target = shard
        try:
            alias, transaction = await _read_alias(store, shard, job_id)
            if alias is not None:
                target = store.keys.shard(int(alias))
            if transaction is not None:
                await transactions.resolve_and_release(store, shard, transaction, [job_id])
                return
            decision: _AliasDecision = "keep"
            if alias is not None:
                decision = "drop" if target is shard else await _decide(store, target, job_id)
        except (OJSError, ValueError, IndexError) as error:  # the alias may be damaged
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
    # `target` lists a reservation or a tombstone in its own alias_claims, and its janitor run
    # removes it. After that this alias can be dropped.
    return "drop" if found[0] is None else "later"


async def _read_alias(store: Store, shard: Shard, job_id: str) -> tuple[bytes | None, str | None]:
    """Return the target of an alias, and the transaction that has reserved its id."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(job_id), f.ALIAS, f.TRANSACTION, idempotent=True
    )
    return found[0], None if found[1] is None else found[1].decode()


@dataclass(frozen=True, slots=True)
class _AliasCheck:
    """What to do with an alias, as long as it points to ``target``.

    Args:
        job_id: the id.
        decision: what to do.
        target: the shard that was checked.
        claim: the last claim of the id, empty for any that is old enough.
    """

    job_id: str
    decision: _AliasDecision
    target: Shard
    claim: bytes = b""


async def _settle(store: Store, owner: Shard, checks: Sequence[_AliasCheck], age_ms: int) -> int:
    """Run ``settle_alias.lua`` for aliases of ``owner``; return how many were removed."""
    args: list[Arg] = [age_ms]
    for check in checks:
        args += (check.job_id, check.decision, check.target.index, check.claim)
    keys = [owner.alias_claims, *(owner.job(check.job_id) for check in checks)]
    return int(await store.run(owner, "settle_alias", keys, args, idempotent=True))


def _portions(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + _PORTION] for start in range(0, len(items), _PORTION)]
