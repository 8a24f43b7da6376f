"""What the client keeps for each unanswered command: who gets the reply."""

from __future__ import annotations

from typing import Any

import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.driven_coroutines import ADOPTED, DrivenCoroutine, driver_state, park
from ojs_cluster.redis.errors import RedisReplyError, ReplyFailure

# A list reply may contain any replies, including error replies.
Reply = bytes | int | None | list[Any]
Answer = Reply | RedisReplyError | ReplyFailure


class CoarseClock:
    """Monotonic time in seconds, which ``SlotRouter`` advances ten times per second.

    Reading an attribute costs much less than a call of the system's clock.

    Attributes:
        now: the time, in seconds of trio's clock.
        attentive: the seconds in which this process has read its connections. While the process is
            late or paused, replies may have arrived that it has not read. That time does not count,
            so no node is blamed for it.
    """

    __slots__ = ("attentive", "now")

    def __init__(self) -> None:
        self.now = trio.current_time()
        self.attentive = 0.0


class ReplyWaiter:
    """An unanswered command, and the task that sleeps until its reply arrives.

    Attributes:
        task: the sleeping task; None if no task waits, or no longer.
        queued_at: when the command was queued, in seconds of the client's clock.
        droppable: whether the command may be removed from the queue when no task waits for it.
    """

    __slots__ = ("droppable", "queued_at", "task")

    def __init__(self, task: Task | None, queued_at: float, droppable: bool = True) -> None:
        self.task = task
        self.queued_at = queued_at
        self.droppable = droppable

    def abort(self, _raise_cancel: object) -> Abort:
        """Forget the task; trio calls this method when the task is cancelled."""
        self.task = None
        return Abort.SUCCEEDED

    def wake(self, answer: Answer) -> None:
        """Wake the task with the answer, if a task still waits."""
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task, Value(answer))

    def receive(self, answer: Answer) -> None:
        """Handle an answer that no task waits for: discard it."""


class KeptReply(ReplyWaiter):
    """A reply that no task waits for. The caller reads it from the attribute ``answer``."""

    __slots__ = ("answer", "answered")

    def __init__(self, queued_at: float) -> None:
        super().__init__(None, queued_at, droppable=False)
        self.answer: Answer = None
        self.answered = False

    def receive(self, answer: Answer) -> None:
        """Keep the reply."""
        self.answer = answer
        self.answered = True


class DrivenReplyWaiter(ReplyWaiter):
    """A driven coroutine, which continues as soon as the reply is read."""

    __slots__ = ("_driven",)

    def __init__(self, driven: DrivenCoroutine, queued_at: float) -> None:
        # As the constructor of the base class does, whose call would cost time for every request.
        self.task = None
        self.queued_at = queued_at
        self.droppable = False
        self._driven: DrivenCoroutine | None = driven

    def wake(self, answer: Answer) -> None:
        """Continue the coroutine, or wake the task that has adopted it."""
        if self.task is None:
            self.receive(answer)
        else:
            super().wake(answer)

    def receive(self, answer: Answer) -> None:
        """Continue the coroutine, unless it was answered or a task has adopted it."""
        driven, self._driven = self._driven, None
        # A command that is still queued now has failed with CommandNotSent, so it must not be sent.
        self.droppable = True
        if driven is not None:
            driven.resume(answer)

    async def wait_in_task(self) -> Answer:
        """Wait for the reply in the task that has adopted the coroutine."""
        self._driven = None
        self.task = current_task()
        self.droppable = True
        return await wait_task_rescheduled(self.abort)  # type: ignore[no-any-return]


class SentCall(ReplyWaiter):
    """A command that was sent before anything waits for its reply.

    A subclass may use the reply at once. Otherwise a coroutine waits for it by ``wait``.

    Attributes:
        answer: the answer, once there is one.
        answered: whether there is an answer.
    """

    __slots__ = ("answer", "answered")

    def __init__(self) -> None:
        self.task = None
        self.queued_at = 0.0  # the connection sets it
        self.droppable = False
        self.answer: Answer = None
        self.answered = False

    def wake(self, answer: Answer) -> None:
        """Pass the answer on."""
        if self.task is None:
            self.receive(answer)
        else:
            super().wake(answer)

    def receive(self, answer: Answer) -> None:
        """Keep the answer."""
        self.answer, self.answered = answer, True
        # A command that is still queued now has failed with CommandNotSent, so it must not be sent.
        self.droppable = True

    async def wait(self) -> Answer:
        """Return the answer, and wait for it in the caller's task if there is none yet."""
        if not self.answered:
            self.task = current_task()
            self.droppable = True
            self.answer = await wait_task_rescheduled(self.abort)
        return self.answer


class ReplyBatch(ReplyWaiter):
    """The replies to several commands of one connection, which one caller waits for.

    The connection has one entry for each command, and all entries are this object.

    Args:
        count: number of the commands.
        queued_at: when the commands were queued, in seconds of the client's clock.

    Attributes:
        answers: the answers so far, in the order of the commands.
        complete: whether each command has an answer.
    """

    __slots__ = ("_count", "_driven", "_sleeper", "answers")

    def __init__(self, count: int, queued_at: float) -> None:
        super().__init__(None, queued_at, droppable=False)
        self.answers: list[Answer] = []
        self._count = count
        self._driven: DrivenCoroutine | None = None
        self._sleeper: Task | None = None

    @property
    def complete(self) -> bool:
        """Whether each command has an answer."""
        return len(self.answers) == self._count

    async def wait(self) -> None:
        """Wait until the batch is complete."""
        if self.complete:
            return
        self._driven = driver_state.driven
        if self._driven is None or await park() is ADOPTED:
            self._driven = None
            self._sleeper = current_task()
            await wait_task_rescheduled(self.abort)

    def abort(self, _raise_cancel: object) -> Abort:
        """Forget the task; trio calls this method when the task is cancelled."""
        self._sleeper = None
        return Abort.SUCCEEDED

    def receive(self, answer: Answer) -> None:
        """Keep the reply; the last one continues the caller."""
        answers = self.answers
        if len(answers) < self._count:  # otherwise ``wake`` has ended the batch before this reply
            answers.append(answer)
            if len(answers) == self._count:
                self._continue_caller()

    def wake(self, answer: Answer) -> None:
        """End the batch: ``answer`` is a failure, which all missing replies become."""
        if not self.complete:
            self.answers += [answer] * (self._count - len(self.answers))
            self._continue_caller()

    def _continue_caller(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        driven, self._driven = self._driven, None
        if sleeper is not None:
            reschedule(sleeper)
        elif driven is not None:
            driven.resume(None)
