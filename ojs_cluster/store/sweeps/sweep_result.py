"""What the scheduler learns from one run on one shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tick:
    """What one run did. Times are ms of the shard's own clock.

    Args:
        done: jobs that changed.
        next_ms: when there is next something to do, None when nothing is under a deadline.
        more: there was more to do than the limit allowed.
        aside: of the jobs that changed, those put aside because no transition can use them.
    """

    done: int
    next_ms: int | None
    now_ms: int
    more: bool
    aside: int = 0
