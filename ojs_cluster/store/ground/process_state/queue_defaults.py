"""Store the defaults of queues under the meta tag, all in one hash."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.queue_defaults import QueueDefaults, changed, decode, encode
from ojs_cluster.keys import Meta
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.ground.versioned_table import VersionedHash

log = logging.getLogger("ojs.store")

MAX_QUEUES: Final = 1000
"""Maximum number of queues with defaults. Every process keeps a copy."""
NONE: Final = QueueDefaults()
DEFAULTS: Final = VersionedHash("the defaults of queue", Meta().queue_defaults, decode)


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
    return decode_record(queue, await read_record(store, queue))


async def check_space(store: Runtime, queue: str) -> None:
    """Check that a queue can get defaults of its own.

    Raises:
        InvalidRequest: ``MAX_QUEUES`` other queues have some.
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    # One of the fields is the version of all records.
    fields: Any = await store.redis.call(meta.slot, "HLEN", meta.queue_defaults, idempotent=True)
    if fields > MAX_QUEUES and not await read_record(store, queue):
        raise _too_many_error()


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


async def remove_record(store: Runtime, queue: str, record: bytes) -> bool:
    """Remove the defaults of a queue; return False if they are not those of the record any more.

    Args:
        store: the store.
        queue: the queue.
        record: the defaults as ``read_record`` has returned them.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    return await _replace(store, queue, record, b"") == b"ok"


async def restore_removed(store: Runtime, queue: str, removed: bytes) -> None:
    """Restore the defaults that a deletion has removed or still removes, unless there are new ones.

    The restored record differs from the removed one by a space. So a late removal of the deletion
    finds another record, and removes nothing.

    Args:
        store: the store.
        queue: the queue.
        removed: the record that the deletion has stored.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    if decode_record(queue, removed).empty:
        return
    wanted = removed[:-1] if removed.endswith(b" ") else removed + b" "
    while (present := await read_record(store, queue)) in (b"", removed):
        reply = await _replace(store, queue, present, wanted)
        if reply == b"full":  # the end of the drain must not fail because of it
            log.warning("the defaults of queue %s are not restored: too many queues", queue)
        if reply != b"changed":
            return


async def read_record(store: Runtime, queue: str) -> bytes:
    """Return the defaults of a queue as stored, empty for none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    found: Any = await store.redis.call(
        meta.slot, "HGET", meta.queue_defaults, queue, idempotent=True
    )
    return found or b""


def _too_many_error() -> InvalidRequest:
    return InvalidRequest(
        f"at most {MAX_QUEUES} queues may have defaults of their own", field="default_retry"
    )


async def _write(
    store: Runtime, queue: str, change: Callable[[QueueDefaults], QueueDefaults]
) -> QueueDefaults:
    while True:
        record = await read_record(store, queue)
        wanted = change(decode_record(queue, record))
        packed = b"" if wanted.empty else encode(wanted)
        if packed == record:
            return wanted
        reply = await _replace(store, queue, record, packed)
        if reply == b"full":
            raise _too_many_error()
        if reply == b"ok":
            return wanted


async def _replace(store: Runtime, queue: str, record: bytes, wanted: bytes) -> bytes:
    meta = store.keys.meta
    reply: bytes = await store.run_meta(
        "write_record",
        [meta.queue_defaults],
        [queue, record, wanted, MAX_QUEUES, meta.queue_defaults_channel],
    )
    return reply
