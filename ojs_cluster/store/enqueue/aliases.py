"""Aliases of client-supplied ids: how they begin, and how they end.

An id that a client chose may name another shard than its queue's. That shard then holds an alias,
claimed before the job is written (see ``enqueue``). When the job goes, its alias goes first: a
crash between the two leaves a job that no id finds and whose removal is still due, and the next
janitor run repeats both.

An alias says where the first request that named the id wants its job, and proves no job. That
request may be under way, or its process dead. What the next request may do then is in
``claimed_ids``.

A producer may claim the id again at any moment of this. An alias that was claimed lately is left
alone, whatever became of its last job: its claim is still listed, and the janitor comes back to it
until it has seen the job, or nothing at all where the alias leads.
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
from ojs_cluster.store.fanout import over_shards
from ojs_cluster.store.jobs import fields as f
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.transactions import transactions

T = TypeVar("T")
log = logging.getLogger("ojs.store")

CLAIM_MS = 30_000
"""How long a claimed alias may wait for its job to be stored, or for the transaction that stores it
to be decided. The janitor drops it much later."""
_PORTION = 100
"""Aliases, or jobs, per script: a few ms of a Redis that does nothing else meanwhile."""
_OLD_CLAIM_MS = 10 * 60_000
"""Twenty times the life of a claim: whoever held it has long been refused."""
IN_FLIGHT_MS = 60_000
"""Twice the life of a claim: the job of a younger one may be on its way."""

_Fate = Literal["keep", "drop", "later"]


@dataclass(frozen=True, slots=True)
class Claimed:
    """An id of a request whose alias leads elsewhere than the request places the job.

    Args:
        job_id: the id.
        index: the position of its job in the request.
        target: the shard to which the alias leads.
    """

    job_id: str
    index: int
    target: Shard


class ClaimedElsewhere(Exception):
    """Another request has claimed ids of this one, for other shards. ``ids`` says where they lead.

    Whether their jobs exist is not known yet: see ``claimed_ids.first_shards``.
    """

    def __init__(self, ids: Sequence[Claimed]) -> None:
        super().__init__(*ids)
        self.ids = ids


class AliasClaims:
    """The ids that one producer claims, for one request: what it does not use it can give back.

    A claim is given back only by who made it first, and while nobody else has claimed the id:
    another producer of the same id and shard, such as a repetition of the request, may be about to
    store its job, which nothing would lead to then. What is not given back the janitor drops.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._name = ""
        self._mine: set[str] = set()

    async def claim(
        self, shard: Shard, ids: Sequence[tuple[str, int]], good_ms: int, *, of: int
    ) -> int:
        """Claim ids that clients chose, in the shards that their bits name, for jobs that will live
        in ``shard``. Repeated, it changes nothing.

        Args:
            ids: with the position of each among the ``of`` jobs of the request.

        Returns the ms (by the clock of the shard that lapses first) before which the jobs must be
        written when claims are good for ``good_ms``; 0 when there are none.

        Raises:
            Duplicate: an id names the shard of a job that has it; of several, the first of the
                request. The others were given back.
            ClaimedElsewhere: ids before that one lead to other shards. The others stay claimed.
        """
        if not ids:
            return 0
        self._name = self._name or os.urandom(8).hex()
        lapses: list[int] = []
        taken: list[tuple[int, str]] = []
        elsewhere: list[Claimed] = []

        async def claim(item: tuple[str, int]) -> None:
            job_id, index = item
            home = self._store.keys.shard_of_id(job_id)
            keys = [home.job(job_id), home.alias_claims]
            args: list[Arg] = [job_id, shard.index, good_ms, self._name]
            reply = await self._store.run(home, "claim_alias", keys, args, idempotent=True)
            if reply[0] == b"ok":
                lapses.append(int(reply[1]))
                self._mine.add(job_id)
            elif reply[0] == b"taken":
                elsewhere.append(Claimed(job_id, index, self._store.keys.shard(int(reply[1]))))
            else:
                taken.append((index, job_id))

        try:
            await over_shards(ids, claim)
        except WritesRefused:
            await self.give_back()
            raise
        if elsewhere and (not taken or min(one.index for one in elsewhere) < min(taken)[0]):
            raise ClaimedElsewhere(elsewhere)
        if taken:
            await self.give_back()
            index, job_id = min(taken)
            raise duplicate_id(job_id, index, of)
        return earliest(*lapses)

    def keep(self, job_id: str) -> None:
        """There is a job to which the alias leads, or may lead: it is not given back."""
        self._mine.discard(job_id)

    async def give_back(self, ids: Iterable[str] | None = None) -> None:
        """None of the jobs, or none of those with ``ids``, was or will be stored by this request.

        As far as Redis answers: it never raises.
        """

        async def give(job_id: str) -> None:
            home = self._store.keys.shard_of_id(job_id)
            keys = [home.job(job_id), home.alias_claims]
            await self._store.run(
                home, "release_alias", keys, [job_id, self._name], idempotent=True
            )

        given = sorted(self._mine if ids is None else self._mine.intersection(ids))
        self._mine.difference_update(given)
        with suppress(OJSError), cleaning_up():
            await over_shards(given, give)


