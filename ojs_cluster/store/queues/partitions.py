"""The partition table: which shards a queue is spread over, as this process knows it.

The table has the queues that differ from the default. It is small and lies under the meta tag. Each
process keeps a copy of all of it and asks every two seconds whether it has changed. So a queue of
one partition costs nothing. A background task asks. Requests wait for it only when the copy is
older than four seconds and the master of the meta tag answers.

While that master is away, requests use the copy that was read last. It is still valid, unless the
master is away for this process only. Then a job may arrive late in a partition that has been
closed. The janitor finds such a job in its next round over all queues (see ``retire_queues``). The
first job of a shard is found at once.

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
"""Stands for all queues without an entry of their own. No queue can have this name."""
REFRESH_S = 2.0
"""Time in seconds between two reads of the table."""
MAX_AGE_S = 4.0
"""Age in seconds above which a request waits for a new copy."""
_MAX_WAIT_S = 1.0
"""Longest time in seconds that a request waits for a new copy."""
_NEIGHBOURS = 100
"""Jobs of one queue in a batch that stay together: one script is cheaper than a transaction."""
MAX_ENTRIES = 1000
"""Queues that may be given a number of partitions of their own."""
NO_ENTRY_LIMIT = 2**53
"""For changes that are needed whether or not the table is full."""
_ONE_PARTITION = PartitionLayout.of_count(1)


class PartitionTable:
    """This process's copy of the partition table."""

    def __init__(self) -> None:
        """Start with an empty copy; the first use reads the table."""
        self._entries: dict[str, PartitionLayout] = {}
        self._version = b""
        self._clock_ahead_ms = 0.0
        self._read_at = self._next_read_at = self._replaced_at = float("-inf")
        self._publishes = self._published = self._unreadable = False
        self.draining: PartitionLayout | None = None
        """The default at the start of a round over all queues, if it can shrink then."""

    async def publish_default(self, store: Runtime) -> None:
        """Make the default that this process was configured with the default of all processes.

        While the master of the meta tag is away, the next successful read does it.
        """
        self._publishes = True
        self._next_read_at = float("-inf")
        if store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._refresh, store)
            await store.background.once("partitions", work, _MAX_WAIT_S)

    async def refresh_if_stale(self, store: Runtime) -> None:
        """Read the table again if that is due.

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
        """Read the table now; while the master of the meta tag is silent, keep the last copy.

        For changes of a queue that need its partitions and no other part of the meta tag.
        """
        if store.redis.is_responsive(store.keys.meta.slot):
            with trio.move_on_after(_MAX_WAIT_S), suppress(BackendUnavailable):
                await self.read(store)

    async def _refresh(self, store: Runtime) -> None:
        self._next_read_at = trio.current_time() + REFRESH_S
        try:
            await self.read(store)
            default_lost = DEFAULT not in self._entries and store.settings.queue_partitions > 1
            if self._publishes and (default_lost or not self._published):
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
        now_ms, version, *flat = await store.run_meta(
            "read_partitions", [store.keys.meta.partitions], [self._version]
        )
        # Rounds down, so that this process uses new partitions late rather than early.
        self._clock_ahead_ms = now_ms - trio.current_time() * 1000
        self._read_at = max(self._read_at, began)
        self._next_read_at = max(self._next_read_at, began + REFRESH_S)
        # An older version is a late reply, unless it was requested after the newer one arrived.
        # Then a failover has lost the newer one for all processes.
        older = version and self._version and int(version) < int(self._version)
        late_reply = older and began < self._replaced_at
        if flat and not late_reply:
            items = iter(flat[0])
            self._entries = {
                queue.decode(): PartitionLayout.parse(text)
                for queue, text in zip(items, items, strict=True)
                if queue != b"#"
            }
            self._version = version
            self._replaced_at = trio.current_time()

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
        """Return the shards that may hold anything of the queue; the first is partition 0."""
        await self.refresh_if_stale(store)
        return store.keys.partitions(queue, self.layout(queue).occupied_count)

    def choose_shard(
        self, store: Runtime, queue: str, seed: str | None = None, *, declares_limit: bool = False
    ) -> Shard:
        """Return the shard for a new job, by the last copy of the table.

        Args:
            store: the store.
            queue: the job's queue.
            seed: a text that decides the partition, so that a repeated call chooses the same one.
                Without it the choice is random.
            declares_limit: whether the job declares a limit of the queue. Such jobs belong in
                partition 0.
        """
        shards = self._producer_shards(store, queue)
        if len(shards) == 1 or declares_limit:
            return shards[0]
        if seed is None:
            return random.choice(shards)  # noqa: S311 - to spread, nothing secret
        return shards[crc32(seed.encode()) % len(shards)]

    def choose_shards(self, store: Runtime, jobs: Sequence[NewJob]) -> list[Shard]:
        """Return the shard of each new job, by the last copy of the table.

        A queue's jobs go in groups of neighbours to random partitions.

        A job with a client's id goes to the shard that the id's bits name, if that is one of the
        queue's partitions, and so needs no alias. Jobs that declare a rate limit stay in partition
        0, where their starts are counted together.
        """
        if len(jobs) == 1:
            shards = self._producer_shards(store, jobs[0].queue)
            if len(shards) == 1:
                return shards
        by_queue: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            by_queue.setdefault(job.queue, []).append(index)
        found: dict[int, Shard] = {}
        for queue, indexes in by_queue.items():
            shards = self._producer_shards(store, queue)
            size = max(_NEIGHBOURS, -(-len(indexes) // len(shards)))
            first = random.randrange(len(shards))  # noqa: S311 - to spread, nothing secret
            for place, index in enumerate(indexes):
                found[index] = shards[(first + place // size) % len(shards)]
                job = jobs[index]
                if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
                    found[index] = shards[0]
                elif job.id is not None and len(shards) > 1:
                    owner = store.keys.shard_of_id(job.id)
                    by_id = shards[crc32(job.id.encode()) % len(shards)]
                    found[index] = owner if owner in shards else by_id
        return [found[index] for index in range(len(jobs))]

    def producer_count(self, queue: str) -> int:
        """Return how many partitions of the queue get new jobs, by the last copy of the table."""
        layout = self.layout(queue)
        if layout.count == layout.previous_count:  # the usual case, which needs no clock
            return layout.count
        return layout.producer_count(self.now_ms())

    def _producer_shards(self, store: Runtime, queue: str) -> list[Shard]:
        return store.keys.partitions(queue, self.producer_count(queue))

    async def ensure_open(self, store: Runtime, shard: Shard, queues: Iterable[str]) -> None:
        """Make sure that workers search ``shard`` for jobs of ``queues``.

        Needed before jobs are put into a shard that was chosen earlier.

        Raises:
            BackendUnavailable: Redis did not answer in time, and workers may not search it.
        """
        await self.refresh_if_stale(store)
        for queue in queues:
            number = store.keys.partition_of(queue, shard)
            if number >= self.layout(queue).open_count:
                await self.update(
                    store, queue, partial(_with_open, number + 1), max_entries=NO_ENTRY_LIMIT
                )

    async def update(
        self,
        store: Runtime,
        queue: str,
        how: Callable[[PartitionLayout, int], PartitionLayout],
        *,
        max_entries: int | None = None,
    ) -> PartitionLayout:
        """Compare and set one entry of the table; return the layout that holds then.

        Args:
            store: the store.
            queue: the queue's name, ``DEFAULT`` for the default.
            how: returns the new layout for the old one and the time in Unix milliseconds. Called
                again when another process has changed the entry in between.
            max_entries: queues that may have an entry; None for ``MAX_ENTRIES``.

        Raises:
            InvalidRequest: too many queues have an entry.
            BackendUnavailable: Redis did not answer in time.
        """
        max_entries = MAX_ENTRIES if max_entries is None else max_entries
        while True:
            await self.read(store)
            entry, old = self.entries().get(queue), self.layout(queue)
            new = how(old, self.now_ms())
            # Each process has all entries in memory, so redundant ones are not kept.
            redundant = queue != DEFAULT and new.is_implied_by(self.default)
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
        """Make the default that this process was configured with the default of all processes.

        API processes do this once. Where their configuration differs, the process that started last
        decides. As long as only 1 was configured, nothing is written.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        meta = store.keys.meta
        wanted = min(store.settings.queue_partitions, store.keys.max_partitions)
        await self.read(store)
        if self.default.count == wanted:
            return
        unused = DEFAULT not in self.entries() and not await store.redis.call(
            meta.slot, "ZCARD", meta.queues, idempotent=True
        )
        await self.update(
            store,
            DEFAULT,
            lambda old, now_ms: (
                PartitionLayout.of_count(wanted) if unused else old.resized(wanted, now_ms)
            ),
        )


def _with_open(number: int, layout: PartitionLayout, now_ms: int) -> PartitionLayout:
    return layout.with_open(number, now_ms)
