"""Tokens of rate limit keys: the protocol between a job's shard and the key's shard (docs/adr/011).

A "key" in this module is a rate limit key. Each step is an effect in an outbox, and each script is
idempotent: a repeated request counts once, a token that is granted twice is taken once, and a token
that no job can use is returned. So a process may die, or a reply be lost, between any two steps.

A token is requested as ``id/number``: the job's id and the number of the job's request.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import deliver
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.sweep_result import SweepResult

_MAX_DEPTH = 8
"""Maximum nesting depth of effects that one call delivers (see ``_deliver_effects``)."""
_MAX_ANSWERED = 100
"""Token requests that one run of ``limit_grant`` handles, at about 20 commands each."""
_MAX_GRANTED = 1000
"""Tokens that one script grants: the same as in ``free_tokens`` (``rate_limit_state.lua``)."""
_MAX_RETURNED = 150
"""Tokens that one run of ``limit_return`` returns, at about 15 commands each."""
_depth: ContextVar[int] = ContextVar("depth", default=0)
"""Nesting depth of the effects that the current task delivers."""


async def handle_request(store: Store, shard: Shard, payload: bytes) -> None:
    """Handle the effect ``token_request``: jobs of ``shard`` request tokens.

    The payload is ``key limits on_limit id/number...`` (see ``limit_request.lua``).
    """
    key, limits, on_limit, *requests = payload.decode().split(" ")
    await run_key_script(store, "limit_request", key, [limits, on_limit, shard.index, *requests])


async def handle_answer(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the effect ``token_answer``: the key's shard grants or refuses tokens.

    The payload is ``shard key answer id/number...``, with the shard of the jobs (see
    ``limit_grant.lua``).
    """
    index, key, answer, *requests = payload.decode().split(" ")
    shard = store.keys.shard(int(index))
    max_answered = store.webhooks.jobs_per_script("limit_grant", _MAX_ANSWERED)
    for start in range(0, len(requests), max_answered):
        portion = requests[start : start + max_answered]
        await _apply_answer(store, shard, key, answer, portion)


async def _apply_answer(
    store: Store, shard: Shard, key: str, answer: str, requests: Sequence[str]
) -> None:
    settings = store.settings
    effects = await store.run(
        shard,
        "limit_grant",
        [
            *(shard.due, shard.expiring, shard.finished, shard.events),
            *(shard.outbox, shard.outbox_due),
        ],
        [store.events_arg, answer, settings.retention_discarded_ms, key, *requests],
        idempotent=True,
    )
    await _deliver_effects(store, shard, effects)


async def handle_return(store: Store, shard: Shard, payload: bytes) -> None:
    """Handle the effect ``token_return``: tokens are returned, or requests are canceled.

    The payload is ``key start_state id/number...`` (see ``limit_free.lua``).
    """
    key, start_state, *requests = payload.decode().split(" ")
    await run_key_script(store, "limit_free", key, [shard.index, start_state, *requests])


async def handle_start(store: Store, shard: Shard, payload: bytes) -> None:
    """Handle the effect ``token_start``: a job has started, so its start must be counted.

    The payload is ``key id/number``.
    """
    key, *requests = payload.decode().split(" ")
    await run_key_script(store, "limit_start", key, [shard.index, *requests])


async def handle_declaration(store: Store, _shard: Shard, payload: bytes) -> None:
    """Handle the effect ``limit_declaration``: a new job declares the limits of its key.

    The payload is ``key limits on_limit created_ms``, with the job's creation time in Unix
    milliseconds.
    """
    key, limits, _, created_ms = payload.decode().split(" ")
    await run_key_script(store, "limit_set", key, ["declare", limits, created_ms])


async def run_key_script(store: Store, name: str, key: str, args: Sequence[Arg]) -> None:
    """Run a script over the state of a rate limit key, and deliver its effects.

    Args:
        store: the store.
        name: the script's name.
        key: the rate limit key.
        args: the script's ARGV from the fourth one on.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_limit(key)
    max_released = store.webhooks.jobs_per_script(name, _MAX_GRANTED)
    effects = await store.run(
        shard,
        name,
        [
            *(shard.rate_limit(key), shard.token_holders(key), shard.token_requesters(key)),
            *(shard.rate_limits, shard.rate_limit_checks),
            *(shard.outbox, shard.outbox_due, shard.events),
        ],
        [store.events_arg, key, max_released, *args],
        idempotent=True,
    )
    await _deliver_effects(store, shard, effects)


async def _deliver_effects(store: Store, shard: Shard, effects: Sequence[bytes]) -> None:
    """Deliver the effects of a script, up to a nesting depth of ``_MAX_DEPTH``.

    Delivering an effect runs a script that may have effects again: a returned token is granted to
    the next job, which may return it as well. So one caller could wait for many steps. Beyond the
    maximum depth the effects stay in the outbox, and the outbox drainer delivers them.
    """
    depth = _depth.get()
    if not effects or depth >= _MAX_DEPTH:
        return
    reset_token = _depth.set(depth + 1)
    try:
        await deliver(store, shard, effects)
    finally:
        _depth.reset(reset_token)


async def return_unused_tokens(store: Store, shard: Shard, limit: int) -> SweepResult:
    """Return tokens whose jobs were not fetched in time.

    Args:
        store: the store.
        shard: the shard of the jobs.
        limit: maximum number of tokens.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    limit = min(limit, _MAX_RETURNED)
    done, now, next_due, effects = await store.run(
        shard,
        "limit_return",
        [shard.token_grants, shard.outbox, shard.outbox_due],
        [limit],
        idempotent=True,
    )
    await _deliver_effects(store, shard, effects)
    return SweepResult(done, None if next_due < 0 else next_due, now, done >= limit)
