"""The number of partitions of a queue, and how it changes safely.

Processes learn of a change at different times. So a change has stages, and a process that knows the
present stage works correctly with a process that knows only the stage before:

* Workers fetch from a new partition at once. Producers use it only after ``PROPAGATION_MS``, when
  every worker has read the change.
* Producers stop using an old partition at once. Workers fetch from it until it is empty, and for at
  least ``DRAIN_MS``. After that time no producer uses it any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PROPAGATION_MS = 10_000
"""Time in ms after which every worker uses a change. It is longer than a process uses its last read
of the partition table (4 s) plus one round of a waiting fetch (5 s)."""
DRAIN_MS = 30_000
"""Time in ms after which no producer uses the numbers before a change. It is longer than a process
uses its last read of the partition table (4 s) plus one call to Redis (10 s)."""


@dataclass(frozen=True, slots=True)
class PartitionLayout:
    """The partitions of a queue.

    Args:
        count: number of partitions that the queue will have after the change.
        previous_count: number of partitions that producers used before the last change.
        open_count: number of partitions from which workers fetch.
        occupied_count: number of partitions that may hold data of the queue: also finished jobs,
            dead letters, counters, the pause flag.
        changed_at_ms: Unix time of the last change in ms, by the clock of the meta tag's master.
    """

    count: int
    previous_count: int
    open_count: int
    occupied_count: int
    changed_at_ms: int

    @classmethod
    def of_count(cls, count: int) -> PartitionLayout:
        """Return the layout of a queue that has had ``count`` partitions from the beginning."""
        return cls(count, count, count, count, 0)

    @classmethod
    def parse(cls, text: bytes) -> PartitionLayout:
        """Return the layout that ``pack`` has written.

        Fields that a newer version may have added are ignored.
        """
        return cls(*map(int, text.split()[:5]))

    def pack(self) -> str:
        """Return the stored form: the five fields, separated by blanks."""
        return (
            f"{self.count} {self.previous_count} {self.open_count} {self.occupied_count} "
            f"{self.changed_at_ms}"
        )

    def producer_count(self, now_ms: int) -> int:
        """Return how many partitions producers may use now."""
        return self.count if self.is_propagated(now_ms) else min(self.previous_count, self.count)

    def is_propagated(self, now_ms: int) -> bool:
        """Return whether every process has read the last change."""
        return now_ms - self.changed_at_ms >= PROPAGATION_MS

    def resized(self, count: int, now_ms: int) -> PartitionLayout:
        """Return the layout with another number of partitions.

        If the number is the same, the layout is unchanged.
        """
        if count == self.count:
            return self
        return self._grown_to(count, now_ms, count)

    def with_open(self, number: int, now_ms: int) -> PartitionLayout:
        """Return the layout with at least ``number`` open partitions.

        This must happen before a job is stored in a partition that may be closed.
        """
        return self._grown_to(number, now_ms, self.count)

    def after_live_check(self, live_count: int, now_ms: int) -> PartitionLayout:
        """Return the layout after a check of all occupied partitions for live jobs.

        A partition is closed when it is empty and ``DRAIN_MS`` have passed. Partitions are opened
        when there are live jobs beyond the open ones: a producer that was suspended for long may
        have used a partition that was closed in between.

        Args:
            live_count: no partition from this number on has a waiting or active job.
            now_ms: the time in Unix milliseconds.
        """
        if live_count > self.open_count:
            return self.with_open(live_count, now_ms)
        open_count = max(self.count, live_count)
        if open_count == self.open_count or now_ms - self.changed_at_ms < DRAIN_MS:
            return self
        # With the new time, `needs_check` stays true for another 2 * DRAIN_MS, because late jobs
        # may still arrive.
        return replace(self, previous_count=self.count, open_count=open_count, changed_at_ms=now_ms)

    def needs_check(self, now_ms: int) -> bool:
        """Return whether old partitions may have become empty.

        True also for a while after partitions were closed, because late jobs may still arrive.
        """
        return self.open_count > self.count or (
            self.occupied_count > self.open_count and now_ms - self.changed_at_ms < 2 * DRAIN_MS
        )

    def is_implied_by(self, default: PartitionLayout) -> bool:
        """Return whether a queue without an entry of its own is treated the same.

        That includes a queue that will be treated the same once the default is drained. A queue
        with more open partitions needs its own entry, both before that and after.
        """
        return (
            self.count == self.previous_count == self.open_count == default.count
            and self.occupied_count <= default.occupied_count
        )

    def can_shrink(self, now_ms: int) -> bool:
        """Return whether partitions are open only until they are empty, and may be closed now."""
        return self.open_count > self.count and now_ms - self.changed_at_ms >= DRAIN_MS

    def as_own_entry(self, live_count: int, now_ms: int) -> PartitionLayout:
        """Return the layout as an entry of its own, taken from a default that is being drained.

        The default then does not have to wait for this queue.

        Args:
            live_count: no partition from this number on has a waiting or active job.
            now_ms: the time in Unix milliseconds.
        """
        return replace(
            self,
            previous_count=self.count,
            open_count=max(self.count, live_count),
            changed_at_ms=now_ms,
        )

    def _grown_to(self, number: int, now_ms: int, count: int) -> PartitionLayout:
        return PartitionLayout(
            count,
            self.producer_count(now_ms),
            max(self.open_count, number),
            max(self.occupied_count, number),
            now_ms,
        )
