"""How many partitions a queue has, and the way from one number to another.

Nothing tells all processes of a change at one moment, so a change has stages, and each is safe
beside the stage before. Readers look at a new partition at once; producers use it only after
``SPREAD_MS``, when every reader has seen the change. Producers leave an old partition at once;
readers go on looking at it until it is empty, and for ``DRAIN_MS`` at least, when the last producer
that had not seen the change is done.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SPREAD_MS = 10_000
"""Longer than a process believes what it last read (4 s) plus a waiting fetch's own look (5 s)."""
DRAIN_MS = 30_000
"""Longer than a process believes what it last read plus one call to Redis (10 s)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions of a queue.

    Args:
        parts: how many it is to have.
        was: how many producers used before the last change.
        open: how many may hold jobs that workers are to get.
        held: how many may hold anything of it: finished jobs, dead letters, counters, a pause mark.
        at_ms: when it was changed last, by the clock of the meta tag's master.
    """

    parts: int
    was: int
    open: int
    held: int
    at_ms: int

    @classmethod
    def of(cls, parts: int) -> Layout:
        """That many from the beginning."""
        return cls(parts, parts, parts, parts, 0)

    @classmethod
    def parse(cls, text: bytes) -> Layout:
        """The inverse of ``pack``. What a newer version may have added is ignored."""
        return cls(*map(int, text.split()[:5]))

    def pack(self) -> str:
        """As it is stored."""
        return f"{self.parts} {self.was} {self.open} {self.held} {self.at_ms}"

    def spread(self, now_ms: int) -> int:
        """How many producers may use now."""
        return self.parts if self.settled(now_ms) else min(self.was, self.parts)

    def settled(self, now_ms: int) -> bool:
        """Whether every process knows of the last change."""
        return now_ms - self.at_ms >= SPREAD_MS

    def changed(self, parts: int, now_ms: int) -> Layout:
        """With another number of partitions; the same layout when it is the same number."""
        if parts == self.parts:
            return self
        return self._at_least(parts, now_ms, parts)

    def reopened(self, number: int, now_ms: int) -> Layout:
        """With ``number`` partitions open at least: a job is about to be put into the last one."""
        return self._at_least(number, now_ms, self.parts)

    def drained(self, live: int, now_ms: int) -> Layout:
        """After a look at all that are held: no partition from ``live`` on has a waiting or active
        job.

        Also when there are more than were thought to be open: a producer that slept for long may
        have used one that was closed meanwhile.
        """
        if live > self.open:
            return self.reopened(live, now_ms)
        left = max(self.parts, live)
        if left == self.open or now_ms - self.at_ms < DRAIN_MS:
            return self
        # The time is noted so that late jobs are looked for a while longer.
        return replace(self, was=self.parts, open=left, at_ms=now_ms)

    def to_watch(self, now_ms: int) -> bool:
        """Whether partitions may have become empty, or late jobs come into those that were closed
        lately.
        """
        return self.open > self.parts or (
            self.held > self.open and now_ms - self.at_ms < 2 * DRAIN_MS
        )

    def says_no_more_than(self, default: Layout) -> bool:
        """Whether a queue without an entry of its own is treated the same, or will be once the
        default is drained. One that has more open has to say so, before that and after.
        """
        return self.parts == self.was == self.open == default.parts and self.held <= default.held

    def drains(self, now_ms: int) -> bool:
        """Whether partitions are open only until they are found empty, and may be found so."""
        return self.open > self.parts and now_ms - self.at_ms >= DRAIN_MS

    def apart(self, live: int, now_ms: int) -> Layout:
        """As an entry of its own, of a queue with jobs in partitions up to ``live`` of a default
        that is being drained: so that the default need not wait for it.
        """
        return replace(self, was=self.parts, open=max(self.parts, live), at_ms=now_ms)

    def _at_least(self, number: int, now_ms: int, parts: int) -> Layout:
        return Layout(
            parts,
            self.spread(now_ms),
            max(self.open, number),
            max(self.held, number),
            now_ms,
        )
