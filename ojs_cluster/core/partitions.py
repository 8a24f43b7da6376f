"""The number of partitions of a queue, and how it changes safely.

Processes read a change from the partition table at different times. So a change has two stages, and
processes that know different stages work together correctly:

* More partitions: workers fetch from the new ones at once. Producers use them only after
  ``PROPAGATION_MS``, when every worker has read the change.
* A higher default is announced first. No process uses the new partitions, but each process that
  changes a setting of a queue copies it to them. The janitor then copies the settings of all
  queues, and only after that the default grows (``store/engine/queues/default_growth.py``).
* Fewer partitions: producers stop using the old ones at once. Workers fetch from them until they
  are empty, and for at least ``DRAIN_MS``, when every producer has read the change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

PROPAGATION_MS = 10_000
"""Time in ms after which every worker uses a change. A process uses its copy of the partition table
for up to 4 s, and a waiting fetch reads the copy every 5 s."""
DRAIN_MS = 30_000
"""Time in ms after which no producer uses the old partitions. A process uses its copy of the
partition table for up to 4 s, and a call to Redis takes up to 10 s."""
_CLOCK_STEP_MS = 10_000
"""Time in ms by which the clock may step back, because another master has the meta tag."""


@dataclass(frozen=True, slots=True)
class PartitionLayout:
    """The partitions of a queue.

    Args:
        count: number of partitions that the queue has once its last change is complete.
        previous_count: number of partitions that producers used before the last change. If it is
            above ``open_count``, the change has only been announced, and this is the number of
            partitions that the queue gets. 0 in an entry that the server made for a queue with
            limits, because the default grew (see ``pinned``). Both are forms in which an earlier
            version uses ``count`` partitions.
        open_count: number of partitions from which workers fetch. It is above ``count`` while old
            partitions drain.
        occupied_count: number of partitions that may hold data of the queue: jobs in any state,
            counters, the pause flag.
        changed_at_ms: Unix time of the last change in ms, by the clock of the meta tag's master.
    """

    count: int
    previous_count: int
    open_count: int
    occupied_count: int
    changed_at_ms: int

    @classmethod
    def of_count(cls, count: int) -> PartitionLayout:
        """Return the layout of a queue whose number of partitions has never changed."""
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
        if self.is_pinned:
            return self.count
        return self.count if self.is_propagated(now_ms) else min(self.previous_count, self.count)

    def is_propagated(self, now_ms: int) -> bool:
        """Return whether every process has read the last change."""
        return now_ms - self.changed_at_ms >= PROPAGATION_MS

    @property
    def is_announced(self) -> bool:
        """Return whether more partitions are announced that no process uses yet."""
        return self.previous_count > self.open_count

    @property
    def is_pinned(self) -> bool:
        """Return whether the server made the entry, because the queue has limits."""
        return self.previous_count == 0

    @property
    def is_temporary(self) -> bool:
        """Return whether the server made the entry, or needs it only until partitions close."""
        return self.is_pinned or self.open_count > self.count

    def resized(self, count: int, now_ms: int) -> PartitionLayout:
        """Return the layout with another number of partitions."""
        if count == self.count and self.is_pinned:  # from now on it is the wanted number
            return replace(self, previous_count=count)
        if count == self.count and not self.is_announced:
            return self
        return self._changed(count=count, min_open=count, now_ms=now_ms)

    def reserved(self, count: int, now_ms: int) -> PartitionLayout:
        """Return the layout in which ``count`` partitions get copies of the queue's settings."""
        if count <= self.occupied_count:
            return self
        changed = self._changed(count=self.count, min_open=self.open_count, now_ms=now_ms)
        return replace(changed, occupied_count=count)

    def announced(self, count: int, now_ms: int) -> PartitionLayout:
        """Return the layout that will have ``count`` partitions.

        Fewer partitions, and old ones that are still open, are used without an announcement: they
        have all copies.
        """
        if count <= self.open_count:
            return self.resized(count, now_ms)
        if self.previous_count == count:
            return self
        return PartitionLayout(
            count=self.producer_count(now_ms),
            previous_count=count,
            open_count=self.open_count,
            occupied_count=max(self.occupied_count, count),
            changed_at_ms=now_ms,
        )

    def grown(self, now_ms: int) -> PartitionLayout:
        """Return the layout with the announced partitions, after they have got their copies."""
        return self.resized(self.previous_count, now_ms)

    def pinned(self, now_ms: int) -> PartitionLayout:
        """Return the entry of a queue that keeps its number of partitions when the default grows.

        The limits of a queue are divided among its partitions, so their number must not change.
        """
        changed_at_ms = 0 if self.open_count == self.count else _propagated_ms(now_ms)
        return replace(self, previous_count=0, changed_at_ms=min(self.changed_at_ms, changed_at_ms))

    def without_announcement(self) -> PartitionLayout:
        """Return the layout that holds until the announced partitions are used."""
        return replace(self, previous_count=self.count) if self.is_announced else self

    def with_open(self, min_open: int, now_ms: int) -> PartitionLayout:
        """Return the layout with at least ``min_open`` open partitions.

        The store must write it before it stores a job in a partition that may be closed.
        """
        return self._changed(count=self.count, min_open=min_open, now_ms=now_ms)

    def after_live_check(self, live_count: int, now_ms: int) -> PartitionLayout:
        """Return the layout after a check of all old partitions for waiting or active jobs.

        Empty partitions close when ``DRAIN_MS`` have passed. A closed partition with such a job
        opens again: a producer that was suspended for long may have used it after it had closed.

        Args:
            live_count: number of the last old partition with such a job, plus 1; 0 if none has one.
            now_ms: the time in Unix milliseconds.
        """
        if live_count > self.open_count:
            return self.with_open(live_count, now_ms)
        open_count = max(self.count, live_count)
        if open_count == self.open_count or now_ms - self.changed_at_ms < DRAIN_MS:
            return self
        fewer = replace(self, open_count=open_count)
        return fewer._changed(count=self.count, min_open=0, now_ms=now_ms)

    def needs_check(self, now_ms: int) -> bool:
        """Return whether old partitions must be checked for waiting or active jobs.

        Old partitions that are still open may have become empty. A late producer may have stored a
        job in partitions that closed in the last ``2 * DRAIN_MS``.
        """
        return self.open_count > self.count or (
            self.occupied_count > self.open_count and now_ms - self.changed_at_ms < 2 * DRAIN_MS
        )

    def settled(self, now_ms: int) -> PartitionLayout:
        """Return the layout without the number that producers used before a complete change."""
        is_complete = self.open_count == self.count and self.is_propagated(now_ms)
        if self.is_pinned or self.is_announced or not is_complete:
            return self
        return replace(self, previous_count=self.count)

    def equals_default(self, default: PartitionLayout) -> bool:
        """Return whether the queue uses the same partitions as a queue without an entry."""
        return (
            self.count == self.previous_count == self.open_count == default.count
            and self.occupied_count <= default.occupied_count
        )

    def is_replaced_by(self, default: PartitionLayout) -> bool:
        """Return whether the queue does not need its entry any more.

        It needs the entry while more partitions of the default are announced or old ones drain. The
        default may use these soon, and they may lack the settings of the queue.
        """
        is_stable = default.open_count == default.count and not default.is_announced
        return is_stable and self.equals_default(default)

    def can_close_partitions(self, now_ms: int) -> bool:
        """Return whether old partitions are open that may close as soon as they are empty."""
        drains = self.open_count > self.count and not self.is_announced
        return drains and now_ms - self.changed_at_ms >= DRAIN_MS

    def separated_from_default(self, live_count: int, now_ms: int) -> PartitionLayout:
        """Return a new entry for a queue that has used the default, with its old partitions open.

        The old partitions of the default can then close although this queue has jobs in them.

        Args:
            live_count: see ``after_live_check``.
            now_ms: the time in Unix milliseconds.
        """
        return replace(
            self,
            previous_count=self.count,
            open_count=max(self.count, live_count),
            changed_at_ms=now_ms,
        )

    def _changed(self, *, count: int, min_open: int, now_ms: int) -> PartitionLayout:
        stays_pinned = self.is_pinned and count == self.count
        return PartitionLayout(
            count=count,
            previous_count=0 if stays_pinned else self.producer_count(now_ms),
            open_count=max(self.open_count, min_open),
            occupied_count=max(self.occupied_count, min_open),
            changed_at_ms=_propagated_ms(now_ms) if stays_pinned else now_ms,
        )


def _propagated_ms(now_ms: int) -> int:
    """Return the time in ms of a change of a pinned queue.

    An earlier version uses ``previous_count``, which is 0, until the change is propagated.
    """
    return now_ms - PROPAGATION_MS - _CLOCK_STEP_MS
