"""Partitions of hot queues: which shards a queue is spread over, as this process knows it.

The table of all queues that differ from the default is small and lies under the meta tag. Each
process keeps the whole of it and asks every two seconds whether it has changed, so a queue of one
partition costs nothing. A background task asks, and requests wait for it only when what was read is
older than four seconds and the master of the meta tag answers. While that master is away, requests
use the table that was read last. It has not changed, unless the master is away for this process
only: then a job may come late into a partition that was closed meanwhile, which the janitor finds
within its round over all queues (see ``retire_queues``), and at once when it is the first there.

How a change of the number proceeds is in ``core/partitions.py``.
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
from ojs_cluster.core.partitions import Layout
from ojs_cluster.keys import Shard

if TYPE_CHECKING:
    from ojs_cluster.store.runtime import Runtime

log = logging.getLogger("ojs.store")

DEFAULT = ""
"""Stands for all queues without an entry of their own; it is no queue's name."""
READ_S = 2.0
BELIEVED_S = 4.0
_PATIENCE_S = 1.0
_PORTION = 100
"""Jobs of one queue in a batch that stay together: one script is cheaper than a transaction."""
MOST_ENTRIES = 1000
"""Queues that may be given a number of their own."""
NO_LIMIT = 2**53
_ONE = Layout.of(1)


