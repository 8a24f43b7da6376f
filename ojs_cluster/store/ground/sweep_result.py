"""The result of one sweep of one shard."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SweepResult:
    """What one sweep did. Times are Unix milliseconds of the shard's clock.

    Args:
        done: number of jobs or records that changed.
        next_ms: time at which the next work of the sweep is due, None if no work is planned.
        now_ms: time of the sweep.
        more: whether the sweep reached its limit, so that more work may be due now.
        quarantined: number of jobs or workflows that are malformed.
    """

    done: int
    next_ms: int | None
    now_ms: int
    more: bool
    quarantined: int = 0

    @classmethod
    def with_pause(cls, done: int, pause_ms: int | None, *, more: bool = False) -> SweepResult:
        """Return the result of a sweep that reads no time from Redis.

        Args:
            done: number of jobs or records that changed.
            pause_ms: time until the next sweep in milliseconds; None for the longest pause of the
                loop that runs the sweep.
            more: whether more work may be due now.
        """
        return cls(done, next_ms=pause_ms, now_ms=0, more=more)
