"""The drains of deletions: each has the token of its deletion (``pause_queue.lua``)."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

from ojs_cluster.core.errors import BackendUnavailable, OJSError
from ojs_cluster.redis.deadline import cleaning_up
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.queues.pauses import change_flags, restore_defaults
from ojs_cluster.store.ground.process_state.queue_defaults import read_record


def new_drain_token(now_ms: int) -> str:
    """Return a token for the drain of a new deletion.

    It has the time, so that the janitor can tell the drain of a process that has died.

    Args:
        now_ms: time of a master, in Unix milliseconds.
    """
    return f"{now_ms:x}-{secrets.token_hex(8)}"


async def begin_drain(store: Store, queue: str, token: str, before_ms: int = 0) -> None:
    """Drain a queue for its deletion, and end an earlier deletion by taking over its drain.

    Repeating it with the same token changes nothing. If it fails, it tries to end the drain.

    Args:
        store: the store.
        queue: the queue's name.
        token: a text that no other deletion uses (``new_drain_token``).
        before_ms: as of ``change_flags``.

    Raises:
        TooManyQueues: the queue is new, and the registry of queue names is full.
        BackendUnavailable: Redis did not answer in time, or the time ``before_ms`` has passed.
    """
    try:
        await change_flags(store, queue, "drain", token, before_ms)
    except BackendUnavailable:
        with suppress(OJSError), cleaning_up():
            await end_drain(store, queue, token)
        raise


async def end_drain(store: Store, queue: str, token: str) -> None:
    """End the drain of a deletion, unless an operator or another deletion has taken it over.

    If an operator had drained the queue before the deletion, the queue keeps draining.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    removed = await store.redis.call(
        *(shard.slot, "HEXISTS", shard.queue_counters(queue), "removed_defaults"), idempotent=True
    )
    if removed:
        # They are restored after the drain. While their master is away, the queue keeps draining:
        # without them its new jobs would be retried in another way.
        await read_record(store, queue)
    await change_flags(store, queue, "undrain", token)


async def restore_defaults_of(store: Store, queue: str, token: str) -> None:
    """Restore the defaults that a deletion has removed, if the queue still drains for it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    found: Any = await store.redis.call(
        *(shard.slot, "HMGET", shard.queue_counters(queue), "deleting", "removed_defaults"),
        idempotent=True,
    )
    deletion, removed = found
    owner = token.encode()
    if deletion in (owner, owner + b"*") and removed and removed.startswith(owner + b"|"):
        await restore_defaults(store, queue, removed)
