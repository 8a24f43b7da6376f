"""A migration for tests: it renames a field of every job."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.script import Script
from ojs_cluster.store.context import Store
from ojs_cluster.store.ground.process_state.layout_record import LayoutRecord
from ojs_cluster.store.ground.process_state.migration import (
    Layouts,
    LayoutState,
    Migration,
    MigrationStep,
)
from ojs_cluster.store.ground.runtime import Runtime
from ojs_cluster.store.operators.migrations.execution import migrate
from tests.store.migrations.scan import scan_keys

BEFORE: Final = b"former_name"
AFTER: Final = b"new_name"
_RENAME = Script(
    "rename",
    b"""
local renamed = {}
for _, job in ipairs(KEYS) do
    local value = redis.call('HGET', job, ARGV[1])
    if value then renamed[job] = value end
end
local changed = 0
for job, value in pairs(renamed) do
    redis.call('HDEL', job, ARGV[1])
    redis.call('HSET', job, ARGV[2], value)
    changed = changed + 1
end
return changed
""",
    has_preflight=True,
)


async def rename(store: Runtime, tag: Shard | Meta, cursor: bytes) -> MigrationStep:
    """Rename the field of a page of jobs."""
    if isinstance(tag, Meta):
        return MigrationStep(None, 0)
    keys, following = await scan_keys(store, tag.slot, tag.prefix + b"j:*", cursor)
    changed = 0
    if keys:
        reply: Any = await store.redis.script(tag.slot, _RENAME, keys, [BEFORE, AFTER])
        changed = int(reply)
    return MigrationStep(following, changed)


RENAME: Final = Migration(2, "rename a field", rename)
EARLIER: Final = Layouts()
READS_BOTH: Final = Layouts(newest=2)
"""The release that comes first: it reads the new layout and writes the old one."""
MIGRATES: Final = Layouts(written=2, newest=2, migrations=(RENAME,))
"""The release after it."""
LATER: Final = Layouts(oldest=2, written=2, newest=2)
"""A release that no longer reads the old layout."""


def of_version(store: Store, layouts: Layouts) -> Store:
    """Return ``store`` for a process of another version."""
    return replace(store, layout=LayoutState(layouts, store.layout.record))


async def migrate_all(store: Store) -> LayoutRecord:
    """Run a migration from where it is to its end, without a grace period."""
    for _ in range(10_000):
        await migrate(store, grace_ms=0)
        record = store.layout.record
        if record.version == RENAME.layout and not record.is_migrating:
            return record
    raise AssertionError(store.layout.record)
