"""Serves the plain requests of one connection without a task, as long as they need none.

The connection's task sleeps in `take_turns`. Meanwhile the driver reads what comes (`ready`), sends
into the request's coroutine up to its call of Redis, continues it with the reply (`_resume`), and
sends the response. It keeps nothing to itself: whatever is not plain sailing wakes the task with an
`Errand` that says how far the request has come. That is so for a request that needs trio, a body
that is not complete, a socket that takes no more, a client that has left, a drain, and a bug.

An exception ends this connection only: `ready` and `_resume` run in tasks that serve all others.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Final, Protocol

import msgspec
import trio
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import prepare, run
from ojs_cluster.http.fast_lane.idle_connections import Turns
from ojs_cluster.http.fast_lane.parser import Head, Heads, Odd
from ojs_cluster.http.fast_lane.replies import encode
from ojs_cluster.http.fast_lane.routes import is_fast
from ojs_cluster.http.fast_lane.transport import has_ended
from ojs_cluster.http.messages import Request, Response
from ojs_cluster.redis.deadline import Deadline
from ojs_cluster.redis.driven_coroutines import (
    ADOPTED,
    NEEDS_TASK,
    WAITING_FOR_REDIS,
    DrivenCoroutine,
    driver_state,
)

_READ_BYTES: Final = 65_536
_AT_ONCE: Final = 8
"""Requests of one connection that are answered before others have a turn."""


class Errand(msgspec.Struct, frozen=True):
    """What a driver leaves to the task of its connection.

    Without anything set, the task looks at the connection as if it had never slept.

    Attributes:
        work: a request under way, to be run to its end by the task.
        value: what is sent into it first.
        response: what the request is answered with.
        data: the response as bytes, if the client has been sent some.
        sent: how many of them.
        error: what to raise; the connection ends.
        again: others only have a turn; there is more to serve.
    """

    work: Coroutine[Any, Any, Response] | None = None
    value: object = None
    response: Response | None = None
    data: bytes = b""
    sent: int = 0
    error: Exception | None = None
    again: bool = False


_LOOK: Final = Errand()
_AGAIN: Final = Errand(again=True)


class Connection(Protocol):
    """What a driver needs of its connection, and changes."""

    app: App
    heads: Heads
    data: bytes
    deadline: Deadline
    idle_since: float
    head_since: float

    @property
    def stopping(self) -> bool:
        """Whether the process is to end."""
        ...

    def request(self, head: Head, end: int) -> Request:
        """The request with this head whose body ends at a byte of ``data``."""
        ...


class Driver:
    """Drives the requests of one connection over a plain socket."""

    def __init__(self, connection: Connection, sock: socket.socket, turns: Turns) -> None:
        self._connection = connection
        self._sock = sock
        self._turns = turns
        self._joined = False
        self._owner: Task | None = None
        """The connection's task while it sleeps."""
        self._errand: Errand | None = None
        self._work: Coroutine[Any, Any, Response] | None = None
        """The request under way; Redis owes it a reply."""
        self._driven = DrivenCoroutine(self._resume)

    @property
    def usable(self) -> bool:
        """Whether `take_turns` serves anything."""
        return self._turns.running and not self._connection.stopping

    async def take_turns(self) -> Errand:
        """Serve requests until the task has something to do, which is returned.

        A request under way is never cancelled here: the errand of a cancelled task is to run it.
        """
        self._errand = None
        if self._connection.data:
            self._next()
            driver_state.flush()
        if self._errand is None and not self._joined:
            self._join()
        if self._errand is None:
            self._owner = current_task()
            await wait_task_rescheduled(self._abort)
        errand, self._errand = self._errand, None
        return errand or _LOOK

    async def finished(self, errand: Errand) -> Response | None:
        """Run the work of an errand to its end in the caller's task; returns its response."""
        if errand.work is None:
            return errand.response
        return await self._driven.adopt(errand.work, errand.value)

    def ready(self) -> None:
        """Read what has come, and begin the next request if none is under way."""
        try:
            self._read()
        except Exception as error:
            self._fail(error)

    def no_more_turns(self) -> None:
        """Leave the connection to its task, now or when the present request is answered."""
        self._joined = False
        if self._work is None:
            self._hand_over(_LOOK)

    # -- one step after the other ---------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Have an error raised by the connection's task, where it belongs."""
        self._work = None
        self._hand_over(Errand(error=error))

    def _resume(self, answer: object) -> None:
        """Continue the request with the answer of Redis, and then with the next requests."""
        errand = self._errand
        if errand is not None and errand.value is ADOPTED:
            # The task has been woken to wait for this answer, and has not run yet.
            self._errand = Errand(work=errand.work, value=answer)
            return
        try:
            if self._drive(answer):
                self._next()
        except Exception as error:
            self._fail(error)

    def _read(self) -> None:
        connection = self._connection
        if self._work is not None:
            self._leave()  # the kernel keeps what is sent ahead
            return
        if connection.stopping:
            self._hand_over(_LOOK)
            return
        try:
            piece = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            connection.data = connection.data + piece if connection.data else piece
            self._next()
        else:
            self._hand_over(_LOOK)

    def _next(self) -> None:
        """Begin the requests that have been read, one after the other."""
        for _ in range(_AT_ONCE):
            if not self._connection.data or not self._begin():
                return
        self._hand_over(_AGAIN)

    def _begin(self) -> bool:
        """Begin the next request; tells whether it was answered, and the next may begin."""
        connection = self._connection
        data = connection.data
        try:
            head = connection.heads.read(data)
        except Odd:
            head = None
        if (
            head is None
            or len(data) < (end := head.size + head.length)
            or head.closes
            or not is_fast(head.method, head.path)
        ):
            self._hand_over(_LOOK)
            return False
        connection.head_since = connection.idle_since = inf
        request = connection.request(head, end)
        connection.data = data[end:]
        call = prepare(connection.app, request, known=head.admission)
        if call.admission is not head.admission and call.admission and call.admission.lasts:
            head.admission = call.admission
        self._work = run(connection.app, call, request, connection.deadline)
        return self._drive(None)

    def _drive(self, value: object) -> bool:
        """Send into the request's coroutine; tells whether it was answered, as `_begin`."""
        work, step = self._work, self._driven.step
        if work is None:  # its task has it
            return False
        send: Callable[[Any], Any] = work.send
        try:
            while True:
                message = step(send, value)
                if message is WAITING_FOR_REDIS:
                    return False
                if message is NEEDS_TASK:
                    self._work = None
                    self._hand_over(Errand(work=work))
                    return False
                value, send = RuntimeError(f"{message!r} was asked without a task"), work.throw
        except StopIteration as stop:
            self._work = None
            response: Response = stop.value
        try:
            return self._answer(response)
        except Exception as error:  # the task undoes what the client is not told about
            self._hand_over(Errand(response=response, error=error))
            return False

    def _answer(self, response: Response) -> bool:
        """Send a response; tells whether all of it is sent, and the next request may begin."""
        connection = self._connection
        if connection.stopping or (
            response.undelivered is not None and not connection.data and has_ended(self._sock)
        ):
            self._hand_over(Errand(response=response))
            return False
        data = encode(response, draining=False, asked_to_close=False)
        try:
            sent = self._sock.send(data)
        except OSError:  # it takes nothing now, or never again: the task finds out
            sent = 0
        if sent != len(data):
            self._hand_over(Errand(response=response, data=data, sent=sent))
            return False
        connection.idle_since = trio.current_time()
        return self._joined or bool(connection.data) or self._join()

    # -- between the epoll and the task ---------------------------------------------------------

    def _join(self) -> bool:
        """Wait for what comes; tells whether the connection is the driver's still."""
        self._joined = self._turns.join(self._sock.fileno(), self)
        if not self._joined and self._work is None:
            self._hand_over(_LOOK)
            return False
        return True

    def _leave(self) -> None:
        if self._joined:
            self._joined = False
            self._turns.leave(self._sock.fileno())

    def _hand_over(self, errand: Errand) -> None:
        self._leave()
        self._errand = errand
        owner, self._owner = self._owner, None
        if owner is not None:
            reschedule(owner)

    def _abort(self, _raise_cancel: object) -> Abort:
        """The task is cancelled. A request that waits for Redis is run by it from here on."""
        work, self._work = self._work, None
        if work is None:
            self._leave()
            self._owner = None
            return Abort.SUCCEEDED
        self._hand_over(Errand(work=work, value=ADOPTED))
        return Abort.FAILED
