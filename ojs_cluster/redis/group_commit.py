"""Group commit: scripts whose answers are given only when replicas, or the disks, have the writes.

WAIT and WAITAOF speak of the writes of their own connection and keep it from doing anything else
meanwhile. So those who want to be sure have a connection to each node of their own. Whoever comes
while one group is being confirmed waits for the next: the busier it is, the larger the groups, and
one WAIT serves them all. One WAIT per call would make the replica's round trip the price of each.

A group is its commands, a write of the committer's own (the mark), and WAIT, sent at once. Without
the mark a command that wrote nothing, such as the repetition of one that was not confirmed, would
be confirmed although what it found may still be on one node only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.connection import Arg, Connection, pack
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import Lost, NotSent, RedisReplyError, Signal
from ojs_cluster.redis.reply_waiters import Answer, Held, Reply

MARKS_TRIED: Final = 4
_MARK_WHEN_FULL: Final = b"#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '1')"
"""Writes a mark at ``maxmemory``, where SET alone is refused."""


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """What to wait for after each group, on one node.

    Args:
        replicas: of the node that took the writes, how many must have them; with FSYNC, on
            their disks as on its own.
        timeout_s: how long Redis waits for them, in seconds.
        marks: keys that the node serves now and that may be written to at any time. The first
            is used; the next when that one is refused, because its slot is being moved away.
    """

    durability: Durability
    replicas: int
    timeout_s: float
    marks: Callable[[], Iterator[bytes]]
    command: bytes = field(init=False)

    def __post_init__(self) -> None:
        ms = max(1, round(self.timeout_s * 1000))
        words: tuple[Arg, ...] = (b"WAIT", self.replicas, ms)
        if self.durability is Durability.FSYNC:
            words = (b"WAITAOF", 1, self.replicas, ms)
        object.__setattr__(self, "command", pack(words))

    def reached(self, answer: Answer) -> bool:
        """Whether Redis says that the writes are where they should be."""
        if self.durability is Durability.FSYNC:
            return isinstance(answer, list) and answer[0] >= 1 and answer[1] >= self.replicas
        return isinstance(answer, int) and answer >= self.replicas


class Doubt(Signal):
    """A whole group was answered, and not confirmed."""


class Unconfirmed(Signal):
    """Redis has carried a command out; whether that outlives the node is not known.

    ``reply`` is what it answered.
    """

    def __init__(self, doubt: Signal, reply: Reply) -> None:
        super().__init__(str(doubt))
        self.reply = reply


class _Member:
    """A command of a group, and the caller who sleeps until the group is confirmed."""

    __slots__ = ("asking", "held", "payload", "task")

    def __init__(self, payload: bytes, asking: bool) -> None:
        self.payload = payload
        self.asking = asking
        self.task: Task | None = current_task()
        self.held: Held | None = None

    def abort(self, _raise_cancel: object) -> Abort:
        """Called by trio when the caller is cancelled."""
        self.task = None
        return Abort.SUCCEEDED

    def settle(self, doubt: Signal | None) -> None:
        """Give the caller the reply, or the doubt about it. An error reply changed nothing."""
        answer: Answer
        if self.held is None:
            answer = NotSent("the connection ended")
        elif not self.held.answered:
            answer = doubt if isinstance(doubt, NotSent) else Lost(f"no reply: {doubt}")
        elif doubt is None or isinstance(self.held.answer, Exception):
            answer = self.held.answer
        else:
            answer = Unconfirmed(doubt, self.held.answer)
        task, self.task = self.task, None
        if task is not None:
            reschedule(task, Value(answer))


class Committer:
    """A connection that answers late. To its callers it looks like any other (``Channel``)."""

    def __init__(self, connection: Connection, plan: CommitPlan, max_waiting: int) -> None:
        self._connection = connection
        self._plan = plan
        self._limit = max_waiting
        self._gathering: list[_Member] = []
        self._confirming: list[_Member] = []
        self._wanted = trio.Event()
        self._room = trio.lowlevel.ParkingLot()

    @property
    def open(self) -> bool:
        """Whether commands may be sent."""
        return self._connection.open

    @property
    def full(self) -> bool:
        """Whether as many callers wait as may, or the connection has ended."""
        return len(self._gathering) >= self._limit or not self._connection.open

    @property
    def pending(self) -> int:
        """Commands not answered yet."""
        return len(self._gathering) + len(self._confirming)

    @property
    def silent_s(self) -> float:
        """For how long, in seconds, the node has owed a reply and sent nothing."""
        return self._connection.silent_s

    async def execute(self, payload: bytes) -> Answer:
        """As ``Connection.execute``; a plain reply is given when its group has been confirmed."""
        return await self._join(_Member(payload, asking=False))

    async def execute_asking(self, payload: bytes) -> Answer:
        """``execute`` with ASKING directly before the command."""
        return await self._join(_Member(payload, asking=True))

    async def wait_for_room(self) -> None:
        """Sleep until a group has been sent, or the connection has ended."""
        await self._room.park()

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """Called periodically, as ``Connection.check``."""
        self._connection.check(reply_timeout_s, call_timeout_s)

    async def run(self) -> None:
        """Confirm group after group until the connection ends. Leaves no caller asleep."""
        try:
            while self._connection.open:
                await self._wanted.wait()
                self._wanted = trio.Event()
                await self._confirm_group()
        finally:
            self._connection.close("the client was closed")
            for member in self._confirming:
                member.settle(Lost("the connection ended before the reply"))
            for member in self._gathering:
                member.settle(None)
            self._confirming, self._gathering = [], []
            self._room.unpark_all()

    async def _join(self, member: _Member) -> Answer:
        if not self._connection.open:
            return NotSent("the connection ended")
        self._gathering.append(member)
        self._wanted.set()
        return await wait_task_rescheduled(member.abort)  # type: ignore[no-any-return]

    async def _confirm_group(self) -> None:
        group = [member for member in self._gathering if member.task is not None]
        self._gathering = []
        self._room.unpark_all()
        if not group or not self._connection.open:
            self._gathering = group  # to be told by the caller's end
            return
        self._confirming = group
        for member in group:
            member.held = self._connection.submit(member.payload, asking=member.asking)
        doubt = await self._confirm()
        self._confirming = []
        for member in group:
            member.settle(doubt)

    async def _confirm(self) -> Signal | None:
        """Wait until all that was submitted is confirmed. Returns what speaks against it."""
        full = False
        for mark in islice(self._plan.marks(), MARKS_TRIED):
            marked, answer = await self._mark(mark, full=full)
            if not full and isinstance(marked, RedisReplyError) and marked.code == "OOM":
                full = True
                marked, answer = await self._mark(mark, full=True)
            if isinstance(answer, Signal):
                return answer
            if isinstance(marked, RedisReplyError):
                continue
            if self._plan.reached(answer):
                return None
            wanted = f"{self._plan.durability.name.lower()} durability"
            return Doubt(f"{wanted} was not reached in {self._plan.timeout_s:g} s ({answer!r})")
        return Doubt("nothing could be written that a confirmation would speak of")

    async def _mark(self, mark: bytes, *, full: bool) -> tuple[Answer, Answer]:
        """Write a mark and wait for its confirmation: what Redis answered to each."""
        write: tuple[Arg, ...] = (b"SET", mark, b"1")
        if full:
            write = (b"EVAL", _MARK_WHEN_FULL, 1, mark)
        marked = self._connection.submit(pack(write))
        answer = await self._connection.execute(self._plan.command)
        return marked.answer, answer
