"""Carry out migrations: the leader of the meta tag runs a small step at a time.

The position is stored after each step, so the next leader continues where this one has stopped. A
step that a crash repeats finds records that have the new layout already, and leaves them alone.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Final

from ojs_cluster.keys import META, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.fanout import run_concurrently
from ojs_cluster.store.ground.process_state.layout_record import LayoutRecord
from ojs_cluster.store.ground.process_state.migration import Migration, MigrationStep
from ojs_cluster.store.ground.runtime import Arg
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.store.operators.migrations.layout import raise_copy, report

log = logging.getLogger("ojs.store")

GRACE_MS: Final = 30_000
"""Time in ms for which no process of an earlier version may have reported. It is six times the
pause between two reports."""
_LONGEST_PAUSE_MS: Final = 15_000
"""Longest time in ms between two attempts to begin, so that the grace period counts on."""
_ATTEMPT_MS: Final = 5000
_COPIES: Final = 0
_FINISHED: Final = -1


async def migrate(store: Store, *, may_begin: bool = True, grace_ms: int = GRACE_MS) -> SweepResult:
    """Run one step of the migration that runs, or try to begin the next one.

    Args:
        store: the store.
        may_begin: whether a migration may begin. One that runs is always continued.
        grace_ms: see ``GRACE_MS``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    record = await report(store)
    if record is None:
        return SweepResult.with_pause(0, None)
    if record.is_migrating:
        migration = store.layout.layouts.migration_to(record.version)
        if migration is None:  # this version reads the layout, and a later version migrates
            return SweepResult.with_pause(0, None)
        changed = await _continue(store, record, migration)
        return SweepResult.with_pause(changed, 0)
    migration = store.layout.layouts.migration_to(record.version + 1)
    if migration is None or not may_begin:
        return SweepResult.with_pause(0, None)
    args = [migration.layout, grace_ms, _LONGEST_PAUSE_MS]
    left_ms = int(await store.run_meta("migration_begin", [store.keys.meta.schema], args))
    if left_ms > 0:
        return SweepResult.with_pause(0, min(left_ms, _ATTEMPT_MS))
    log.info("migration to layout %d has begun: %s", migration.layout, migration.name)
    return SweepResult.with_pause(1, 0)


async def _continue(store: Store, record: LayoutRecord, migration: Migration) -> int:
    """Run one step at the recorded position; return how many records it has changed."""
    if record.position == _COPIES:
        await run_concurrently(store.keys, lambda shard: raise_copy(store, shard, record))
        step = MigrationStep(None, 0)
    else:
        tags = tuple(chain(range(len(store.keys)), [META]))
        tag = store.keys.shard_or_meta(tags[record.position - 1])
        step = await migration.step(store, tag, record.cursor)
    position, cursor = record.position, step.cursor
    if cursor is None:
        position, cursor = position + 1, b""
        if position == len(store.keys) + 2:
            position = _FINISHED
    args: list[Arg] = [record.version, record.position, record.cursor]
    args += [position, cursor, step.changed]
    stored = await store.run_meta(
        "migration_advance", [store.keys.meta.schema], args, idempotent=False
    )
    if stored and position != record.position:
        _log_progress(store, migration, position)
    if stored and position == _FINISHED:
        await _finish_copies(store, migration)
    return max(step.changed, 1)


async def _finish_copies(store: Store, migration: Migration) -> None:
    """Note in the copies that all data has the new layout; a later start does it too."""
    record = LayoutRecord(migration.layout, len(store.keys), migration.layout)

    async def raise_responsive(shard: Shard) -> None:
        if store.redis.is_responsive(shard.slot):
            await raise_copy(store, shard, record)

    await run_concurrently(store.keys, raise_responsive)


def _log_progress(store: Store, migration: Migration, position: int) -> None:
    if position == _FINISHED:
        log.info("migration to layout %d is complete: %s", migration.layout, migration.name)
    else:
        log.info(
            "migration to layout %d: %d of %d parts",
            migration.layout,
            position,
            len(store.keys) + 2,
        )
