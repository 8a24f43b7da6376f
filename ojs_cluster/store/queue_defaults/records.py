"""Store the defaults of queues under the meta tag, all in one hash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.queue_defaults import QueueDefaults, changed, decode, encode
from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

MAX_QUEUES: Final = 1000
"""Maximum number of queues with defaults. Every process keeps a copy."""
NONE: Final = QueueDefaults()


def decode_record(queue: str, record: bytes | None) -> QueueDefaults:
    """Return the defaults of a record; none, with a warning, if the record is damaged."""
    if not record:
        return NONE
    try:
        return decode(record)
    except ValueError as error:
        log.warning("the defaults of queue %s are damaged and not used: %s", queue, error)
        return NONE


async def get_defaults(store: Runtime, queue: str) -> QueueDefaults:
    """Return the defaults that an operator has set for a queue.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return decode_record(queue, await _read(store, queue))


async def change_defaults(store: Runtime, queue: str, members: Mapping[str, Any]) -> QueueDefaults:
    """Change the defaults of a queue, also while other clients change others; return them all.

    Args:
        store: the store.
        queue: the queue. It need not exist.
        members: the new value of each member that changes; None to remove it.

    Raises:
        InvalidRequest: a member is not valid, or too many queues have defaults.
        ValidationFailed: a member of the retry policy is not valid.
        BackendUnavailable: Redis did not answer in time.
    """
    return await _write(store, queue, lambda present: changed(present, members))


async def remove_defaults(store: Runtime, queue: str) -> QueueDefaults:
    """Remove the defaults of a queue; return what was removed.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    removed = NONE

    def remove(present: QueueDefaults) -> QueueDefaults:
        nonlocal removed
        if not present.empty:  # else an earlier try may have removed them, and lost the reply
            removed = present
        return NONE

    await _write(store, queue, remove)
    return removed


async def restore_defaults(store: Runtime, queue: str, removed: QueueDefaults) -> None:
    """Set defaults again that were removed, unless the queue has new ones.

    Raises:
        InvalidRequest: too many queues have defaults.
        BackendUnavailable: Redis did not answer in time.
    """
    await _write(store, queue, lambda present: removed if present.empty else present)


async def restore_removed(store: Runtime, queue: str, token: str) -> None:
    """Restore the defaults that a deletion has removed, before its drain is ended.

    Partition 0 has them until the queue is deleted.

    Args:
        store: the store.
        queue: the queue.
        token: the token of the deletion; empty for any deletion.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    shard = store.keys.shard_of_queue(queue)
    found: Any = await store.redis.call(
        *(shard.slot, "HMGET", shard.queue_counters(queue), "deleting", "removed_defaults"),
        idempotent=True,
    )
    deletion, record = found
    if not record or not deletion or (token and deletion.rstrip(b"*") != token.encode()):
        return
    try:
        await restore_defaults(store, queue, decode_record(queue, record))
    except InvalidRequest as error:  # the end of the drain must not fail because of it
        log.warning("the defaults of queue %s are not restored: %s", queue, error.message)


async def _read(store: Runtime, queue: str) -> bytes:
    meta = store.keys.meta
    found: Any = await store.redis.call(
        meta.slot, "HGET", meta.queue_defaults, queue, idempotent=True
    )
    return found or b""


async def _write(
    store: Runtime, queue: str, change: Callable[[QueueDefaults], QueueDefaults]
) -> QueueDefaults:
    meta = store.keys.meta
    while True:
        record = await _read(store, queue)
        wanted = change(decode_record(queue, record))
        packed = b"" if wanted.empty else encode(wanted)
        if packed == record:
            return wanted
        reply = await store.run_meta(
            "write_queue_defaults",
            [meta.queue_defaults],
            [queue, record, packed, MAX_QUEUES, meta.queue_defaults_channel],
        )
        if reply == b"full":
            raise InvalidRequest(
                f"at most {MAX_QUEUES} queues may have defaults of their own", field="default_retry"
            )
        if reply == b"ok":
            return wanted
