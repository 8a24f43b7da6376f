"""Aliases of client-supplied ids: how they begin, and how they end.

An id that a client chose may name another shard than its queue's. That shard then holds an alias,
claimed before the job is written (see ``enqueue``). When the job goes, its alias goes first: a
crash between the two leaves a job that no id finds and whose removal is still due, and the next
janitor run repeats both.

A producer may claim the id again at any moment of this. An alias that was claimed lately is left
alone, whatever became of its last job: its claim is still listed, and the janitor comes back to it
until it has seen the job, or nothing at all where the alias leads.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

from ojs_cluster.core.errors import Duplicate, OJSError
from ojs_cluster.keys import Shard
from ojs_cluster.store import deals
from ojs_cluster.store import fields as f
from ojs_cluster.store.context import Arg, Store
from ojs_cluster.store.fanout import over_shards

_OLD_CLAIM_MS = 10 * 60_000
"""Twenty times the life of a claim: whoever held it has long been refused."""
_IN_FLIGHT_MS = 60_000
"""Twice the life of a claim: the job of a younger one may be on its way."""

_Fate = Literal["keep", "drop", "later"]


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

        Parameters
        ----------
        ids: with the position of each among the ``of`` jobs of the request.

        Returns the ms (by the clock of the shard that lapses first) before which the jobs must be
        written when claims are good for ``good_ms``; 0 when there are none.

        Raises
        ------
        Duplicate: an id is taken; of several, the first of the request. The others were given back.
        """
        if not ids:
            return 0
        self._name = self._name or os.urandom(8).hex()
        lapses: list[int] = []
        taken: list[tuple[int, str]] = []

        async def claim(item: tuple[str, int]) -> None:
            job_id, index = item
            home = self._store.keys.shard_of_id(job_id)
            keys = [home.job(job_id), home.claims]
            args: list[Arg] = [job_id, shard.index, good_ms, self._name]
            reply = await self._store.run(home, "claim_alias", keys, args, idempotent=True)
            if reply[0] == b"ok":
                lapses.append(int(reply[1]))
                self._mine.add(job_id)
            else:
                taken.append((index, job_id))

        await over_shards(ids, claim)
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
            keys = [home.job(job_id), home.claims]
            await self._store.run(home, "return_alias", keys, [job_id, self._name], idempotent=True)

        given = sorted(self._mine if ids is None else self._mine.intersection(ids))
        self._mine.difference_update(given)
        with suppress(OJSError):
            await over_shards(given, give)


def duplicate_id(job_id: str, index: int, of: int) -> Duplicate:
    """The error that a client's id is taken, by the job at ``index`` ``of`` that many."""
    return Duplicate(
        f"a job with id '{job_id}' already exists",
        field="id",
        existing_job_id=job_id,
        index=index if of > 1 else None,
    )


def at_home(store: Store, shard: Shard, job_id: str) -> bool:
    """Whether the bits of an id name the shard where its job will live."""
    return store.keys.shard_of_id(job_id) is shard


def earliest(*moments: int) -> int:
    """The first of some moments in ms, of which 0 is none."""
    return min((ms for ms in moments if ms), default=0)


async def remove_due(store: Store, shard: Shard, job_id: str) -> bool:
    """Remove a job of ``shard`` whose retention is over, its alias elsewhere first.

    Returns whether the job is gone.
    """
    if store.keys.shard_of_id(job_id) is not shard:
        await _settle(store, job_id, "drop", shard, _IN_FLIGHT_MS)
    reply = await store.run(
        shard,
        "forget",
        [shard.job(job_id), shard.finished, shard.dead, shard.expiring],
        idempotent=True,
    )
    return bool(reply[0] in (b"ok", b"missing"))


async def settle_claims(store: Store, shard: Shard, limit: int) -> int:
    """Drop aliases of ``shard`` whose job was never stored; returns how many were looked at.

    One that leads to its own shard has kept a late job out (see ``unique``), or is an id reserved
    by a deal that is still to be settled.
    """
    ids = await store.run(
        shard, "old_claims", [shard.claims], [_OLD_CLAIM_MS, limit], idempotent=True
    )

    async def look(raw: bytes) -> None:
        job_id = raw.decode()
        target, deal = await _alias(store, shard, job_id)
        if deal is not None:
            await deals.clear(store, shard, deal, [job_id])
        elif target is not None and int(target) == shard.index:
            await _settle(store, job_id, "drop", shard, _OLD_CLAIM_MS, at=shard)
        elif target is not None:
            home = store.keys.shard(int(target))
            await _settle(store, job_id, await _fate(store, home, job_id), home, _OLD_CLAIM_MS)
        else:
            await _settle(store, job_id, "keep", shard, _OLD_CLAIM_MS, at=shard)

    await over_shards(ids, look)
    return len(ids)


async def _fate(store: Store, home: Shard, job_id: str) -> _Fate:
    """What becomes of an alias, by what its id meets in the shard where it leads."""
    found: Any = await store.redis.call(
        home.slot, "HMGET", home.job(job_id), f.STATE, f.ALIAS, idempotent=True
    )
    if found[0] is not None:
        return "keep"
    # A reservation or a fence has a claim of its own there: it goes, or a job takes its place.
    return "drop" if found[1] is None else "later"


async def _alias(store: Store, shard: Shard, job_id: str) -> tuple[bytes | None, str | None]:
    """Where an alias leads, and the deal that has reserved its id."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(job_id), f.ALIAS, f.DEAL, idempotent=True
    )
    return found[0], None if found[1] is None else found[1].decode()


async def _settle(
    store: Store,
    job_id: str,
    how: _Fate,
    target: Shard,
    age_ms: int,
    *,
    at: Shard | None = None,
) -> int:
    home = at or store.keys.shard_of_id(job_id)
    return int(
        await store.run(
            home,
            "settle_alias",
            [home.job(job_id), home.claims],
            [job_id, how, target.index, age_ms],
            idempotent=True,
        )
    )
