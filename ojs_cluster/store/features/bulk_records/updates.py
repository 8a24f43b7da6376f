"""Store the progress of a bulk operation, or its end."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Final

import orjson

from ojs_cluster.store.context import Store
from ojs_cluster.store.features.bulk_records.operation import (
    MAX_REASON,
    BulkOperation,
    BulkState,
    DamagedOperation,
)
from ojs_cluster.store.ground.runtime import Arg

log = logging.getLogger("ojs.store")

PAUSE_MS: Final = 5000
"""Milliseconds until an operation continues after Redis has not answered."""


class Superseded(Exception):
    """Another process has continued the operation, or ended it."""


async def update(
    store: Store, operation: BulkOperation, delay_ms: int | None, *, progress: bool = True
) -> BulkOperation:
    """Store the progress of an operation; with a delay of None, its end.

    Args:
        store: the store.
        operation: the operation as it is then.
        delay_ms: milliseconds until the scheduler continues it; None to end it.
        progress: whether the operation has got on, so that earlier failures do not count.

    Raises:
        Superseded: another process has updated the operation.
    """
    position = None if operation.position is None else operation.position.members()
    fields: list[Arg] = [
        *("position", orjson.dumps(position)),
        *("slice", b"" if operation.slice is None else operation.slice.encode()),
        *("examined", operation.examined, "matched", operation.matched),
        *("succeeded", operation.succeeded, "failed", operation.failed),
        *("failures", orjson.dumps(operation.failures)),
    ]
    if progress:
        fields += ["faults", 0, "refusals", 0, "silences", 0]
    if operation.deletion is not None:
        fields += ["walk", operation.walk.encode(), "reason", operation.reason]
    if delay_ms is None:
        fields += ["state", operation.state.value, "reason", operation.reason]
    name = operation.id.encode()
    reply = await _store_fields(store, name, operation.version, delay_ms, fields)
    if reply[0] != b"ok":
        raise Superseded
    operation = replace(operation, version=reply[1].decode())
    operation.known.version = operation.version
    if delay_ms is None:
        return replace(operation, ended_ms=int(reply[2]))
    # An operator may have stopped the operation since it was read.
    return replace(operation, state=BulkState.STOPPING) if reply[3] == b"stopping" else operation


async def end_damaged(store: Store, name: bytes, error: DamagedOperation, version: str = "") -> int:
    """End an operation that cannot get on, such as one whose position is damaged.

    Args:
        store: the store.
        name: its id as stored, which may be damaged.
        error: what is damaged.
        version: the expected version, '' for any.

    Returns:
        When it ended, in Unix milliseconds; 0 if it had ended before, or has another version.
    """
    log.error("bulk operation %s has failed: %s", name.decode(errors="replace"), error)
    fields: list[Arg] = ["state", BulkState.FAILED.value, "reason", str(error)[:MAX_REASON]]
    reply = await _store_fields(store, name, version, None, fields)
    return int(reply[2]) if reply[0] == b"ok" else 0


async def postpone(store: Store, name: bytes, version: str, counter: str) -> int | None:
    """Count a failure, and postpone the operation by ``PAUSE_MS``.

    Args:
        store: the store.
        name: its id as stored.
        version: the expected version, '' for any.
        counter: the field that counts the failures.

    Returns:
        The number of failures; None if another process has updated or ended the operation.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    # A repetition after a lost reply counts the failure twice, which does no harm.
    count = await store.run_meta(
        "bulk_postpone",
        [meta.bulk("") + name, meta.bulk_running],
        [name, version, counter, PAUSE_MS],
    )
    return None if count < 0 else int(count)


async def _store_fields(
    store: Store, name: bytes, version: str, delay_ms: int | None, fields: list[Arg]
) -> Any:
    """Store fields of an operation by ``bulk_update.lua``; return the reply of the script.

    Args:
        store: the store.
        name: its id as stored.
        version: the expected version, '' for any.
        delay_ms: milliseconds until the scheduler continues it; None to end it.
        fields: names and values.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    meta = store.keys.meta
    # Not idempotent: a repetition would find the version that it has written, and report that
    # another process has continued the operation. The outcome of a lost reply is read again.
    return await store.run_meta(
        "bulk_update",
        [meta.bulk("") + name, meta.bulk_running, meta.bulk_ended],
        [
            *(name, version, "" if delay_ms is None else delay_ms),
            *(store.settings.retention_bulk_ms, *fields),
        ],
        idempotent=False,
    )
