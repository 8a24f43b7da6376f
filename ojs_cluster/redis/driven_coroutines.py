"""Coroutines that run without a trio task until they need one.

A plain request needs no task. A driver (``http/fast_lane/driver.py``) sends into its coroutine,
which runs up to its call of Redis; the reader of Redis's replies calls the driver again with the
reply. That costs no switch of tasks.

The rule: while a coroutine is driven it may wait for Redis (``park``) and for nothing else. What
needs trio (a cancel scope, an event, a nursery, a thread) awaits ``own_task`` first. The driver
then hands the coroutine to a task that runs it to its end.

Nothing depends on every author keeping the rule. trio has no current task while a coroutine is
driven, so a forgotten ``own_task`` is a RuntimeError of this request. It would otherwise open its
cancel scope in the task of the reader, and cancel what belongs to others. trio has no public way to
take the current task away, so ``Driven.step`` deletes the attribute in which trio keeps it;
``tests/redis/test_driven_coroutines.py`` fails when a release of trio keeps it elsewhere
(docs/adr/033).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT  # pinned, see above

T = TypeVar("T")


class _Word:
    """What a driven coroutine and its driver say to each other."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


PARKED: Final = _Word("the coroutine waits for Redis")
MOVE: Final = _Word("the coroutine needs a task")
ADOPTED: Final = _Word("a task runs the coroutine from here on; it waits for the reply itself")


class Driven:
    """What a driver drives: one coroutine at a time, those of one connection share it."""

    __slots__ = ("_context", "resume", "shield")

    def __init__(self, resume: Callable[[object], None]) -> None:
        """``resume`` continues the coroutine with the answer of Redis. It must not raise."""
        self.resume = resume
        self.shield: Shielded | None = None
        """The block that a cancellation must not leave, if the coroutine is in one."""
        # That of the caller. The reader's is that of the request that opened its connection.
        self._context = copy_context()

    def step(self, send: Callable[[Any], T], value: object) -> T:
        """Send ``value`` into the coroutine and return what it yields. Raises what it raises."""
        before, taskless.driven = taskless.driven, self
        task = getattr(GLOBAL_RUN_CONTEXT, "task", None)
        if task is not None:
            del GLOBAL_RUN_CONTEXT.task
        try:
            return self._context.run(send, value)
        finally:
            taskless.driven = before
            if task is not None:
                GLOBAL_RUN_CONTEXT.task = task

    async def adopt(self, work: Coroutine[Any, Any, T], value: object) -> T:
        """Run ``work`` to its end in the caller's task; ``value`` is sent first.

        That is None when it has asked for a task. When it waits for Redis it is the answer, or
        ADOPTED: then it waits for the answer as a task does, and may be cancelled.
        """
        if self.shield is not None:
            self.shield.enter()
        result: T = await _continued(work.send, work.throw, value)
        return result


class Unsent(Protocol):
    """A connection to Redis with commands of driven coroutines in its queue."""

    def flush(self) -> None:
        """Send them."""
        ...


class Taskless:
    """What is driven now, and which connections to Redis have commands to be sent.

    There is one for the process, so one event loop of it may drive.
    """

    __slots__ = ("driven", "unsent")

    def __init__(self) -> None:
        self.driven: Driven | None = None
        self.unsent: list[Unsent] = []

    def flush(self) -> None:
        """Send what was queued since the last flush, in one piece for each connection."""
        unsent = self.unsent
        while unsent:
            unsent.pop().flush()


taskless: Final = Taskless()


@types.coroutine
def park() -> Generator[object, Any, Any]:
    """Wait until ``Driven.resume``; returns its answer, or ADOPTED."""
    return (yield PARKED)


async def own_task() -> None:
    """Make sure that a task runs the caller: from here on it may use trio."""
    if taskless.driven is not None:
        await _move()


@types.coroutine
def _move() -> Generator[object, Any, None]:
    yield MOVE


@types.coroutine
def _continued(
    send: Callable[[Any], Any], throw: Callable[[Any], Any], value: object
) -> Generator[Any, Any, Any]:
    """Run the coroutine of ``send`` and ``throw`` in the caller's task, from ``send(value)`` on."""
    step = send
    while True:
        try:
            message = step(value)
        except StopIteration as stop:
            return stop.value
        try:
            value, step = (yield message), send
        except BaseException as error:  # it is the coroutine's
            value, step = error, throw


class Shielded:
    """A block that ends before a cancellation is delivered, in a task or driven.

    A driven coroutine is not cancelled. It may get a task inside the block, which may be cancelled:
    the scope is entered there, and left with the block.
    """

    __slots__ = ("_driven", "_scope")

    def __init__(self) -> None:
        self._driven = taskless.driven
        self._scope: trio.CancelScope | None = None

    def enter(self) -> None:
        """Shield the present task until the end of the block."""
        self._scope = trio.CancelScope(shield=True)
        self._scope.__enter__()

    def __enter__(self) -> Self:
        if self._driven is None:
            self.enter()
        else:
            self._driven.shield = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if self._driven is not None:
            self._driven.shield = None
        if self._scope is not None:
            return self._scope.__exit__(kind, error, trace)
        return None
