"""Compare the layout of the data with what this version can serve.

The first process that uses a Redis records the layout. Every later process compares the record at
its start, and every few seconds while it runs. A process that cannot serve the data does not start,
or drains and ends.

The record is stored under the meta tag. Each shard keeps a copy, so that a process can start while
the master of the meta tag is unreachable.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.errors import RedisReplyError
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.layout_record import LayoutRecord
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.operators.migrations.unnumbered import read_unread

if TYPE_CHECKING:
    from ojs_cluster.store.context import Store

log = logging.getLogger("ojs.store")

REPORT_S = 5.0
"""Time in seconds between two reports of a process. A migration waits until no process has reported
for ``execution.GRACE_MS`` that it cannot serve the new layout."""
_REMOVED_MS = 30 * 86_400_000
"""Time in ms for which data that only an earlier version reads stays, so that you can go back."""
_PATIENCE_S = 2.0
"""Time in seconds to wait for the record before the copies are read, and then for the copies."""


class UnusableBackend(Exception):
    """Redis answers, but is not usable in its current state; the message says what to change."""


async def check_layout(store: Store, shards: int) -> None:
    """Compare the layout of the data with that of this server; record it when there is none.

    Args:
        store: the store.
        shards: the number of shards that this server is configured for.

    Raises:
        UnusableBackend: the data has another number of shards, or a layout that this version cannot
            serve, or a version before 0.1 has written to it.
        BackendUnavailable: the record and all its copies are unreadable.
    """
    record: list[LayoutRecord] = []
    copies: list[LayoutRecord] = []
    failure: BackendUnavailable | None = None

    async with trio.open_nursery() as nursery:

        async def read_copies_late() -> None:
            if store.redis.is_responsive(store.keys.meta.slot):
                await trio.sleep(_PATIENCE_S)
            copies.extend(await _read_copies(store))
            if copies:
                nursery.cancel_scope.cancel()

        nursery.start_soon(read_copies_late)
        keys, args = [store.keys.meta.schema], [store.layout.layouts.written, shards]
        try:
            record.append(_record_of(await store.run_meta("schema", keys, args)))
            nursery.cancel_scope.cancel()
        except BackendUnavailable as error:
            failure = error
    if record:
        _compare(store, record[0], shards)
        await _refuse_unnumbered(store)
        store.layout.record = record[0]
        await store.background.once("schema", partial(_write_copies, store, record[0]), 0)
        await store.background.once("removed data", partial(_expire_removed_data, store), 0)
        return
    if not copies:
        raise BackendUnavailable(
            "the layout of the data cannot be read", outcome="not_applied"
        ) from failure
    log.warning(
        "the master of the meta tag is unreachable; the layout comes from copies in %d shards",
        len(copies),
    )
    for copy in copies:
        _compare(store, copy, shards)
    await _refuse_unnumbered(store)
    store.layout.record = max(copies, key=lambda copy: copy.version)


async def report(store: Store) -> LayoutRecord | None:
    """Read the record, and note in it that a process with this version's layouts runs.

    Returns:
        The record; None when somebody has deleted it.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    keys, args = [store.keys.meta.schema], [store.layout.layouts.newest]
    reply: Any = await store.run_meta("layout_report", keys, args)
    try:
        record = LayoutRecord.from_fields(dict(zip(reply[::2], reply[1::2], strict=True)))
    except KeyError:
        return None
    store.layout.record = record
    return record


async def wait_until_outdated(store: Store) -> UnusableBackend:
    """Report every few seconds, until the data has a layout that this version cannot serve.

    While Redis does not answer, the process goes on: no migration can begin then. A shard that did
    not answer at the start is read when it does.

    Returns:
        The reason why this process must end.
    """
    while True:
        with suppress(BackendUnavailable, RedisReplyError):
            record = await report(store)
            if record is not None and not store.layout.layouts.can_serve(record):
                return _newer_or_older(store, record)
            if store.layout.unread and (reason := await _find_unnumbered(store)):
                return reason
        await trio.sleep(REPORT_S)


async def raise_copy(
    store: Store, tag: Shard | Meta, record: LayoutRecord, stamp: int = 0, loss: str = ""
) -> None:
    """Write the copy of one shard, or the record that the meta tag has lost, unless it is as new.

    Args:
        store: the store.
        tag: the shard, or the meta tag.
        record: what the copy has at least.
        stamp: the stamp that the tag has at least (``operations/losses.py``), 0 for none.
        loss: the loss to record if the stamp is new; empty for none.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    args: list[Arg] = [record.version, len(store.keys), record.oldest, stamp, loss]
    script = store.scripts["layout_raise"]
    await store.redis.script(tag.slot, script, [tag.schema], args, idempotent=True)


def _compare(store: Store, record: LayoutRecord, shards: int) -> None:
    if not store.layout.layouts.can_serve(record):
        raise _newer_or_older(store, record)
    if record.shards != shards:
        raise UnusableBackend(
            f"the data in Redis is laid out over {record.shards} shards, but OJS_SHARDS is "
            f"{shards}: set OJS_SHARDS={record.shards} (the first start fixes the number of shards)"
        )


async def _refuse_unnumbered(store: Store) -> None:
    store.layout.unread = [*store.keys, store.keys.meta]
    if reason := await _find_unnumbered(store):
        raise reason


async def _find_unnumbered(store: Store) -> UnusableBackend | None:
    name = await read_unread(store)
    if not name:
        return None
    return UnusableBackend(
        f"the data in Redis has {name!r} of a development version before 0.1, which this version "
        "does not read: export it with the version that wrote it, and import it into an empty "
        "Redis (docs/upgrading.md)"
    )


def _newer_or_older(store: Store, record: LayoutRecord) -> UnusableBackend:
    layouts = store.layout.layouts
    if record.version > layouts.newest:
        return UnusableBackend(
            f"the data in Redis has layout {record.version}, and this version serves layouts up to "
            f"{layouts.newest}: run the version that wrote the data, or a later one"
        )
    return UnusableBackend(
        f"the data in Redis has records of layout {record.oldest}, and this version serves layouts "
        f"from {layouts.oldest} on: run the version before this one until its migration is complete"
    )


async def _write_copies(store: Store, record: LayoutRecord) -> None:
    """Write missing copies. An unreachable shard gets its copy when a later process starts."""

    async def copy(shard: Shard) -> None:
        if store.redis.is_responsive(shard.slot):
            await raise_copy(store, shard, record)

    await run_concurrently(store.keys, copy)


async def _expire_removed_data(store: Store) -> None:
    """Let the saved searches of an earlier version expire, which nothing else removes."""
    meta = store.keys.meta
    call = ("PEXPIRE", meta.searches, _REMOVED_MS, "NX")
    await store.redis.call(meta.slot, *call, idempotent=True)


async def _read_copies(store: Store) -> list[LayoutRecord]:
    """Return the record as stored in every shard that answers in time."""
    found: list[LayoutRecord] = []

    async def read_copy(shard: Shard) -> None:
        with suppress(BackendUnavailable):
            names = ("version", "shards", "oldest")
            copy: Any = await store.redis.call(
                shard.slot, "HMGET", shard.schema, *names, idempotent=True
            )
            if None not in copy[:2]:
                found.append(_record_of(copy))

    with trio.move_on_after(_PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for shard in store.keys:
                nursery.start_soon(read_copy, shard)
    return found


def _record_of(values: Any) -> LayoutRecord:
    version, shards, oldest = values
    return LayoutRecord(int(version), int(shards), int(oldest or version))
