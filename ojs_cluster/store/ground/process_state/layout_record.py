"""The record of the data's layout: its fields, and what operators see of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayoutRecord:
    """The record under the meta tag.

    Args:
        version: newest layout that a record of the data may have.
        shards: number of shards.
        oldest: oldest layout that a record of the data may have. It is smaller than ``version``
            while a migration runs.
        position: position of the running migration: 0 for the copies in the shards, then one more
            than the index of a shard, then the meta tag.
        cursor: where the migration continues at this position.
        changed: how many records the last migration has changed.
        started_ms: time at which the last migration began, None before the first one.
        finished_ms: time at which it ended, None while it runs.
    """

    version: int = 1
    shards: int = 0
    oldest: int = 1
    position: int = 0
    cursor: bytes = b""
    changed: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> LayoutRecord:
        """Return the record with the fields of its hash.

        A damaged number of a migration counts as absent: it must not stop every process.

        Raises:
            KeyError: the hash has no layout.
            ValueError: the layout or the number of shards is damaged.
        """
        version = int(fields[b"version"])
        return cls(
            version=version,
            shards=int(fields[b"shards"]),
            oldest=_number(fields, b"oldest") or version,
            position=_number(fields, b"position") or 0,
            cursor=fields.get(b"cursor", b""),
            changed=_number(fields, b"changed") or 0,
            started_ms=_number(fields, b"started"),
            finished_ms=_number(fields, b"finished"),
        )

    @property
    def is_migrating(self) -> bool:
        """Whether a migration runs."""
        return self.oldest < self.version

    @property
    def progress(self) -> float:
        """How much of the last migration is done, from 0 to 1."""
        return self.position / (self.shards + 2) if self.is_migrating else 1.0


def _number(fields: Mapping[bytes, bytes], name: bytes) -> int | None:
    try:
        return int(fields[name])
    except (KeyError, ValueError):
        return None
