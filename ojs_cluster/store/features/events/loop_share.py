"""Limits the part of the event loop's time that one kind of work may use."""

from __future__ import annotations

from typing import Final

import trio

_BURST_S: Final = 0.002
"""Time in seconds that the work may use at once, after it has used less than its part."""


class LoopShare:
    """A part of the event loop's time, which several tasks use in turn.

    Requests of the same process keep the rest. (Refused: a checkpoint after each piece of work.
    With many tasks that all have work, a request would get one turn in as many.)
    """

    def __init__(self, part: float) -> None:
        """Limit the work to ``part`` of the time, a number between 0 and 1."""
        self._part = part
        self._paid_until = -float("inf")

    def note(self, seconds: float) -> float:
        """Note that work has used time; return trio's time at which the next work may begin."""
        burst = _BURST_S / self._part
        begin = max(self._paid_until, trio.current_time() - burst)
        self._paid_until = begin + seconds / self._part
        return self._paid_until

    async def spend(self, seconds: float) -> None:
        """Note that work has used time; then wait until more work may begin."""
        until = self.note(seconds)
        if until > trio.current_time():
            await trio.sleep_until(until)
