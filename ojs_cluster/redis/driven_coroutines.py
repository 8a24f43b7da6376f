"""Coroutines that run without a trio task until they need one.

A plain request needs no task. A driver (``http/fast_lane/driver.py``) sends into its coroutine,
which runs until it calls Redis. The reader of Redis's replies calls the driver again with the
reply. That saves the switches between tasks.

The rule: while a coroutine is driven it may wait for Redis (``park``) and for nothing else. Code
that uses a cancel scope, an event, a nursery or a thread awaits ``ensure_task`` first. The driver
then hands the coroutine to a task, which runs it to its end.

A forgotten ``ensure_task`` fails at once. trio has no current task while a coroutine is driven, so
the request gets a RuntimeError. Otherwise its cancel scope would open in the reader's task and
cancel the work of other requests. trio has no public way to take the current task away, so
``DrivenCoroutine.step`` deletes the attribute in which trio keeps it.
``tests/redis/test_driven_coroutines.py`` fails when a release of trio moves it (docs/adr/033).
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


class _DriverMessage:
    """A message between a driven coroutine and its driver."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name}>"


WAITING_FOR_REDIS: Final = _DriverMessage("the coroutine waits for Redis")
NEEDS_TASK: Final = _DriverMessage("the coroutine needs a task")
ADOPTED: Final = _DriverMessage("a task runs the coroutine now and waits for the reply")


class DrivenCoroutine:
    """The state of the coroutine that a driver runs; the requests of one connection share it."""

    __slots__ = ("_context", "resume", "shield")

    def __init__(self, resume: Callable[[object], None]) -> None:
        """Begin without a coroutine.

        Args:
            resume: continues the coroutine with the answer of Redis. It must not raise.
        """
        self.resume = resume
        self.shield: ShieldedBlock | None = None
        """The shielded block that the coroutine is in, or None."""
        # The caller's context: the reader runs in that of the request that opened its connection.
        self._context = copy_context()

    def step(self, send: Callable[[Any], T], value: object) -> T:
        """Send ``value`` into the coroutine and return what it yields; pass on what it raises."""
        before, driver_state.driven = driver_state.driven, self
        task = getattr(GLOBAL_RUN_CONTEXT, "task", None)
        if task is not None:
            del GLOBAL_RUN_CONTEXT.task
        try:
            return self._context.run(send, value)
        finally:
            driver_state.driven = before
            if task is not None:
                GLOBAL_RUN_CONTEXT.task = task

    async def adopt(self, work: Coroutine[Any, Any, T], value: object) -> T:
        """Run ``work`` to its end in the caller's task.

        Args:
            work: the coroutine.
            value: sent first. None after ``NEEDS_TASK``. For a coroutine that waits for Redis, the
                answer, or ``ADOPTED`` to wait for the answer in the task, which may be cancelled.
        """
        if self.shield is not None:
            self.shield.enter()
        result: T = await _run_remaining(work.send, work.throw, value)
        return result


class UnsentConnection(Protocol):
    """A connection to Redis that has queued commands of driven coroutines."""

    def flush(self) -> None:
        """Send them."""
        ...


class DriverState:
    """The coroutine that is driven now, and the connections that have commands to send.

    There is one instance per process, so only one event loop of a process may drive coroutines.
    """

    __slots__ = ("driven", "unsent")

    def __init__(self) -> None:
        self.driven: DrivenCoroutine | None = None
        self.unsent: list[UnsentConnection] = []

    def flush(self) -> None:
        """Send the commands queued since the last flush, with one send per connection."""
        unsent = self.unsent
        while unsent:
            unsent.pop().flush()


driver_state: Final = DriverState()


@types.coroutine
def park() -> Generator[object, Any, Any]:
    """Wait until ``DrivenCoroutine.resume``; return its answer, or ``ADOPTED``."""
    return (yield WAITING_FOR_REDIS)


async def ensure_task() -> None:
    """Make sure that a task runs the caller, which may use all of trio afterwards."""
    if driver_state.driven is not None:
        await _request_task()


@types.coroutine
def _request_task() -> Generator[object, Any, None]:
    yield NEEDS_TASK


@types.coroutine
def _run_remaining(
    send: Callable[[Any], Any], throw: Callable[[Any], Any], value: object
) -> Generator[Any, Any, Any]:
    """Run the rest of a coroutine in the caller's task, beginning with ``send(value)``."""
    step = send
    while True:
        try:
            message = step(value)
        except StopIteration as stop:
            return stop.value
        try:
            value, step = (yield message), send
        except BaseException as error:  # the coroutine handles it
            value, step = error, throw


class ShieldedBlock:
    """A block that no cancellation interrupts, in a task or in a driven coroutine.

    A driven coroutine cannot be cancelled. When a task adopts it inside the block, the task enters
    a shielded cancel scope until the block ends.
    """

    __slots__ = ("_driven", "_scope")

    def __init__(self) -> None:
        self._driven = driver_state.driven
        self._scope: trio.CancelScope | None = None

    def enter(self) -> None:
        """Shield the current task until the block ends."""
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
