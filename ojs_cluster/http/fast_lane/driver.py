"""Serve the requests of one connection without waking its trio task.

The task of the connection sleeps in ``Driver.run_until_handoff``. While the task sleeps, the driver
serves requests. ``on_readable`` reads the bytes that arrive and starts the coroutine of the
request, which runs until it waits for a reply of Redis. ``_resume`` continues the coroutine with
the reply. The response is sent by ``flush`` at the end of the turn, or by ``_answer`` at once.

The most frequent requests of jobs without options need no coroutine (``plain/``, docs/adr/065): the
verb of the request sends the command, and ``on_answer`` renders the response from the reply. If the
reply is anything but plain, ``on_answer`` creates the coroutine, which goes on from the reply.

In all other cases the driver wakes the task with a ``TaskHandoff``, which describes the state of
the request. These cases are: a request that needs trio, an incomplete body, a full socket buffer, a
disconnected client, a drain, and a bug.

``on_readable``, ``on_epoll_closed``, ``on_answer``, ``_resume`` and ``flush`` run in tasks that
serve all connections. So these methods raise nothing: they pass every exception on to the task of
this connection, which raises it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from math import inf
from time import perf_counter
from typing import Any, Final, Protocol

import msgspec
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.http.app import App
from ojs_cluster.http.dispatch import prepare, run
from ojs_cluster.http.fast_lane.idle_connections import IdleConnections
from ojs_cluster.http.fast_lane.parser import HeadCache, RequestHead, UnsupportedRequest
from ojs_cluster.http.fast_lane.plain.verb import PlainCall
from ojs_cluster.http.fast_lane.plain.verbs import PlainVerbs
from ojs_cluster.http.fast_lane.replies import encode
from ojs_cluster.http.fast_lane.routes import is_fast
from ojs_cluster.http.fast_lane.transport import PeerWatch
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
_LARGE_BODY: Final = 4096
"""Bytes of a body whose request may take longer than a millisecond."""
_MAX_CONSECUTIVE: Final = 8
"""Maximum number of requests that a connection answers before other connections are served."""


class TaskHandoff(msgspec.Struct, frozen=True):
    """The work that a driver leaves to the task of its connection.

    If no attribute is set, the task reads the next request itself. ``coroutine`` and ``response``
    exclude each other.

    Attributes:
        coroutine: the coroutine of a request in progress, which the task runs to its end.
        value: the value that the task sends into the coroutine first. ``ADOPTED`` means that the
            coroutine still waits for a reply of Redis, and that the task must wait for the reply.
        response: the response to the request.
        data: the response as bytes, if some of these bytes are sent already.
        sent: the number of bytes of ``data`` that are sent.
        error: the exception that the task raises, which ends the connection. If there is a
            coroutine or a response too, the task first completes and undoes it.
        yields: whether the task only lets other connections run, and calls the driver again.
        ends: whether the task only closes the connection, as the client has asked.
    """

    coroutine: Coroutine[Any, Any, Response] | None = None
    value: object = None
    response: Response | None = None
    data: bytes = b""
    sent: int = 0
    error: Exception | None = None
    yields: bool = False
    ends: bool = False


_TO_TASK: Final = TaskHandoff()
"""Makes the task read the next request itself."""
_YIELD: Final = TaskHandoff(yields=True)
"""Makes the task let other connections run first."""
_END: Final = TaskHandoff(ends=True)
"""Makes the task close the connection."""


class DrivenConnection(Protocol):
    """The part of a connection that its driver reads and changes.

    Attributes:
        app: the state of the process.
        heads: cache of parsed request heads.
        data: bytes that are read and belong to no request yet.
        deadline: the deadline of the request in progress.
        idle_since: when the connection began to wait for a complete head, in seconds of
            ``perf_counter``, which costs less than trio's clock; infinite while a request is in
            progress.
        head_since: when the first bytes of an incomplete head were read, by this clock; infinite
            if there is no incomplete head. The server closes connections whose head is late.
    """

    app: App
    heads: HeadCache
    data: bytes
    deadline: Deadline
    idle_since: float
    head_since: float

    @property
    def stopping(self) -> bool:
        """Whether the process is shutting down."""
        ...

    def request(self, head: RequestHead, end: int) -> Request:
        """Return the request with this head whose body ends at byte ``end`` of ``data``."""
        ...

    def request_with(self, head: RequestHead, body: bytes) -> Request:
        """Return the request with this head and this body."""
        ...


class Driver:
    """Drives the requests of one connection over a socket without TLS.

    A request in progress waits for Redis while ``_coroutine`` or ``_call`` is set. At most one of
    them is, and no further request begins before both are None.
    """

    def __init__(
        self,
        connection: DrivenConnection,
        sock: socket.socket,
        idle: IdleConnections,
        verbs: PlainVerbs | None = None,
    ) -> None:
        """Create a driver that is not registered with ``idle`` yet."""
        self._connection = connection
        self._verbs = verbs
        self._call: PlainCall | None = None
        """The request without a coroutine that waits for a reply of Redis; None if none waits."""
        self._sock = sock
        self._peer = PeerWatch(sock)
        self._idle = idle
        self._registered = self._has_read = False
        self._head: RequestHead | None = None
        """The head of the latest request."""
        self._owner: Task | None = None
        """The connection's task while it sleeps in ``run_until_handoff``, otherwise None."""
        self._handoff: TaskHandoff | None = None
        self._coroutine: Coroutine[Any, Any, Response] | None = None
        """The coroutine of the request that waits for a reply of Redis; None if none waits."""
        self._unsent: tuple[Response | PlainCall, bytes] | None = None
        """The response that ``flush`` sends, also as bytes; None if there is none.

        It is set only while no byte of a further request is read, and not beyond the turn.
        """
        self._driven = DrivenCoroutine(self._resume)

    @property
    def closes(self) -> bool:
        """Whether the client asks to close the connection after the latest request."""
        return self._head is not None and self._head.closes

    @property
    def usable(self) -> bool:
        """Whether ``run_until_handoff`` can serve requests."""
        return self._idle.running and not self._connection.stopping

    async def run_until_handoff(self) -> TaskHandoff:
        """Serve requests until the calling task has work to do, and return this work.

        A cancellation does not interrupt a request in progress: the handoff contains the request,
        and the task completes it.
        """
        self._handoff = None
        if self._connection.data:
            self._serve_buffered()
            driver_state.flush()
        elif not self._has_read:
            self._read()  # the first request has usually arrived
            driver_state.flush()
        # A connection with a request in progress registers after the response, if it stays open.
        is_idle = self._coroutine is None and self._call is None
        if self._handoff is None and not self._registered and is_idle:
            self._register()
        if self._handoff is None:
            self._owner = current_task()
            await wait_task_rescheduled(self._abort)
        handoff, self._handoff = self._handoff, None
        return handoff or _TO_TASK

    async def finish(self, handoff: TaskHandoff) -> Response | None:
        """Run the coroutine of a handoff to its end in the caller's task.

        Returns:
            The response; None if the handoff has neither a coroutine nor a response.
        """
        if handoff.coroutine is None:
            return handoff.response
        return await self._driven.adopt(handoff.coroutine, handoff.value)

    def on_readable(self) -> None:
        """Read the bytes that have arrived, and begin the next request if none is in progress."""
        try:
            self._read()
        except Exception as error:
            self._fail(error)

    def on_epoll_closed(self) -> None:
        """Wake the connection's task, now or after the request in progress."""
        self._registered = False
        if self._coroutine is None and self._call is None:
            self._hand_over(_TO_TASK)

    def on_answer(self, call: PlainCall) -> None:
        """Answer the plain request ``call`` with the reply of Redis, or resume it."""
        self._call = None
        try:
            if driver_state.with_responses and perf_counter() >= driver_state.respond_at:
                driver_state.flush()
            data: bytes | None = None
            if not self._connection.stopping:
                # ``int`` finds that a stored number is damaged. Then the coroutine reports it.
                try:  # noqa: SIM105 - ``suppress`` takes a twentieth of a request's time
                    data = call.verb.page(call)
                except ValueError:
                    pass
            if data is None:
                self._coroutine = self._resumed(call)
                answered = self._drive(None)
            else:
                answered = self._send_or_queue(call, data)
        except Exception as error:
            # The task undoes what the request has done, and raises the error.
            self._hand_over(TaskHandoff(coroutine=self._resumed(call), error=error))
            return
        if answered:
            try:
                self._serve_buffered()
            except Exception as error:
                self._fail(error)

    def _resumed(self, call: PlainCall) -> Coroutine[Any, Any, Response]:
        """Return the coroutine that answers the latest request on the readable path."""
        connection, head = self._connection, self._head
        if head is None:
            raise RuntimeError("there is no request")
        request = connection.request_with(head, call.body)
        app = connection.app
        # API keys may have changed since. But the call is sent, so the request must be answered.
        admission = msgspec.structs.replace(call.verb.admission, keyring=app.access.keyring)
        prepared = prepare(app, request, cached=admission)
        prepared = msgspec.structs.replace(prepared, began=call.began)
        return run(app, prepared, request, connection.deadline, call)

    # -- the steps of a request -----------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        """Let the connection's task raise an error."""
        self._coroutine = None
        self._hand_over(TaskHandoff(error=error))

    def _resume(self, reply: object) -> None:
        """Continue the request with the reply of Redis, then serve the next requests."""
        handoff = self._handoff
        if handoff is not None and handoff.value is ADOPTED:
            # ``_abort`` has woken the task, which has not run yet. The reply replaces ``ADOPTED``,
            # so that the task does not wait for a reply that is here already.
            self._handoff = TaskHandoff(coroutine=handoff.coroutine, value=reply)
            return
        try:
            if self._drive(reply):
                self._serve_buffered()
        except Exception as error:
            self._fail(error)

    def _read(self) -> None:
        connection = self._connection
        if self._coroutine is not None or self._call is not None:
            self._unregister()  # bytes of the next requests stay in the socket buffer
            return
        if connection.stopping:
            self._hand_over(_TO_TASK)
            return
        self._has_read = True
        try:
            piece = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if piece:
            connection.data = connection.data + piece if connection.data else piece
            self._serve_buffered()
        else:
            self._hand_over(_TO_TASK)

    def _serve_buffered(self) -> None:
        """Serve the requests that are read already, one after the other."""
        for _ in range(_MAX_CONSECUTIVE):
            if not self._connection.data or not self._begin():
                return
        self._hand_over(_YIELD)

    def _begin(self) -> bool:
        """Begin a request; return whether it is answered and the next request may begin."""
        connection = self._connection
        data = connection.data
        try:
            head = connection.heads.read(data)
        except UnsupportedRequest:
            head = None
        if (
            head is None
            or len(data) < (end := head.size + head.length)
            or (head.closes and len(data) > end)  # hypercorn rejects bytes after the last request
            # An admission (``admission.Admission``) is the cached route and principal of the head.
            # A head has an admission only if its route was found to be fast before.
            or (head.admission is None and not is_fast(head.method, head.path))
        ):
            self._hand_over(_TO_TASK)
            return False
        connection.head_since = connection.idle_since = inf
        self._head = head
        verbs, plain = self._verbs, head.plain
        if (
            plain is not None
            and verbs is not None
            and head.length <= verbs.max_body
            and verbs.serves(plain)
        ):
            call = plain.begin(data[head.size : end])
            if call is not None:
                connection.data = data[end:]
                call.driver, self._call = self, call
                return False
        if head.length > _LARGE_BODY:
            driver_state.flush()  # the responses of this turn need not wait for the body's decoding
        request = connection.request(head, end)
        connection.data = data[end:]
        prepared = prepare(connection.app, request, cached=head.admission)
        admission = prepared.admission
        if admission is not head.admission and admission and admission.cacheable:
            head.admission = admission
            if verbs is not None:
                head.plain = verbs.of(request, admission, closes=head.closes, repeats=head.repeats)
        self._coroutine = run(connection.app, prepared, request, connection.deadline)
        return self._drive(None)

    def _drive(self, value: object) -> bool:
        """Send ``value`` into the request's coroutine.

        Returns:
            Whether the request is answered and the next request may begin.
        """
        coroutine, step = self._coroutine, self._driven.step
        if coroutine is None:  # a cancellation has handed the coroutine over to the task
            return False
        send: Callable[[Any], Any] = coroutine.send
        try:
            while True:
                message = step(send, value)
                if message is WAITING_FOR_REDIS:
                    return False
                if message is NEEDS_TASK:
                    self._coroutine = None
                    self._hand_over(TaskHandoff(coroutine=coroutine))
                    return False
                value = RuntimeError(f"a driven coroutine has awaited {message!r}")
                send = coroutine.throw
        except StopIteration as stop:
            self._coroutine = None
            response: Response = stop.value
        try:
            return self._answer(response)
        except Exception as error:  # the task undoes the response and raises the error
            self._hand_over(TaskHandoff(response=response, error=error))
            return False

    def _answer(self, response: Response) -> bool:
        """Send a response, now or with ``flush``.

        Returns:
            Whether the response is sent completely and the next request may begin.
        """
        connection = self._connection
        if connection.stopping:
            self._hand_over(TaskHandoff(response=response))
            return False
        return self._send_or_queue(
            response, encode(response, draining=False, asked_to_close=self.closes)
        )

    def _send_or_queue(self, response: Response | PlainCall, data: bytes) -> bool:
        """Send a response as ``_answer`` does."""
        if self._connection.data:  # the client has sent the next request, which begins now
            return self._send(response, data)
        self._unsent = response, data
        driver_state.queue_response(self)
        return False

    def flush(self) -> None:
        """Send the response to the last request that was read, unless it is sent already."""
        unsent, self._unsent = self._unsent, None
        if unsent is None:
            return
        response, data = unsent
        try:
            self._send(response, data)
        except Exception as error:  # the task undoes the response and raises the error
            self._hand_over(TaskHandoff(response=_response_of(response), error=error))

    def _send(self, response: Response | PlainCall, data: bytes) -> bool:
        """Send a response, unless it can be undone and the client has gone; end the request.

        Returns:
            As ``_answer``. Otherwise the task has got what is left to do.
        """
        connection = self._connection
        if response.undo is not None and not connection.data and self._peer.has_closed():
            self._hand_over(TaskHandoff(response=_response_of(response)))
            return False
        try:
            sent = self._sock.send(data)
        except OSError:  # the buffer is full or the client has disconnected; the task handles both
            sent = 0
        if sent != len(data):
            self._hand_over(TaskHandoff(response=_response_of(response), data=data, sent=sent))
            return False
        connection.idle_since = perf_counter()
        if self.closes:
            self._hand_over(_END)
            return False
        if self._registered or connection.data:
            return True
        return self._register()

    # -- epoll registration and handoff ---------------------------------------------------------

    def _register(self) -> bool:
        """Register for the next bytes; return whether the driver still serves the connection."""
        self._registered = self._idle.register(self._sock.fileno(), self)
        if not self._registered and self._coroutine is None and self._call is None:
            self._hand_over(_TO_TASK)
            return False
        return True

    def _unregister(self) -> None:
        if self._registered:
            self._registered = False
            self._idle.unregister(self._sock.fileno())

    def _hand_over(self, handoff: TaskHandoff) -> None:
        self._unregister()
        self._handoff = handoff
        owner, self._owner = self._owner, None
        if owner is not None:
            reschedule(owner)

    def _abort(self, _raise_cancel: object) -> Abort:
        """Handle a cancellation of the task while it sleeps.

        If a request waits for Redis, the task gets its coroutine and completes the request.
        """
        self.flush()  # the request whose response is not sent yet is not the one to cancel
        if self._owner is None:
            return Abort.FAILED  # ``flush`` has woken the task, which gets the response
        call, self._call = self._call, None
        if call is not None:
            call.driver = None  # the task waits for the reply
            self._hand_over(TaskHandoff(coroutine=self._resumed(call)))
            return Abort.FAILED
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is None:
            self._unregister()
            self._owner = None
            return Abort.SUCCEEDED
        self._hand_over(TaskHandoff(coroutine=coroutine, value=ADOPTED))
        return Abort.FAILED


def _response_of(response: Response | PlainCall) -> Response:
    """Return the response, which is rendered only now if the request was plain."""
    return response.response() if isinstance(response, PlainCall) else response
