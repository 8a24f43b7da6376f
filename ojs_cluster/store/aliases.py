"""Aliases of client-supplied ids: how they end.

An id that a client chose may name another shard than its queue's. That shard then holds an alias
(see ``enqueue``). When the job goes, its alias goes first: a crash between the two leaves a job
that no id finds and whose removal is still due, and the next janitor run repeats both.

A producer may claim the id again at any moment of this. An alias that was claimed lately is left
alone, whatever became of its last job: its claim is still listed, and the janitor comes back to it.
"""

from __future__ import annotations

from typing import Any, Literal

from ojs_cluster.keys import Shard
from ojs_cluster.store import deals
from ojs_cluster.store import fields as f
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import over_shards

_OLD_CLAIM_MS = 10 * 60_000
"""Twenty times the life of a claim: whoever held it has long been refused."""
_IN_FLIGHT_MS = 60_000
"""Twice the life of a claim: the job of a younger one may be on its way."""


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
            if not await deals.settle(store, deal):
                await deals.unreserve(store, shard, deal, [job_id])
        elif target is not None and int(target) == shard.index:
            await _settle(store, job_id, "drop", shard, _OLD_CLAIM_MS, at=shard)
        elif target is not None:
            home = store.keys.shard(int(target))
            stored = await store.redis.call(home.slot, "EXISTS", home.job(job_id), idempotent=True)
            await _settle(store, job_id, "keep" if stored else "drop", home, _OLD_CLAIM_MS)
        else:
            await _settle(store, job_id, "keep", shard, _OLD_CLAIM_MS, at=shard)

    await over_shards(ids, look)
    return len(ids)


async def _alias(store: Store, shard: Shard, job_id: str) -> tuple[bytes | None, str | None]:
    """Where an alias leads, and the deal that has reserved its id."""
    found: Any = await store.redis.call(
        shard.slot, "HMGET", shard.job(job_id), f.ALIAS, f.DEAL, idempotent=True
    )
    return found[0], None if found[1] is None else found[1].decode()


async def _settle(
    store: Store,
    job_id: str,
    how: Literal["keep", "drop"],
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