def duplicate_id(job_id: str, index: int, of: int) -> Duplicate:
    """The error that a client's id is taken, by the job at ``index`` ``of`` that many."""
    return Duplicate(
        f"a job with id '{job_id}' already exists",
        field="id",
        existing_job_id=job_id,
        index=index if of > 1 else None,
    )


def is_owner_shard(store: Store, shard: Shard, job_id: str) -> bool:
    """Whether the bits of an id name the shard where its job will live."""
    return store.keys.shard_of_id(job_id) is shard


def earliest(*moments: int) -> int:
    """The first of some moments in ms, of which 0 is none."""
    return min((ms for ms in moments if ms), default=0)


@dataclass(frozen=True, slots=True)
class Removal:
    """What became of jobs that were to be removed.

    Args:
        gone: how many are gone.
        left: ids that are there because their alias's shard did not answer; ``error`` says so.
    """

    gone: int
    left: Sequence[str] = ()
    error: BackendUnavailable | None = None


async def remove_expired_jobs(store: Store, shard: Shard, job_ids: Sequence[str]) -> Removal:
    """Remove jobs of ``shard`` whose retention is over, their aliases elsewhere first.

    All aliases of one shard are one script, and so are the jobs, ``_PORTION`` at a time. A shard
    that does not answer keeps only the jobs whose aliases it holds.

    Raises:
        BackendUnavailable: ``shard`` itself did not answer.
    """
    left, failure = await drop(store, shard, job_ids)
    away = set(left)
    keys = [shard.finished, shard.dead, shard.expiring, shard.references]
    gone = 0
    for foreign in (True, False):
        ids = [
            job_id
            for job_id in job_ids
            if job_id not in away and foreign == (not is_owner_shard(store, shard, job_id))
        ]
        for part in _portions(ids):
            jobs = [shard.job(job_id) for job_id in part]
            args = ["1" * foreign]
            gone += int(
                await store.run(shard, "delete_jobs", [*keys, *jobs], args, idempotent=True)
            )
    return Removal(gone, left, failure)


async def drop(
    store: Store, shard: Shard, job_ids: Sequence[str]
) -> tuple[list[str], BackendUnavailable | None]:
    """Drop aliases that lead to ``shard``, where their jobs have gone or go now.

    Returns ids whose alias's shard did not answer, and the error of one of these.
    """
    homes: dict[Shard, list[str]] = {}
    for job_id in job_ids:
        homes.setdefault(store.keys.shard_of_id(job_id), []).append(job_id)
    left: list[str] = []
    failure: BackendUnavailable | None = None

    async def drop_in(home: Shard) -> None:
        nonlocal failure
        try:
            for ids in _portions(homes[home]):
                settled = [_Settled(job_id, "drop", shard) for job_id in ids]
                await _settle(store, home, settled, IN_FLIGHT_MS)
        except BackendUnavailable as error:
            failure = error
            left.extend(homes[home])

    await over_shards([home for home in homes if home is not shard], drop_in)
    return left, failure


