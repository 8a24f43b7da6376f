"""Group commit: a command is answered only when replicas, or disks, have its writes.

WAIT and WAITAOF wait for the writes of their own connection, and block this connection. So each
node has a separate connection for commands that need a confirmation. Commands that arrive while a
group is being confirmed form the next group. So groups grow with the load, and one WAIT confirms
all commands of a group. One WAIT for each command was refused: it would block the connection for a
round trip to the replica for each command.

The client sends the commands of a group, a write of a probe key, and WAIT together. The probe is
needed because a command may write nothing, for example when it repeats an unconfirmed command.
Without the probe, WAIT would then confirm at once, although the data that the command has read may
exist on one node only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.connection import Arg, RedisConnection, pack
from ojs_cluster.redis.durability import Durability
from ojs_cluster.redis.errors import CommandNotSent, RedisReplyError, ReplyFailure, ReplyLost
from ojs_cluster.redis.reply_waiters import Answer, KeptReply, Reply

MAX_PROBE_KEYS: Final = 4
"""Maximum number of probe keys that a group tries to write."""
_PROBE_AT_MAXMEMORY: Final = b"#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '1')"
"""A script that writes a probe key at ``maxmemory``, where Redis refuses a plain SET."""


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """How the groups of one node are confirmed.

    Attributes:
        durability: REPLICA or FSYNC.
        replicas: how many replicas must have the writes; with FSYNC, on their disks.
        timeout_s: how long Redis waits for these replicas and disks, in seconds.
        probe_keys: returns probe keys whose slots the node serves now. If Redis refuses to write a
            key because its slot is moving, the next key is tried.
        command: the packed command WAIT or WAITAOF.
    """

    durability: Durability
    replicas: int
    timeout_s: float
    probe_keys: Callable[[], Iterator[bytes]]
    command: bytes = field(init=False)

    def __post_init__(self) -> None:
        ms = max(1, round(self.timeout_s * 1000))
        words: tuple[Arg, ...] = (b"WAIT", self.replicas, ms)
        if self.durability is Durability.FSYNC:
            words = (b"WAITAOF", 1, self.replicas, ms)
        object.__setattr__(self, "command", pack(words))

    def reached(self, answer: Answer) -> bool:
        """Return whether the answer of Redis confirms the writes."""
        if self.durability is Durability.FSYNC:
            return isinstance(answer, list) and answer[0] >= 1 and answer[1] >= self.replicas
        return isinstance(answer, int) and answer >= self.replicas


class NotConfirmed(ReplyFailure):
    """Redis answered the commands of a group, but did not confirm their writes in time."""


class UnconfirmedReply(ReplyFailure):
    """Redis applied a command, but its writes are not confirmed and may be lost with the node.

    Attributes:
        reply: the reply of Redis to the command.
    """

    def __init__(self, cause: ReplyFailure, reply: Reply) -> None:
        super().__init__(str(cause))
        self.reply = reply


class _GroupedCommand:
    """A command of a group, and the task that sleeps until the group is confirmed."""

    __slots__ = ("asking", "payload", "reply", "task")

    def __init__(self, payload: bytes, asking: bool) -> None:
        self.payload = payload
        self.asking = asking
        self.task: Task | None = current_task()
        self.reply: KeptReply | None = None

    def abort(self, _raise_cancel: object) -> Abort:
        """Forget the task; trio calls this method when the task is cancelled."""
        self.task = None
        return Abort.SUCCEEDED

    def resume_caller(self, failure: ReplyFailure | None) -> None:
        """Wake the caller with the reply to its command, or with a failure.

        An error reply needs no confirmation, because its command has changed nothing.

        Args:
            failure: why the group is not confirmed; None if it is.
        """
        answer: Answer
        if self.reply is None:
            answer = CommandNotSent("the connection ended")
        elif not self.reply.answered:
            answer = (
                failure
                if isinstance(failure, CommandNotSent)
                else ReplyLost(f"no reply: {failure}")
            )
        elif failure is None or isinstance(self.reply.answer, Exception):
            answer = self.reply.answer
        else:
            answer = UnconfirmedReply(failure, self.reply.answer)
        task, self.task = self.task, None
        if task is not None:
            reschedule(task, Value(answer))


class GroupCommitConnection:
    """A ``NodeConnection`` that answers a command when its group is confirmed."""

    def __init__(self, connection: RedisConnection, plan: CommitPlan, max_waiting: int) -> None:
        self._connection = connection
        self._plan = plan
        self._max_waiting = max_waiting
        self._waiting_group: list[_GroupedCommand] = []
        self._sent_group: list[_GroupedCommand] = []
        self._group_requested = trio.Event()
        self._waiting_callers = trio.lowlevel.ParkingLot()

    @property
    def open(self) -> bool:
        """Whether commands may be sent."""
        return self._connection.open

    @property
    def full(self) -> bool:
        """Whether the next group can take no more commands, or the connection has ended."""
        return len(self._waiting_group) >= self._max_waiting or not self._connection.open

    @property
    def pending(self) -> int:
        """Number of commands that are not answered yet."""
        return len(self._waiting_group) + len(self._sent_group)

    @property
    def silent_s(self) -> float:
        """Seconds since the node last sent anything; 0 if it has no unanswered commands."""
        return self._connection.silent_s

    async def execute(self, payload: bytes) -> Answer:
        """Send a packed command; return its reply once the group is confirmed."""
        return await self._join(_GroupedCommand(payload, asking=False))

    async def execute_asking(self, payload: bytes) -> Answer:
        """Do as ``execute``, with ASKING directly before the command."""
        return await self._join(_GroupedCommand(payload, asking=True))

    async def wait_until_not_full(self) -> None:
        """Sleep until a group has been sent, or the connection has ended."""
        await self._waiting_callers.park()

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """See ``RedisConnection.check``."""
        self._connection.check(reply_timeout_s, call_timeout_s)

    async def run(self) -> None:
        """Confirm one group after the other until the connection ends; then wake every caller."""
        try:
            while self._connection.open:
                await self._group_requested.wait()
                self._group_requested = trio.Event()
                await self._confirm_group()
        finally:
            self._connection.close("the client was closed")
            for member in self._sent_group:
                member.resume_caller(ReplyLost("the connection ended before the reply"))
            for member in self._waiting_group:
                member.resume_caller(None)
            self._sent_group, self._waiting_group = [], []
            self._waiting_callers.unpark_all()

    async def _join(self, member: _GroupedCommand) -> Answer:
        if not self._connection.open:
            return CommandNotSent("the connection ended")
        self._waiting_group.append(member)
        self._group_requested.set()
        return await wait_task_rescheduled(member.abort)  # type: ignore[no-any-return]

    async def _confirm_group(self) -> None:
        group = [member for member in self._waiting_group if member.task is not None]
        self._waiting_group = []
        self._waiting_callers.unpark_all()
        if not group or not self._connection.open:
            self._waiting_group = group  # ``run`` wakes their callers
            return
        self._sent_group = group
        for member in group:
            member.reply = self._connection.submit(member.payload, asking=member.asking)
        failure = await self._confirm()
        self._sent_group = []
        for member in group:
            member.resume_caller(failure)

    async def _confirm(self) -> ReplyFailure | None:
        """Wait until the submitted commands are confirmed.

        Returns:
            None if they are confirmed, otherwise the reason why they are not.
        """
        at_maxmemory = False
        for key in islice(self._plan.probe_keys(), MAX_PROBE_KEYS):
            write_answer, wait_answer = await self._write_probe(key, at_maxmemory=at_maxmemory)
            if (
                not at_maxmemory
                and isinstance(write_answer, RedisReplyError)
                and write_answer.code == "OOM"
            ):
                at_maxmemory = True
                write_answer, wait_answer = await self._write_probe(key, at_maxmemory=True)
            if isinstance(wait_answer, ReplyFailure):
                return wait_answer
            if isinstance(write_answer, RedisReplyError):
                continue
            if self._plan.reached(wait_answer):
                return None
            level, timeout_s = self._plan.durability.name.lower(), self._plan.timeout_s
            return NotConfirmed(
                f"{level} durability was not reached in {timeout_s:g} s ({wait_answer!r})"
            )
        return NotConfirmed("no probe key could be written on this node")

    async def _write_probe(self, key: bytes, *, at_maxmemory: bool) -> tuple[Answer, Answer]:
        """Write a probe key, and send WAIT or WAITAOF.

        Args:
            key: the probe key.
            at_maxmemory: whether the node is at ``maxmemory``.

        Returns:
            The answers of Redis to the write and to WAIT or WAITAOF.
        """
        write: tuple[Arg, ...] = (b"SET", key, b"1")
        if at_maxmemory:
            write = (b"EVAL", _PROBE_AT_MAXMEMORY, 1, key)
        write_reply = self._connection.submit(pack(write))
        wait_answer = await self._connection.execute(self._plan.command)
        return write_reply.answer, wait_answer
