"""This process's copy of the partition table: the shards that each queue is spread over.

The table lies under the meta tag. It has one entry for the default layout, and one for each queue
with another layout. The table is small, so each process keeps a copy of all of it. A background
task checks every two seconds whether the table has changed. Requests wait for this task only if the
copy is older than four seconds and the master of the meta tag answers.

While that master does not answer, requests use the last copy. The copy may be outdated if only this
process cannot reach the master. Then this process may put a job into a partition that has been
closed. If the queue is new in that shard, the script announces the queue, and workers search the
partition again. Otherwise the janitor finds the job in its next round over all queues (see
``retire_queues``).

``core/partitions.py`` describes how the number of partitions changes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import trio

from ojs_cluster.core.errors import BackendUnavailable, InvalidRequest
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Shard

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

DEFAULT = ""
"""Name of the entry for all queues without an entry of their own. No queue can have this name."""
REFRESH_S = 2.0
"""Time in seconds between two reads of the table."""
MAX_AGE_S = 4.0
"""Age in seconds above which a request waits for a new copy."""
_MAX_WAIT_S = 1.0
"""Longest time in seconds that a request waits for a new copy."""
_MIN_GROUP = 100
"""Minimum size of the groups in which a batch is spread over the partitions of a queue.

A batch for one shard needs one script, but a batch over shards needs a cross-shard transaction."""
MAX_ENTRIES = 1000
"""Maximum number of queues with a layout of their own."""
NO_ENTRY_LIMIT = 2**53
"""Maximum number of entries for changes that must succeed even when the table is full."""
_ONE_PARTITION = PartitionLayout.of_count(1)


class PartitionTable:
    """This process's copy of the partition table."""

    def __init__(self) -> None:
        """Start with an empty copy; the first use reads the table."""
        self._entries: dict[str, PartitionLayout] = {}
        self._version = b""
        self._clock_ahead_ms = 0.0
        self._read_at = self._next_read_at = self._replaced_at = float("-inf")
        self._is_publisher = self._published = self._unreadable = False
        self.draining: PartitionLayout | None = None
        """During a round over all queues: the default layout at its start.

        None if no partition of the default may close in this round.
        ``partition_maintenance.begin_round`` sets it."""

    async def publish_default(self, store: Runtime) -> None:
        """Write this process's configured number of partitions to the table, as the default.

        If the master of the meta tag does not answer, the next successful read does it.
        """
        self._is_publisher = True
        self._next_read_at = float("-inf")
        if store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._refresh, store)
            await store.background.once("partitions", work, _MAX_WAIT_S)

    async def refresh_if_stale(self, store: Runtime) -> None:
        """Read the table again if the last read is ``REFRESH_S`` old.

        Never raises: when the read fails, the last copy stays in use.
        """
        now = trio.current_time()
        fresh = now - self._read_at < MAX_AGE_S
        if now < self._next_read_at and (fresh or self._unreadable):
            return
        wait = not fresh and store.redis.is_responsive(store.keys.meta.slot)
        work = partial(self._refresh, store)
        await store.background.once("partitions", work, _MAX_WAIT_S if wait else 0)

    async def try_read(self, store: Runtime) -> None:
        """Read the table now; keep the last copy if the master of the meta tag does not answer.

        For changes of a queue that must work without that master.
        """
        if store.redis.is_responsive(store.keys.meta.slot):
            with trio.move_on_after(_MAX_WAIT_S), suppress(BackendUnavailable):
                await self.read(store)

    async def _refresh(self, store: Runtime) -> None:
        self._next_read_at = trio.current_time() + REFRESH_S
        try:
            await self.read(store)
            default_lost = DEFAULT not in self._entries and store.settings.queue_partitions > 1
            if self._is_publisher and (default_lost or not self._published):
                await self._publish_default_now(store)
                self._published = True
        except BackendUnavailable as error:
            if not self._unreadable:
                log.warning(
                    "cannot read the partition table; its last copy stays in use: %s", error
                )
            self._unreadable = True
        else:
            self._unreadable = False

    async def read(self, store: Runtime) -> None:
        """Read the table now.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        now_ms, version, *changed = await store.run_meta(
            "read_partitions", [store.keys.meta.partitions], [self._version]
        )
        # The request was answered before the reply arrived here. So ``now_ms()`` may be behind the
        # master's clock, but never ahead of it: producers must not use a new partition before
        # workers search it.
        self._clock_ahead_ms = now_ms - trio.current_time() * 1000
        self._read_at = max(self._read_at, began)
        self._next_read_at = max(self._next_read_at, began + REFRESH_S)
        # A reply with an older version is late if its request began before the newer version
        # arrived. Otherwise a failover has lost the newer version, and the older one holds.
        is_older = version and self._version and int(version) < int(self._version)
        is_late_reply = is_older and began < self._replaced_at
        if changed and not is_late_reply:
            items = iter(changed[0])
            self._entries = {
                queue.decode(): PartitionLayout.parse(text)
                for queue, text in zip(items, items, strict=True)
                if queue != b"#"
            }
            self._version = version
            self._replaced_at = trio.current_time()

    @property
    def version(self) -> bytes:
        """The version of the last copy; empty before the first read."""
        return self._version

    @property
    def default(self) -> PartitionLayout:
        """The layout of all queues without an entry of their own."""
        return self._entries.get(DEFAULT, _ONE_PARTITION)

    def layout(self, queue: str) -> PartitionLayout:
        """Return a queue's layout in the last copy."""
        return self._entries.get(queue, self.default)

    def entries(self) -> dict[str, PartitionLayout]:
        """Return the last copy of the table."""
        return dict(self._entries)

    def now_ms(self) -> int:
        """Return the time of the meta tag's master in Unix milliseconds, or slightly less."""
        return int(trio.current_time() * 1000 + self._clock_ahead_ms)

    async def open_shards(self, store: Runtime, queue: str) -> list[Shard]:
        """Return the shards that workers search for the queue's jobs."""
        await self.refresh_if_stale(store)
        return store.keys.partitions(queue, self.layout(queue).open_count)

    async def occupied_shards(self, store: Runtime, queue: str) -> list[Shard]:
        """Return the shards that may hold keys of the queue; the first is partition 0."""
        await self.refresh_if_stale(store)
        return store.keys.partitions(queue, self.layout(queue).occupied_count)

    def choose_shard(
        self, store: Runtime, queue: str, seed: str | None = None, *, declares_limit: bool = False
    ) -> Shard:
        """Return the shard for a new job, from the last copy of the table.

        Args:
            store: the store.
            queue: the job's queue.
            seed: a text that decides the partition, so that a repeated call chooses the same
                partition. None for a random partition.
            declares_limit: whether the job declares a limit of its queue. Such jobs go to partition
                0, which counts their starts.
        """
        shards = self._producer_shards(store, queue)
        if len(shards) == 1 or declares_limit:
            return shards[0]
        if seed is None:
            return random.choice(shards)  # noqa: S311 - to spread, nothing secret
        return shards[crc32(seed.encode()) % len(shards)]

    def choose_shards(self, store: Runtime, jobs: Sequence[NewJob]) -> list[Shard]:
        """Return the shard of each new job, from the last copy of the table.

        Consecutive jobs of a queue form groups, and each group goes to one partition.

        A job with a client's id goes to the owner shard of the id, if that is one of the queue's
        partitions. Then the job needs no alias. Jobs that declare a limit of their queue go to
        partition 0, which counts their starts.
        """
        if len(jobs) == 1:
            shards = self._producer_shards(store, jobs[0].queue)
            if len(shards) == 1:
                return shards
        by_queue: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            by_queue.setdefault(job.queue, []).append(index)
        chosen: dict[int, Shard] = {}
        for queue, indexes in by_queue.items():
            shards = self._producer_shards(store, queue)
            group_size = max(_MIN_GROUP, -(-len(indexes) // len(shards)))  # rounded up
            first = random.randrange(len(shards))  # noqa: S311 - to spread, nothing secret
            for position, index in enumerate(indexes):
                chosen[index] = shards[(first + position // group_size) % len(shards)]
                job = jobs[index]
                if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
                    chosen[index] = shards[0]
                elif job.id is not None and len(shards) > 1:
                    owner = store.keys.shard_of_id(job.id)
                    by_id = shards[crc32(job.id.encode()) % len(shards)]
                    chosen[index] = owner if owner in shards else by_id
        return [chosen[index] for index in range(len(jobs))]

    def producer_count(self, queue: str) -> int:
        """Return how many partitions of the queue get new jobs, from the last copy of the table."""
        layout = self.layout(queue)
        if layout.count == layout.previous_count:  # the usual case, which needs no clock
            return layout.count
        return layout.producer_count(self.now_ms())

    def _producer_shards(self, store: Runtime, queue: str) -> list[Shard]:
        return store.keys.partitions(queue, self.producer_count(queue))

    async def ensure_open(self, store: Runtime, shard: Shard, queues: Iterable[str]) -> None:
        """Make sure that workers search ``shard`` for jobs of ``queues``.

        Call it before jobs are put into a shard that was chosen earlier. The partition may have
        been closed since.

        Raises:
            BackendUnavailable: Redis did not answer in time. Workers may not search the shard.
        """
        await self.refresh_if_stale(store)
        for queue in queues:
            number = store.keys.partition_of(queue, shard)
            if number >= self.layout(queue).open_count:
                await self.update(
                    store, queue, partial(_with_open_count, number + 1), max_entries=NO_ENTRY_LIMIT
                )

    async def update(
        self,
        store: Runtime,
        queue: str,
        change: Callable[[PartitionLayout, int], PartitionLayout],
        *,
        max_entries: int | None = None,
    ) -> PartitionLayout:
        """Compare and set one entry of the table; return the layout that holds then.

        Args:
            store: the store.
            queue: the queue's name, ``DEFAULT`` for the default.
            change: returns the new layout for the old one and the time in Unix milliseconds. It is
                called again when another process has changed the entry in between.
            max_entries: maximum number of queues with an entry; None for ``MAX_ENTRIES``.

        Raises:
            InvalidRequest: the table has ``max_entries`` entries.
            BackendUnavailable: Redis did not answer in time.
        """
        max_entries = MAX_ENTRIES if max_entries is None else max_entries
        while True:
            await self.read(store)
            entry, old = self.entries().get(queue), self.layout(queue)
            new = change(old, self.now_ms())
            # Each process has all entries in memory. So an entry that agrees with the default is
            # removed.
            redundant = queue != DEFAULT and new.equals_default(self.default)
            if (entry is None) if redundant else (new == old):
                return old
            [status] = await store.run_meta(
                "compare_and_set_partitions",
                [store.keys.meta.partitions],
                [
                    *(queue, "" if entry is None else entry.pack()),
                    *("" if redundant else new.pack(), max_entries),
                ],
            )
            if status == b"full":
                raise InvalidRequest(
                    f"at most {max_entries} queues may have a number of partitions of their own",
                    field="partitions",
                )
            if status == b"ok":
                await self.read(store)
                return new

    async def _publish_default_now(self, store: Runtime) -> None:
        """Write this process's configured number of partitions to the table, as the default.

        API processes do this once. If their configuration differs, the process that started last
        decides. While the table has no default and the number is 1, nothing is written.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        meta = store.keys.meta
        wanted = min(store.settings.queue_partitions, store.keys.max_partitions)
        await self.read(store)
        if self.default.count == wanted:
            return
        # Without any queue, the new number can take effect at once.
        has_no_queue = DEFAULT not in self.entries() and not await store.redis.call(
            meta.slot, "ZCARD", meta.queues, idempotent=True
        )
        await self.update(
            store,
            DEFAULT,
            lambda old, now_ms: (
                PartitionLayout.of_count(wanted) if has_no_queue else old.resized(wanted, now_ms)
            ),
        )


def _with_open_count(open_count: int, layout: PartitionLayout, now_ms: int) -> PartitionLayout:
    return layout.with_open(open_count, now_ms)
