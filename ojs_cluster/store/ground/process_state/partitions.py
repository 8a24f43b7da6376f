"""This process's copy of the partition table: the shards that each queue is spread over.

The table lies under the meta tag. It has one entry for the default layout, and one for each queue
with another layout. Each process keeps a copy of all of it. A background task checks every two
seconds whether the table has changed, and reads only the changes. Requests wait for this task only
if the copy is older than four seconds and the master of the meta tag answers.

Operators may give ``MAX_ENTRIES`` queues a layout. Other entries are made by the server, for queues
that are registered: for queues with limits when the default grows, and for queues with jobs in old
partitions. So there are at most as many as queues. The server removes them when they are not
needed. A lowered default gets at most ``MAX_SEPARATED`` of them: it stays open until no more queues
have jobs in its old partitions.

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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from typing import TYPE_CHECKING
from zlib import crc32

import trio

from ojs_cluster.core.errors import BackendUnavailable, InvalidRequest
from ojs_cluster.core.jobs.envelope import NewJob
from ojs_cluster.core.partitions import PartitionLayout
from ojs_cluster.keys import Keyspace, Shard

if TYPE_CHECKING:
    from ojs_cluster.store.ground.runtime import Runtime

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
"""Maximum number of queues to which operators have given a layout."""
NO_ENTRY_LIMIT = 2**53
"""Maximum number of entries for changes that must succeed even when the table is full."""
MAX_SEPARATED = 1000
"""Maximum number of queues that get an entry when old partitions of the default close."""
_PAGE = 500
"""Number of entries or changes that one script reads, in about a millisecond."""
_ONE_PARTITION = PartitionLayout.of_count(1)
_MAX_GROUPS = 256
"""Maximum number of lists of queues whose groups are kept."""
_MAX_ATTEMPTS = 3
"""Number of times that a read of all pages is repeated because entries are missing."""
# Cursors that ``read_partitions.lua`` returns.
_LAST_CHANGE, _MORE_CHANGES, _LAST_PAGE = b"", b"+", b"0"
# Equal entries share one object, because there may be as many entries as queues.
_parsed = lru_cache(maxsize=1000)(PartitionLayout.parse)


@dataclass(slots=True)
class DrainingDefault:
    """A round over all queues after which old partitions of the default may close.

    Args:
        layout: the default layout at the beginning of the round.
        live_counts: queues without an entry that have jobs in old partitions: the number of the
            last such partition, plus 1.
    """

    layout: PartitionLayout
    live_counts: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class GrowingDefault:
    """A round over all queues after which the announced partitions of the default are used.

    Args:
        layout: the default layout at the beginning of the round.
        after: the last queue that was handled, empty for none.
        is_delayed: whether the round waits for a master that does not answer.
    """

    layout: PartitionLayout
    after: bytes = b""
    is_delayed: bool = False


class PartitionTable:
    """This process's copy of the partition table."""

    def __init__(self) -> None:
        """Start with an empty copy; the first use reads the table."""
        self._entries: dict[str, PartitionLayout] = {}
        self._used_default = _ONE_PARTITION
        self._version = b""
        self._clock_ahead_ms = 0.0
        self._read_at = self._next_read_at = self._replaced_at = float("-inf")
        self._is_publisher = self._published = self._unreadable = False
        self.draining: DrainingDefault | None = None
        """The state of a round over all queues, None if no partition of the default may close."""
        self.growing: GrowingDefault | None = None
        """The state of a round over all queues, None if no partition is announced."""
        self._position = 0
        self._groups: dict[tuple[str, ...], list[tuple[list[Shard], list[str]]]] = {}
        """The results of ``group_queues`` for this copy of the table."""

    async def publish_default(self, store: Runtime) -> None:
        """Write this process's configured number of partitions to the table, as the default.

        If the master of the meta tag does not answer, the next successful read does it.
        """
        self._is_publisher = True
        self._next_read_at = float("-inf")
        if store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._refresh, store)
            await store.background.once("partitions", work, _MAX_WAIT_S)

    def is_fresh(self, now: float) -> bool:
        """Return whether ``refresh_if_stale`` has nothing to do at ``now``, in trio's seconds."""
        return now < self._next_read_at and (now - self._read_at < MAX_AGE_S or self._unreadable)

    async def refresh_if_stale(self, store: Runtime) -> None:
        """Read the table again if the last read is ``REFRESH_S`` old.

        Never raises: when the read fails, the last copy stays in use.
        """
        now = trio.current_time()
        if self.is_fresh(now):
            return
        wait = now - self._read_at >= MAX_AGE_S and store.redis.is_responsive(store.keys.meta.slot)
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
        """Read the changes of the table since the last copy, or the table if there is none.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        has_read_pages, attempts = False, 1
        while True:
            began, known = trio.current_time(), self._version
            version, cursor, items, _ = reply = await self._read_part(store, known)
            if items is None:
                self._end_read(began)
                return
            if cursor in (_LAST_CHANGE, _MORE_CHANGES):
                if self._version == known:  # no other task has read changes meanwhile
                    _apply(items, self._entries)
                    self._set_version(version)
                    if cursor == _LAST_CHANGE:
                        self._end_read(began)
                        return
                continue
            entries: dict[str, PartitionLayout] = {}
            _apply(items, entries)
            is_one_page = cursor == _LAST_PAGE
            while cursor != _LAST_PAGE:
                _, cursor, items, _ = reply = await self._read_part(store, known, cursor)
                _apply(items or (), entries)
            # After a failover between two pages, the cursor skips entries of the new master.
            if not is_one_page and len(entries) + 1 != reply[-1] and attempts < _MAX_ATTEMPTS:
                attempts += 1
                continue
            # A reply with an older version is late if its request began before the newer version
            # arrived. Otherwise a failover has lost the newer version, and the older one holds.
            is_older = version and self._version and int(version) < int(self._version)
            if not (is_older and began < self._replaced_at):
                self._entries = entries
                self._set_version(version)
            if is_one_page or has_read_pages:
                self._end_read(began)
                return
            has_read_pages = True  # the table may have changed between two pages

    async def _read_part(
        self, store: Runtime, known: bytes, cursor: bytes = b""
    ) -> tuple[bytes, bytes, list[bytes] | None, int]:
        """Read changes since the version ``known``, or a page of the table.

        Returns:
            The version, the cursor of the next page, entries, and the number of fields of the table
            (see ``read_partitions.lua``). The entries are None if ``known`` is the current version.
            The number is 0 unless a page was read.
        """
        keys = [store.keys.meta.partitions, store.keys.meta.partition_changes]
        now_ms, version, *part = await store.run_meta(
            "read_partitions", keys, [known, _PAGE, cursor]
        )
        # The request was answered before the reply arrived here. So ``now_ms()`` may be behind the
        # master's clock, but never ahead of it: producers must not use a new partition before
        # workers search it.
        self._clock_ahead_ms = now_ms - trio.current_time() * 1000
        if not part:
            return version, b"", None, 0
        next_cursor, items, *field_count = part
        return version, next_cursor, items, field_count[0] if field_count else 0

    def _set_version(self, version: bytes) -> None:
        self._version = version
        self._replaced_at = trio.current_time()
        self._used_default = self.default.without_announcement()
        self._groups.clear()

    def _end_read(self, began: float) -> None:
        self._read_at = max(self._read_at, began)
        self._next_read_at = max(self._next_read_at, began + REFRESH_S)

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
        return self._entries.get(queue, self._used_default)

    def group_queues(
        self, keys: Keyspace, queues: Sequence[str]
    ) -> Sequence[tuple[list[Shard], list[str]]]:
        """Group queues by the shards that workers search for their jobs, in their order.

        Consecutive queues of the same shard form one group. A queue of several partitions is a
        group of its own. A worker names the same queues in each fetch, so the result is kept until
        the table changes. The caller must not change it.
        """
        named = tuple(queues)
        groups = self._groups.get(named)
        if groups is None:
            groups = []
            for queue in dict.fromkeys(named):
                shards = keys.partitions(queue, self.layout(queue).open_count)
                if len(shards) == 1 and groups and groups[-1][0] == shards:
                    groups[-1][1].append(queue)
                else:
                    groups.append((shards, [queue]))
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            self._groups[named] = groups
        return groups

    def entries(self) -> dict[str, PartitionLayout]:
        """Return the last copy of the table."""
        return dict(self._entries)

    def has_entry(self, queue: str) -> bool:
        """Return whether the queue has an entry in the last copy of the table."""
        return queue in self._entries

    @property
    def entry_count(self) -> int:
        """Number of entries in the last copy of the table."""
        return len(self._entries)

    def next_entries(self, count: int) -> dict[str, PartitionLayout]:
        """Return the next ``count`` entries of queues, in turns over all of them."""
        if self._position >= len(self._entries):
            self._position = 0
        found = dict(islice(self._entries.items(), self._position, self._position + count))
        self._position += count
        found.pop(DEFAULT, None)
        return found

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
        refused: list[PartitionLayout | None] = []
        while True:
            await self.read(store)
            entry, old = self._entries.get(queue), self.layout(queue)
            new = change(old, self.now_ms())
            # Each process has all entries in memory. So a queue that can follow the default gets no
            # entry, or loses it.
            can_follow = new.equals_default if entry is None else new.is_replaced_by
            redundant = queue != DEFAULT and can_follow(self.default)
            if (entry is None) if redundant else (new == old):
                return old
            limit = NO_ENTRY_LIMIT if max_entries is None else max_entries
            if max_entries is None and entry is None:
                limit = self._operators_limit()
            status = await self._compare_and_set(
                store, queue, entry, None if redundant else new, limit
            )
            if status == b"full":
                raise _table_full_error()
            if status == b"ok":
                await self.read(store)
                return new
            if refused == [entry]:
                # No change has been read since. A failover may have lost a change of this version,
                # and another change got the same version. So the whole table must be read.
                self._version = b""
            refused = [entry]

    async def pin(self, store: Runtime, queue: str) -> None:
        """Let a queue with limits keep its number of partitions when an announced default grows.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """

        def is_needed() -> bool:
            return self.default.is_announced and queue not in self._entries

        if is_needed():
            await self.update(
                store,
                queue,
                lambda old, now_ms: old.pinned(now_ms) if is_needed() else old,
                max_entries=NO_ENTRY_LIMIT,
            )

    def check_free_entry(self, queue: str) -> None:
        """Check that an operator can give a queue a layout of its own.

        Raises:
            InvalidRequest: ``MAX_ENTRIES`` other queues have one.
        """
        if queue not in self._entries and len(self._entries) >= self._operators_limit():
            raise _table_full_error()

    def _operators_limit(self) -> int:
        """Return the number of entries from which on operators cannot add another one."""
        return MAX_ENTRIES + sum(layout.is_temporary for layout in self._entries.values())

    async def _compare_and_set(
        self,
        store: Runtime,
        queue: str,
        expected: PartitionLayout | None,
        wanted: PartitionLayout | None,
        max_entries: int,
        *,
        if_unused: bool = False,
    ) -> bytes:
        """Replace one entry of the table, None for no entry; return the status of the script.

        Args:
            store: the store.
            queue: the queue's name, ``DEFAULT`` for the default.
            expected: the old entry.
            wanted: the new entry.
            max_entries: maximum number of queues with an entry.
            if_unused: whether to change nothing if any queue is registered.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        meta = store.keys.meta
        [status] = await store.run_meta(
            "compare_and_set_partitions",
            [meta.partitions, meta.partition_changes, meta.queues],
            [
                *(queue, "" if expected is None else expected.pack()),
                *("" if wanted is None else wanted.pack(), max_entries),
                "1" if if_unused else "",
            ],
        )
        return bytes(status)

    async def _publish_default_now(self, store: Runtime) -> None:
        """Write this process's configured number of partitions to the table, as the default.

        API processes do this once. If their configuration differs, the process that started last
        decides. While the table has no default and the number is 1, nothing is written.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        wanted = min(store.settings.queue_partitions, store.keys.max_partitions)
        await self.read(store)
        if DEFAULT not in self._entries and wanted > 1:
            # Without any queue, no copy is missing, so the new number takes effect at once.
            new = PartitionLayout.of_count(wanted)
            await self._compare_and_set(store, DEFAULT, None, new, NO_ENTRY_LIMIT, if_unused=True)
        layout = await self.update(
            store, DEFAULT, lambda old, now_ms: old.announced(wanted, now_ms)
        )
        if layout.is_announced:
            log.info(
                "queues get %d partitions as soon as a scheduler has copied their settings", wanted
            )


def _table_full_error() -> InvalidRequest:
    return InvalidRequest(
        f"at most {MAX_ENTRIES} queues may have a number of partitions of their own",
        field="partitions",
    )


def _apply(items: Sequence[bytes], entries: dict[str, PartitionLayout]) -> None:
    """Write changes to a copy of the table.

    Args:
        items: queues and entries, an empty entry if it was removed.
        entries: the copy.
    """
    pairs = iter(items)
    for queue, text in zip(pairs, pairs, strict=True):
        if text and queue != b"#":
            entries[queue.decode()] = _parsed(text)
        else:
            entries.pop(queue.decode(), None)
