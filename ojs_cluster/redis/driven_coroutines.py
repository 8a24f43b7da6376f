"""Coroutines that run without a trio task until they need one.

Most requests need no task. A driver (``http/fast_lane/driver.py``) runs the coroutine of the
request until it waits for a reply of Redis. The task that reads the replies then calls the driver,
which continues the coroutine with the reply. This saves switches between tasks.

While a coroutine is driven, it may wait only for Redis (``park``). Code that uses a cancel scope,
an event, a nursery or a thread awaits ``ensure_task`` first. The driver then hands the coroutine
over to a task, which runs it to its end.

If code forgets ``ensure_task``, the request fails with a RuntimeError, because trio has no current
task while a coroutine is driven. If the current task stayed, it would be the task that reads the
replies. A cancel scope of the request would then apply to that task, and could cancel the work of
other requests. So ``DrivenCoroutine.step`` deletes the attribute in which trio stores the task
(``trio_internals``, docs/adr/033).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from math import inf
from time import perf_counter
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

import trio

from ojs_cluster.redis.trio_internals import GLOBAL_RUN_CONTEXT

T = TypeVar("T")


MAX_RESPONSES: Final = 16
"""Number of queued responses that are sent although the turn goes on.

A send may wake a client. If every response were sent at once, the kernel and other processes would
run between any two requests, and the code of the requests would leave the processor's caches. More
than sixteen save nothing further (docs/adr/033).
"""
MAX_RESPONSE_DELAY_S: Final = 0.001
"""Seconds that a queued response waits, apart from the work for one more request."""


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
    """The state of the coroutine that a driver runs.

    A connection has one such object, which it uses for one request after the other.
    """

    __slots__ = ("_context", "resume", "shield")

    def __init__(self, resume: Callable[[object], None]) -> None:
        """Create the state; ``step`` and ``adopt`` get the coroutine.

        Args:
            resume: the function that continues the coroutine with the answer of Redis. It must not
                raise exceptions.
        """
        self.resume = resume
        self.shield: ShieldedBlock | None = None
        """The ``ShieldedBlock`` that the coroutine is in; None if it is in none."""
        # The coroutine runs in a copy of the caller's context. Otherwise it would run in the
        # context of the task that reads the replies.
        self._context = copy_context()

    def step(self, send: Callable[[Any], T], value: object) -> T:
        """Send ``value`` into the coroutine and return what it yields.

        An exception of the coroutine is not caught.
        """
        if driver_state.with_responses and perf_counter() >= driver_state.respond_at:
            driver_state.flush()
        previous, driver_state.driven = driver_state.driven, self
        task = getattr(GLOBAL_RUN_CONTEXT, "task", None)
        if task is not None:
            del GLOBAL_RUN_CONTEXT.task
        try:
            return self._context.run(send, value)
        finally:
            driver_state.driven = previous
            if task is not None:
                GLOBAL_RUN_CONTEXT.task = task

    async def adopt(self, work: Coroutine[Any, Any, T], value: object) -> T:
        """Run ``work`` to its end in the caller's task.

        Args:
            work: the coroutine.
            value: the value that is sent into the coroutine first. It is None after ``NEEDS_TASK``.
                If the coroutine waits for Redis, it is the answer, or ``ADOPTED`` to let the task
                wait for the answer.
        """
        if self.shield is not None:
            self.shield.enter()
        result: T = await _run_remaining(work.send, work.throw, value)
        return result


class QueuingConnection(Protocol):
    """A connection that queues what it sends: commands to Redis, or a response to a client."""

    def flush(self) -> None:
        """Send what is queued. Must not raise exceptions."""
        ...


class DriverState:
    """The state of all drivers of a process.

    Attributes:
        driven: the state of the coroutine that runs now; None if none is driven.
        with_commands: the connections to Redis with queued commands of driven coroutines.
        with_responses: the connections to clients with a queued response.
        respond_at: when the responses are sent although the turn goes on, in seconds of
            ``perf_counter``; infinite if there are none.

    There is one instance per process. So if a process has driven coroutines, only one of its event
    loops may use the Redis client. The scheduler has none, and two event loops
    (``ojs_scheduler.election_thread``).
    """

    __slots__ = ("driven", "respond_at", "with_commands", "with_responses")

    def __init__(self) -> None:
        self.driven: DrivenCoroutine | None = None
        self.with_commands: list[QueuingConnection] = []
        self.with_responses: list[QueuingConnection] = []
        self.respond_at = inf

    def queue_response(self, connection: QueuingConnection) -> None:
        """Send the response of this connection with the next ``flush``.

        Code that starts or continues coroutines must therefore call ``flush`` after a turn.
        """
        responses = self.with_responses
        if not responses:
            self.respond_at = perf_counter() + MAX_RESPONSE_DELAY_S
        responses.append(connection)
        if len(responses) >= MAX_RESPONSES:
            self.flush()

    def flush(self) -> None:
        """Send everything that was queued since the last flush.

        The commands are sent first, in one send per connection, so that Redis works on them while
        this process sends the responses.
        """
        commands = self.with_commands
        while commands:
            commands.pop().flush()
        if self.with_responses:
            responses, self.with_responses = self.with_responses, []
            self.respond_at = inf
            for connection in responses:
                connection.flush()


driver_state: Final = DriverState()


@types.coroutine
def park() -> Generator[object, Any, Any]:
    """Wait for a reply of Redis; return the answer, or ``ADOPTED`` in a task that has to wait."""
    return (yield WAITING_FOR_REDIS)


async def ensure_task() -> None:
    """Make sure that a task runs the caller, so that it may use all functions of trio."""
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
        except BaseException as error:  # the exception is raised inside the coroutine
            value, step = error, throw


class ShieldedBlock:
    """A block that no cancellation interrupts, in a task or in a driven coroutine.

    A driven coroutine cannot be cancelled. But a task may adopt the coroutine inside the block. The
    task then enters a shielded cancel scope, which ends with the block.
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
