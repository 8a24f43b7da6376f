"""The result of one sweep of one shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep did. Times are milliseconds of the shard's own clock.

    Args:
        done: jobs or records that changed.
        next_ms: when the shard's next work is due, None when none is planned.
        now_ms: when the sweep ran.
        more: whether work was left over because of the limit.
        quarantined: of the changed jobs, those that are malformed.
    """

    done: int
    next_ms: int | None
    now_ms: int
    more: bool
    quarantined: int = 0
