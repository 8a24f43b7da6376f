"""Declare a migration, and the layouts that a version of this server can serve."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.ground.process_state.layout_record import LayoutRecord
from ojs_cluster.store.ground.runtime import Runtime


@dataclass(frozen=True, slots=True)
class MigrationStep:
    """The result of one step.

    Args:
        cursor: where the next step of this tag continues; None when the tag is finished.
        changed: how many records the step has changed.
    """

    cursor: bytes | None
    changed: int


MigrateStep = Callable[[Runtime, Shard | Meta, bytes], Awaitable[MigrationStep]]
"""Change at most a few hundred records of one tag, from a cursor on; ``b""`` is the first one.

A step is repeated after a crash, and two leaders may run it at the same time. So its scripts leave
a record alone that has the new layout already."""


@dataclass(frozen=True, slots=True)
class Migration:
    """The way from one layout to the next.

    Args:
        layout: the layout that it makes, from the one before.
        name: what it changes, for logs and operators.
        step: see ``MigrateStep``.
    """

    layout: int
    name: str
    step: MigrateStep


@dataclass(frozen=True, slots=True)
class Layouts:
    """What one version of this server can serve.

    A new layout takes two releases, so that one release back is always possible. The first reads
    it (``newest``), the second writes it (``written``) and has its migration.

    Args:
        oldest: oldest layout of records that this version reads.
        written: layout of an empty cluster, and of the last migration.
        newest: newest layout of records that this version reads.
        migrations: one for each layout after ``oldest`` up to ``written``, in order.

    Raises:
        ValueError: a migration is missing, or the numbers are not in order.
    """

    oldest: int = 1
    written: int = 1
    newest: int = 1
    migrations: tuple[Migration, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.oldest <= self.written <= self.newest:
            raise ValueError("the layouts must be in the order: oldest, written, newest")
        made = [migration.layout for migration in self.migrations]
        if made != list(range(self.oldest + 1, self.written + 1)):
            raise ValueError("each layout after the oldest one needs a migration")

    def can_serve(self, record: LayoutRecord) -> bool:
        """Return whether this version reads every record of the data."""
        return self.oldest <= record.oldest and record.version <= self.newest

    def migration_to(self, layout: int) -> Migration | None:
        """Return the migration that makes a layout, None if this version does not have it."""
        return next((each for each in self.migrations if each.layout == layout), None)


LAYOUTS = Layouts()
"""What this version can serve. No released version has another layout yet."""


@dataclass(slots=True)
class LayoutState:
    """What a process knows about the layout.

    Attributes:
        layouts: what its version can serve.
        record: the record as it was last read. Code that writes a new layout compares its
            ``version``: before the migration begins, earlier versions read what this one writes.
        unread: the tags in which this process has not looked for data without a layout number yet,
            because their masters did not answer.
        is_stamped: whether this process has seen that all tags have a stamp
            (``store/operators/operations/losses.py``).
    """

    layouts: Layouts = LAYOUTS
    record: LayoutRecord = field(default_factory=LayoutRecord)
    unread: Sequence[Shard | Meta] = ()
    is_stamped: bool = False