class Partitions:
    """What this process knows of the table."""

    def __init__(self) -> None:
        self._entries: dict[str, Layout] = {}
        self._version = b""
        self._ahead_ms = 0.0
        self._read_at = self._next = self._learned_at = float("-inf")
        self._announces = self._announced = self._away = False
        self.draining: Layout | None = None
        """The default when this process began its round over all queues, if it was draining."""

    async def announce(self, store: Runtime) -> None:
        """Make the default that this process was configured with that of all, now or soon."""
        self._announces = True
        self._next = float("-inf")
        if store.redis.is_responsive(store.keys.meta.slot):
            work = partial(self._refresh, store)
            await store.background.once("partitions", work, _PATIENCE_S)

    async def current(self, store: Runtime) -> None:
        """Have the table read again if that is due. Never raises: what is known has to do then."""
        now = trio.current_time()
        believed = now - self._read_at < BELIEVED_S
        if now < self._next and (believed or self._away):
            return
        wait = not believed and store.redis.is_responsive(store.keys.meta.slot)
        work = partial(self._refresh, store)
        await store.background.once("partitions", work, _PATIENCE_S if wait else 0)

    async def latest(self, store: Runtime) -> None:
        """Read the table now; while the master of the meta tag is silent, keep what is known.

        For changes of a queue that need its partitions and no other part of the meta tag.
        """
        if store.redis.is_responsive(store.keys.meta.slot):
            with trio.move_on_after(_PATIENCE_S), suppress(BackendUnavailable):
                await self.read(store)

    async def _refresh(self, store: Runtime) -> None:
        self._next = trio.current_time() + READ_S
        try:
            await self.read(store)
            lost = DEFAULT not in self._entries and store.settings.queue_partitions > 1
            if self._announces and (lost or not self._announced):
                await self._announce_now(store)
                self._announced = True
        except BackendUnavailable as error:
            if not self._away:
                log.warning("the partition table cannot be read; its last state is used: %s", error)
            self._away = True
        else:
            self._away = False

    async def read(self, store: Runtime) -> None:
        """Read the table now.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        began = trio.current_time()
        now_ms, version, *flat = await store.run_meta(
            "partitions", [store.keys.meta.partitions], [self._version]
        )
        # Late rather than early: new partitions are used when all others know of them.
        self._ahead_ms = now_ms - trio.current_time() * 1000
        self._read_at = max(self._read_at, began)
        self._next = max(self._next, began + READ_S)
        # An older table is an answer that came late, unless it was asked for after the newer one
        # had come: then a failover has forgotten that one, for everybody.
        older = version and self._version and int(version) < int(self._version)
        overtaken = older and began < self._learned_at
        if flat and not overtaken:
            items = iter(flat[0])
            self._entries = {
                queue.decode(): Layout.parse(text)
                for queue, text in zip(items, items, strict=True)
                if queue != b"#"
            }
            self._version = version
            self._learned_at = trio.current_time()

    @property
    def default(self) -> Layout:
        """The partitions of all queues without an entry of their own."""
        return self._entries.get(DEFAULT, _ONE)

    def layout(self, queue: str) -> Layout:
        """A queue's partitions as they were read last."""
        return self._entries.get(queue, self.default)

    def entries(self) -> dict[str, Layout]:
        """The table as it was read last."""
        return dict(self._entries)

    def now_ms(self) -> int:
        """The clock of the meta tag's master, or a little less."""
        return int(trio.current_time() * 1000 + self._ahead_ms)

    async def open(self, store: Runtime, queue: str) -> list[Shard]:
        """The shards where a worker looks for the queue's jobs."""
        await self.current(store)
        return store.keys.partitions(queue, self.layout(queue).open)

    async def held(self, store: Runtime, queue: str) -> list[Shard]:
        """The shards where anything of the queue may be; the first is partition 0."""
        await self.current(store)
        return store.keys.partitions(queue, self.layout(queue).held)

    def place(
        self, store: Runtime, queue: str, chosen: str | None = None, *, counted: bool = False
    ) -> Shard:
        """The shard for a job whose id is fixed now, by what is ``current``.

        Args:
            counted: whether it declares a limit of the queue, and so belongs into partition 0.
            chosen: a text that decides the partition, so that whoever repeats this is led to
                the same one. Without it chance does.
        """
        shards = self._producers(store, queue)
        if len(shards) == 1 or counted:
            return shards[0]
        if chosen is None:
            return random.choice(shards)  # noqa: S311 - to spread, nothing secret
        return shards[crc32(chosen.encode()) % len(shards)]

    def spread(self, store: Runtime, jobs: Sequence[NewJob]) -> list[Shard]:
        """The shard of each new job, by what is ``current``.

        A queue's jobs go in portions of neighbours, to partitions that chance chooses.

        A job with a client's id goes where the id's bits lead when that is one of the queue's
        partitions, and so needs no alias. Jobs that declare a rate limit stay in partition 0,
        where they count together.
        """
        if len(jobs) == 1:
            shards = self._producers(store, jobs[0].queue)
            if len(shards) == 1:
                return shards
        by_queue: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            by_queue.setdefault(job.queue, []).append(index)
        found: dict[int, Shard] = {}
        for queue, indexes in by_queue.items():
            shards = self._producers(store, queue)
            size = max(_PORTION, -(-len(indexes) // len(shards)))
            first = random.randrange(len(shards))  # noqa: S311 - to spread, nothing secret
            for place, index in enumerate(indexes):
                found[index] = shards[(first + place // size) % len(shards)]
                job = jobs[index]
                if job.rate_limit is not None and job.rate_limit.max_per_second is not None:
                    found[index] = shards[0]
                elif job.id is not None and len(shards) > 1:
                    home = store.keys.shard_of_id(job.id)
                    by_id = shards[crc32(job.id.encode()) % len(shards)]
                    found[index] = home if home in shards else by_id
        return [found[index] for index in range(len(jobs))]

    def width(self, queue: str) -> int:
        """How many partitions of the queue get new jobs, by what is ``current``."""
        layout = self.layout(queue)
        if layout.parts == layout.was:  # as nearly always: the time decides nothing
            return layout.parts
        return layout.spread(self.now_ms())

    def _producers(self, store: Runtime, queue: str) -> list[Shard]:
        return store.keys.partitions(queue, self.width(queue))

    async def admit(self, store: Runtime, shard: Shard, queues: Iterable[str]) -> None:
        """Before jobs are put where it was decided earlier: make sure that workers look there.

        Raises:
            BackendUnavailable: they do not, and Redis could not be told in time.
        """
        await self.current(store)
        for queue in queues:
            number = store.keys.partition_of(queue, shard)
            if number >= self.layout(queue).open:
                await self.change(store, queue, partial(_reopened, number + 1), most=NO_LIMIT)

    async def change(
        self,
        store: Runtime,
        queue: str,
        how: Callable[[Layout, int], Layout],
        *,
        most: int | None = None,
    ) -> Layout:
        """Compare and set one entry of the table; returns the layout that holds then.

        Args:
            queue: '' for the default.
            how: makes the new layout from the old one and the ms; called again when others were
                faster.
            most: queues that may have an entry; None for ``MOST_ENTRIES``.

        Raises:
            InvalidRequest: too many queues have an entry.
            BackendUnavailable: Redis did not answer in time.
        """
        most = MOST_ENTRIES if most is None else most
        while True:
            await self.read(store)
            entry, old = self.entries().get(queue), self.layout(queue)
            new = how(old, self.now_ms())
            # Not kept when it says nothing: each process has all entries in memory.
            redundant = queue != DEFAULT and new.says_no_more_than(self.default)
            if (entry is None) if redundant else (new == old):
                return old
            [status] = await store.run_meta(
                "swap_partitions",
                [store.keys.meta.partitions],
                [
                    *(queue, "" if entry is None else entry.pack()),
                    *("" if redundant else new.pack(), most),
                ],
            )
            if status == b"full":
                raise InvalidRequest(
                    f"at most {most} queues may have a number of partitions of their own",
                    field="partitions",
                )
            if status == b"ok":
                await self.read(store)
                return new

    async def _announce_now(self, store: Runtime) -> None:
        """Make the default that this process was configured with the default of all.

        API processes do this once. Where they are configured differently, the one that started
        last is right. Until another number than 1 was configured nothing is written.

        Raises:
            BackendUnavailable: Redis did not answer in time.
        """
        meta = store.keys.meta
        wanted = min(store.settings.queue_partitions, store.keys.most_partitions)
        await self.read(store)
        if self.default.parts == wanted:
            return
        unused = DEFAULT not in self.entries() and not await store.redis.call(
            meta.slot, "ZCARD", meta.queues, idempotent=True
        )
        await self.change(
            store,
            DEFAULT,
            lambda old, now_ms: Layout.of(wanted) if unused else old.changed(wanted, now_ms),
        )


def _reopened(number: int, layout: Layout, now_ms: int) -> Layout:
    return layout.reopened(number, now_ms)
