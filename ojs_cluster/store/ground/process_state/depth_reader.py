"""Read which queues have jobs, for fetches that name queues of many shards.

A script in each shard was refused: with 64 queues, it cost a fetch twenty times as much as with
one. Instead, plain commands find the queues that may have a job, in one burst for each master. Only
the shards of these queues run a script (``ranked_fetch.read_depths``). Concurrent fetches of the
same queues share a burst that begins after all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Shard
from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task
from ojs_cluster.redis.packed_calls import PackedReads
from ojs_cluster.redis.reply_waiters import Answer
from ojs_cluster.store.ground.runtime import Runtime

UNREACHABLE_S: Final = 5.0
"""Time in seconds for which fetches skip a shard that did not answer."""
BLOCKED: Final = -1
"""Depth of a queue that has only blocked jobs."""
_MAX_PACKED_BYTES: Final = 8 * 1024 * 1024
"""Maximum size in bytes of the packed reads that a process keeps."""


@dataclass(slots=True)
class QueueInShard:
    """A queue in one of its shards, and its depth there without the jobs already planned."""

    shard: Shard
    queue: str
    depth: int


@dataclass(slots=True)
class FilledQueues:
    """The queues that may have a job.

    Attributes:
        queues: the names of such queues by shard, together with others of the same shard.
        doubtful: the shards that refused the read or lost it, which the caller may repeat.
        unanswered: the shards that are skipped, or whose master is silent.
        failure: the failure of a shard; None if each shard has answered or is doubtful.
    """

    queues: dict[Shard, frozenset[str]]
    doubtful: list[Shard]
    unanswered: list[Shard]
    failure: BackendUnavailable | None = None

    def shards_of(self, shards: Sequence[Shard], names: Sequence[str]) -> list[Shard]:
        """Return the shards that may have a job of one of the queues."""
        return [
            shard
            for shard in shards
            if shard in self.queues and not self.queues[shard].isdisjoint(names)
        ]


class _SharedRead:
    """A read for all callers that have asked before it began.

    Attributes:
        answers: the answers; None while there are none, and if the caller that reads was cancelled
            or late.
        done: set at its end.
        following: the next read of the same queues, which begins after this one.
    """

    __slots__ = ("answers", "done", "following")

    def __init__(self) -> None:
        self.answers: list[list[Answer]] | None = None
        self.done = trio.Event()
        self.following: _SharedRead | None = None


class DepthReader:
    """Finds filled queues for the fetches of a process, and remembers unreachable shards."""

    def __init__(self) -> None:
        self._packed: dict[tuple[object, ...], PackedReads] = {}
        self._packed_bytes = 0
        self._running: dict[tuple[PackedReads, ...], _SharedRead] = {}
        self._unreachable_until: dict[Shard, float] = {}

    async def find_filled(
        self, store: Runtime, queues: Mapping[Shard, Sequence[str]], tenant: str = ""
    ) -> FilledQueues:
        """Find the queues that may have a job; a queue that is not returned has none.

        Args:
            store: the runtime.
            queues: the names of the queues by shard.
            tenant: the tenant whose jobs count, '' for all jobs.
        """
        asked = self._reachable(list(queues))
        skipped = [] if len(asked) == len(queues) else list(queues.keys() - set(asked))
        found = FilledQueues({}, [], skipped)
        asked.sort(key=attrgetter("index"))  # so that the order of the queues does not matter
        reads = [self._pack(shard, sorted(queues[shard]), tenant) for shard in asked]
        unreachable = self._unreachable_until
        for shard, answers in zip(asked, await self._read(store, reads), strict=True):
            if answers and not any(answers[1:]):  # an exception is true
                if unreachable:
                    unreachable.pop(shard, None)
            elif _add(found, shard, queues[shard], answers):
                unreachable.pop(shard, None)
            elif store.redis.is_silent(shard.slot):
                found.unanswered.append(shard)
            else:
                found.doubtful.append(shard)
        if found.unanswered:
            message = f"{len(found.unanswered)} of {len(queues)} shards did not answer"
            found.failure = BackendUnavailable(message, outcome="not_applied")
        return found

    async def _read(self, store: Runtime, reads: list[PackedReads]) -> list[list[Answer]]:
        """Read for all concurrent callers with the same queues, after each of them has called."""
        key = tuple(reads)
        while (running := self._running.get(key)) is not None:
            await ensure_task()
            with trio.move_on_at(current_deadline().at) as scope:
                following = running.following
                if following is None:
                    following = running.following = _SharedRead()
                    try:
                        await running.done.wait()
                        return await self._lead(store, key, following)
                    finally:
                        running.following = None  # another one takes over from a cancelled caller
                        following.done.set()
                await following.done.wait()
                if following.answers is not None:
                    return following.answers
            if scope.cancelled_caught:
                return [[] for _ in reads]
        return await self._lead(store, key, _SharedRead())

    async def _lead(
        self, store: Runtime, key: tuple[PackedReads, ...], read: _SharedRead
    ) -> list[list[Answer]]:
        self._running[key] = read
        try:
            answers = await store.redis.read_each(key, with_time=True)
            if trio.current_time() < current_deadline().at:
                read.answers = answers  # otherwise only the time of this caller is over
            return answers
        finally:
            if self._running.get(key) is read:
                del self._running[key]
            read.done.set()

    def _pack(self, shard: Shard, queues: Sequence[str], tenant: str) -> PackedReads:
        """Return commands that read the first due job, and how many of the queues' keys exist.

        A worker names the same queues in each fetch, so the commands are kept.
        """
        key = (shard.index, tenant, *queues)
        packed = self._packed.get(key)
        if packed is None:
            keys = [
                shard.tenant_queue(queue, tenant) if tenant else shard.queue_available(queue)
                for queue in queues
            ]
            keys += map(shard.queue_blocked, queues)
            commands = (
                pack((b"ZRANGE", shard.due, 0, 0, b"WITHSCORES")),
                pack((b"EXISTS", *keys)),
            )
            packed = PackedReads(shard.slot, b"".join(commands), len(commands))
            self._packed_bytes += len(packed.payload)
            if self._packed_bytes > _MAX_PACKED_BYTES:
                self._packed.clear()
                self._packed_bytes = len(packed.payload)
            self._packed[key] = packed
        return packed

    def mark_unreachable(self, shard: Shard) -> None:
        """Skip the shard for ``UNREACHABLE_S`` seconds."""
        self._unreachable_until[shard] = trio.current_time() + UNREACHABLE_S

    def mark_reachable(self, shard: Shard) -> None:
        """Skip the shard no longer."""
        self._unreachable_until.pop(shard, None)

    def any_unreachable(self, shards: Iterable[Shard]) -> bool:
        """Return whether the last call to one of the shards was not answered."""
        return bool(self._unreachable_until) and any(
            shard in self._unreachable_until for shard in shards
        )

    def _reachable(self, shards: list[Shard]) -> list[Shard]:
        """Return the shards to read now; all of them if all are skipped.

        When the time of a shard is over, one fetch tries it. Others skip it until it has answered.
        """
        if not self._unreachable_until:
            return shards
        now = trio.current_time()
        reachable = [s for s in shards if self._unreachable_until.get(s, now) <= now] or shards
        for shard in self._unreachable_until.keys() & reachable:
            self.mark_unreachable(shard)
        return reachable


def _add(found: FilledQueues, shard: Shard, names: Sequence[str], answers: Sequence[Any]) -> bool:
    """Add the queues of a shard by its answers: the time, the first due job, the number of keys.

    Returns:
        Whether the shard has answered.
    """
    if not answers or any(isinstance(answer, Exception) for answer in answers):
        return False
    (seconds, micros), first_due, count = answers
    if count or float(first_due[1]) <= int(seconds) * 1000 + int(micros) // 1000:
        found.queues[shard] = frozenset(names)
    return True
