"""Tokens of rate limit keys: the handshake between a job's shard and its key's (docs/adr/011).

Every step is an effect in an outbox, and every script knows what it has done already: asking twice
is asking once, a token that is offered twice is taken once, and one that nobody can use goes back.
So a process may die, or a reply be lost, between any two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.outbox.outbox import deliver
from ojs_cluster.store.runtime import Arg
from ojs_cluster.store.sweeps.sweep_result import Tick

_DEEPEST = 8
_GRANTED_MOST = 100
"""Asks that one script answers at most, at about 20 commands each."""
_RETURNED_MOST = 150
"""Tokens that one script takes back at most, at about 15 commands each."""
_depth: ContextVar[int] = ContextVar("depth", default=0)


async def asked(store: Store, shard: Shard, payload: bytes) -> None:
    """Effect ``ask``: jobs of ``shard`` want tokens. ``key limits on_limit id/number...``"""
    key, limits, on_limit, *asks = payload.decode().split(" ")
    await run_limit(store, "limit_request", key, [limits, on_limit, shard.index, *asks])


async def granted(store: Store, _shard: Shard, payload: bytes) -> None:
    """Effect ``grant``: the answer to the asks of a shard. ``shard key verdict id/number...``"""
    index, key, verdict, *asks = payload.decode().split(" ")
    shard = store.keys.shard(int(index))
    for start in range(0, len(asks), _GRANTED_MOST):
        portion = asks[start : start + _GRANTED_MOST]
        await _grant(store, shard, key, verdict, portion)


async def _grant(store: Store, shard: Shard, key: str, verdict: str, asks: Sequence[str]) -> None:
    settings = store.settings
    effects = await store.run(
        shard,
        "limit_grant",
        [
            *(shard.due, shard.expiring, shard.finished, shard.events),
            *(shard.outbox, shard.outbox_due),
        ],
        [settings.events_per_shard, verdict, settings.retention_discarded_ms, key, *asks],
        idempotent=True,
    )
    await _onward(store, shard, effects)


async def freed(store: Store, shard: Shard, payload: bytes) -> None:
    """Effect ``tokens``: tokens come back, or are not wanted any more. ``key how id/number...``"""
    key, how, *asks = payload.decode().split(" ")
    await run_limit(store, "limit_free", key, [shard.index, how, *asks])


async def started(store: Store, shard: Shard, payload: bytes) -> None:
    """Effect ``started``: a job has started, and time counts from now on. ``key id/number``"""
    key, *asks = payload.decode().split(" ")
    await run_limit(store, "limit_start", key, [shard.index, *asks])


async def declared(store: Store, _shard: Shard, payload: bytes) -> None:
    """Effect ``limit``: a new job declares its key's limits. ``key limits on_limit ms``"""
    key, limits, _, created_ms = payload.decode().split(" ")
    await run_limit(store, "limit_set", key, ["declare", limits, created_ms])


async def run_limit(store: Store, name: str, key: str, args: Sequence[Arg]) -> None:
    """Run a script over the state of a rate limit key, and carry out what it owes.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_limit(key)
    effects = await store.run(
        shard,
        name,
        [
            *(shard.rate_limit(key), shard.token_holders(key), shard.token_requesters(key)),
            *(
                shard.rate_limits,
                shard.rate_limit_checks,
                shard.outbox,
                shard.outbox_due,
                shard.events,
            ),
        ],
        [store.settings.events_per_shard, key, *args],
        idempotent=True,
    )
    await _onward(store, shard, effects)


async def _onward(store: Store, shard: Shard, effects: Sequence[bytes]) -> None:
    """Carry out what an effect has led to.

    A token that goes back is the next one's: after some of that the rest is left to the drainer, or
    one caller would wait for all who have asked and gone.
    """
    depth = _depth.get()
    if not effects or depth >= _DEEPEST:
        return
    before = _depth.set(depth + 1)
    try:
        await deliver(store, shard, effects)
    finally:
        _depth.reset(before)


async def take_back(store: Store, shard: Shard, limit: int) -> Tick:
    """Give back tokens of jobs that nobody fetched in time.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    limit = min(limit, _RETURNED_MOST)
    done, now, following, effects = await store.run(
        shard,
        "limit_return",
        [shard.token_grants, shard.outbox, shard.outbox_due],
        [limit],
        idempotent=True,
    )
    await _onward(store, shard, effects)
    return Tick(done, None if following < 0 else following, now, done >= limit)
