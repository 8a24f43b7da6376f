"""Make room in full queues for the writes of a process in groups.

If each write of a full queue dropped jobs for itself, concurrent writes would find that the others'
drop was enough, and one of them would take the room: all others would try again. So the writes of a
process that wait for room in the same shard and queue form groups. One drop makes room for a whole
group, and the next group drops when the group has written. Where too few jobs can be dropped for a
group, its writes drop and write one after the other. A drop that finds room ends the waiting: new
writes are tried at once again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task

MAX_JOBS: Final = 50
"""Maximum number of jobs of a group with several writes. One script drops as many."""

Key = tuple[int, str]
"""The index of a shard, and a queue."""
Drop = Callable[[int], Awaitable[tuple[bool, bool]]]
"""Drops jobs until this number of new ones fits; returns whether they fit, and whether it has
dropped any."""


class _Group:
    __slots__ = ("done", "has_room", "jobs", "ready", "turn", "writes")

    def __init__(self) -> None:
        self.jobs = 0
        self.writes = 0
        self.has_room = False
        self.ready = trio.Event()
        """Set when the drop has ended, or has failed."""
        self.done = trio.Event()
        """Set when all writes have left the group."""
        self.turn = trio.Semaphore(1)
        """For the writes of a group without room, one at a time."""


class RoomGroups:
    """The groups of a process, by shard and queue."""

    __slots__ = ("_bounds", "_groups")

    def __init__(self) -> None:
        self._groups: dict[Key, list[_Group]] = {}
        self._bounds: dict[Key, int] = {}

    @property
    def waiting(self) -> bool:
        """Whether any write waits for room, or has room and is not stored yet."""
        return bool(self._groups)

    def bound_of(self, key: Key) -> int:
        """Return the bound of a shard's queue for which writes wait, 0 if none waits."""
        return self._bounds.get(key, 0)

    async def join(
        self, key: Key, jobs: int, bound: int, drop: Drop
    ) -> tuple[Callable[[], None], bool]:
        """Wait until a group has made room for a write.

        Args:
            key: the shard and the queue.
            jobs: the number of new jobs of the write.
            bound: the maximum number of waiting jobs of the queue in the shard.
            drop: makes room.

        Returns:
            A function that the write calls when it has ended, and whether there is room.

        Raises:
            BackendUnavailable: Redis did not answer in time, to this write or to those before it.
        """
        await ensure_task()
        groups = self._groups.setdefault(key, [])
        self._bounds[key] = bound
        # The first group is dropping or writing, so it takes no further writes.
        leads = len(groups) < 2 or groups[-1].jobs + jobs > min(bound, MAX_JOBS)
        if leads:
            groups.append(_Group())
        group, has_turn = groups[-1], False
        group.jobs += jobs
        group.writes += 1

        def leave() -> None:
            group.writes -= 1
            if has_turn:
                group.turn.release()
            if not group.ready.is_set():
                group.jobs -= jobs  # the drop of the group needs no room for a write that has gone
            if not group.writes:
                group.done.set()
                groups.remove(group)
                if not groups:
                    del self._groups[key]
                    self._bounds.pop(key, None)

        try:
            if leads:
                try:
                    if group is not groups[0]:
                        await _until(groups[groups.index(group) - 1].done.wait)
                    group.has_room = await self._make_room(key, group.jobs, drop)
                finally:
                    group.ready.set()
            else:
                await _until(group.ready.wait)
            # A group may need more jobs than are available, or its first write may have failed.
            if not group.has_room and (group.jobs > jobs or not leads):
                await _until(group.turn.acquire)
                has_turn = True
                return leave, await self._make_room(key, jobs, drop)
        except BaseException:
            leave()
            raise
        return leave, group.has_room

    async def _make_room(self, key: Key, jobs: int, drop: Drop) -> bool:
        fits, has_dropped = await drop(jobs)
        if fits and not has_dropped:
            self._bounds.pop(key, None)
        return fits


async def _until(wait: Callable[[], Awaitable[None]]) -> None:
    """Wait until the deadline of the request.

    Raises:
        BackendUnavailable: it has passed.
    """
    with trio.move_on_at(current_deadline().at) as scope:
        await wait()
    if scope.cancelled_caught:
        raise BackendUnavailable(
            "other requests waited too long for room in the queue", outcome="not_applied"
        )