async def drop_if_unused(store: Store, target: Shard, job_id: str) -> bool:
    """Drop an alias that leads to ``target`` if its claim has lapsed and there is nothing.

    The claim is read first. While it is older than ``IN_FLIGHT_MS`` no request can store a job in
    ``target`` any more, so nothing that is absent now appears before the drop. The drop compares
    the claim's age once more.

    Returns:
        Whether the alias is gone.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    home = store.keys.shard_of_id(job_id)
    call = store.redis.call
    claimed: Any = await call(home.slot, "ZSCORE", home.alias_claims, job_id, idempotent=True)
    seconds, micros = cast(list[bytes], await call(home.slot, "TIME", idempotent=True))
    age_ms = int(seconds) * 1000 + int(micros) // 1000 - int(claimed or 0)
    if age_ms < IN_FLIGHT_MS or await _fate(store, target, job_id) != "drop":
        return False
    return bool(await _settle(store, home, [_Settled(job_id, "drop", target)], IN_FLIGHT_MS))


async def check_old_claims(store: Store, shard: Shard, limit: int) -> int:
    """Drop aliases of ``shard`` whose job was never stored; returns how many were looked at.

    One that leads to its own shard has kept a late job out (see ``unique``), or is an id reserved
    by a transaction that is still to be settled. One that cannot be looked at now keeps no other
    waiting.
    """
    ids = await store.run(
        shard, "entries_older_than", [shard.alias_claims], [_OLD_CLAIM_MS, limit], idempotent=True
    )
    settled: list[_Settled] = []

    async def look(raw: bytes) -> None:
        job_id = raw.decode()
        target, transaction = await _alias(store, shard, job_id)
        home = shard if target is None else store.keys.shard(int(target))
        try:
            if transaction is not None:
                await transactions.clear(store, shard, transaction, [job_id])
                return
            fate: _Fate = "keep"
            if target is not None:
                fate = "drop" if home is shard else await _fate(store, home, job_id)
        except OJSError as error:
            log.warning("alias %s cannot be settled", job_id, exc_info=error)
            fate = "later"
        settled.append(_Settled(job_id, fate, home))

    await over_shards(ids, look)
    for portion in _portions(settled):
        await _settle(store, shard, portion, _OLD_CLAIM_MS)
    return len(ids)


async def _fate(store: Store, home: Shard, job_id: str) -> _Fate:
    """What becomes of an alias, by what its id meets in the shard where it leads."""
    found: Any = await store.redis.call(
        home.slot,
        *("HMGET", home.job(job_id), f.ALIAS, f.STATE, f.QUEUE, f.TYPE),
        idempotent=True,
    )
    if any(found[1:]):
        return "keep"  # a malformed job may lack one of these
    # A reservation or a fence has a claim of its own there: it goes, or a job takes its place.
    return "drop" if found[0] is None else "later"


async def _alias(store: Store, shard: Shard, job_id: str) -> tuple[bytes | None, str | None]:
    """Where an alias leads, and the transaction that has reserved its id."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(job_id), f.ALIAS, f.TRANSACTION, idempotent=True
    )
    return found[0], None if found[1] is None else found[1].decode()


@dataclass(frozen=True, slots=True)
class _Settled:
    """What becomes of an alias, as long as it leads to ``target``."""

    job_id: str
    fate: _Fate
    target: Shard


async def _settle(store: Store, home: Shard, settled: Sequence[_Settled], age_ms: int) -> int:
    """Run ``settle_alias.lua`` for aliases of ``home``; returns how many were removed."""
    args: list[Arg] = [age_ms]
    for one in settled:
        args += (one.job_id, one.fate, one.target.index)
    keys = [home.alias_claims, *(home.job(one.job_id) for one in settled)]
    return int(await store.run(home, "settle_alias", keys, args, idempotent=True))


def _portions(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[at : at + _PORTION] for at in range(0, len(items), _PORTION)]
