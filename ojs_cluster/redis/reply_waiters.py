"""Who waits for a reply: a task, nobody who sleeps, or a coroutine that is driven."""

from __future__ import annotations

from typing import Any

import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.driven_coroutines import Driven
from ojs_cluster.redis.errors import RedisReplyError, Signal

# A list may hold anything a reply can be, nested error replies included.
Reply = bytes | int | None | list[Any]
Answer = Reply | RedisReplyError | Signal


class Clock:
    """Coarse monotonic time in seconds, moved on by the client's watchdog. Reading it is free."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = trio.current_time()


class Waiter:
    """A caller asleep until its reply. ``task`` is None once nobody waits any more."""

    __slots__ = ("droppable", "stamp", "task")

    def __init__(self, task: Task | None, stamp: float, droppable: bool = True) -> None:
        self.task = task
        self.stamp = stamp
        self.droppable = droppable

    def abort(self, _raise_cancel: object) -> Abort:
        """Called by trio when the caller is cancelled."""
        self.task = None
        return Abort.SUCCEEDED

    def wake(self, answer: Answer) -> None:
        """Hand the answer over, if somebody still waits for it."""
        task = self.task
        if task is not None:
            self.task = None
            reschedule(task, Value(answer))

    def keep(self, answer: Answer) -> None:
        """A reply that nobody waits for: thrown away."""


class Held(Waiter):
    """Nobody sleeps for this reply; it is kept until somebody looks."""

    __slots__ = ("answer", "answered")

    def __init__(self, stamp: float) -> None:
        super().__init__(None, stamp, droppable=False)
        self.answer: Answer = None
        self.answered = False

    def keep(self, answer: Answer) -> None:
        """Keep the reply."""
        self.answer = answer
        self.answered = True


class DrivenWaiter(Waiter):
    """A coroutine without a task, which continues as soon as the reply is read."""

    __slots__ = ("_driven",)

    def __init__(self, driven: Driven, stamp: float) -> None:
        super().__init__(None, stamp, droppable=False)
        self._driven: Driven | None = driven

    def wake(self, answer: Answer) -> None:
        """Hand the answer over, if somebody still waits for it."""
        if self.task is None:
            self.keep(answer)
        else:
            super().wake(answer)

    def keep(self, answer: Answer) -> None:
        """Continue the coroutine, unless it has been answered or a task has adopted it."""
        driven, self._driven = self._driven, None
        self.droppable = True  # if it is still queued, it has just been told that it was not sent
        if driven is not None:
            driven.resume(answer)

    async def adopted(self) -> Answer:
        """Wait for the reply in the task that has adopted the coroutine."""
        self._driven = None
        self.task = current_task()
        self.droppable = True
        return await wait_task_rescheduled(self.abort)  # type: ignore[no-any-return]
