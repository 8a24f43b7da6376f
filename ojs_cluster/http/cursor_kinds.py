"""Which entry the cursors of each list name. Two lists with the same order share a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class CursorKind:
    """A list whose cursors name its last shown entry, by the key that the list is sorted by.

    Args:
        name: the name of the list. A cursor of another list is refused.
        types: the types of the parts of a position, in their order.
    """

    name: str
    types: tuple[type[str] | type[int], ...]


QUEUES: Final = CursorKind("queues", (str,))
"""Queues by name."""
RATE_LIMITS: Final = CursorKind("rate limits", (int, str))
"""Rate limit keys by shard and name."""
SCHEMA_TYPES: Final = CursorKind("schema types", (str,))
"""Types with schemas by name."""
SCHEMAS: Final = CursorKind("schemas", (str, str))
"""Schemas by type, newest version first."""
SUBSCRIPTIONS: Final = CursorKind("subscriptions", (int, str))
"""Webhook subscriptions by the Unix time of their creation in ms, and by id."""
ERRORS: Final = CursorKind("errors", (int, str))
"""Groups of errors by the Unix time of the last failure in ms, newest first, and by its job."""
WORKERS_BY_TIME: Final = CursorKind("workers", (int, str))
"""Workers by the Unix time in ms at which they were last seen, newest first, and by id."""
WORKFLOWS: Final = CursorKind("workflows", (int, str))
"""Workflows by the Unix time of their creation in ms, newest first, and by id."""
DEAD_LETTERS: Final = CursorKind("dead letters", (int, str))
"""Dead letters by the Unix time of their discard in ms, newest first, and by id."""
TENANTS: Final = CursorKind("tenants", (int, str))
"""Tenants by the Unix time in ms at which they were last registered, newest first, and by name."""
LOCKS: Final = CursorKind("unique locks", (int, int, str))
"""Unique locks by shard, Unix time of the next check in ms, and fingerprint."""
CRONS: Final = CursorKind("cron jobs", (int, str))
"""Cron jobs by name: first the enabled (0), then the disabled (1)."""
WORKERS_BY_ID: Final = CursorKind("workers by id", (str,))
"""Workers by id."""
