"""One multiplexed connection: many commands in flight, answered in the order they were sent.

A caller packs its command, leaves it in the queue and sleeps. The writer joins everything queued
since its last turn into one send; who finds ``BURST`` commands in the queue sends them at once. The
reader parses whatever arrived and wakes the sleepers in order. There is no task, no cancel scope,
no event and no timer per command: that is where the CPU of other clients goes.

The rules that keep the stream whole:

- a command is in ``_queue`` until its bytes are taken to be sent, then in ``_in_flight`` until its
  reply: so what was never sent can be told from what may have been applied;
- a cancelled caller only clears its waiter. If still queued, the command is dropped; if in flight,
  its reply is read and thrown away when its turn comes;
- time is watched by one periodic ``check`` of all connections. Waiters carry the coarse time of
  their arrival and the queue is in that order, so expiry looks only at the oldest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import hiredis
import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.driven_coroutines import ADOPTED, park, taskless
from ojs_cluster.redis.errors import Lost, NotSent, RedisReplyError, TooLarge
from ojs_cluster.redis.reply_waiters import Answer, Clock, DrivenWaiter, Held, Waiter
from ojs_cluster.redis.transport import Transport

Arg = bytes | str | int | float

# hiredis ships stubs, but they type the argument as a tuple of one and the result not at all.
pack: Final[Callable[[tuple[Arg, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]

ASKING: Final = pack((b"ASKING",))
_MORE: Final = object()
BURST: Final = 10
"""Queued commands that are sent at once. In one turn of the event loop all callers that run queue
theirs, and the writer has the next turn: without this Redis waits for all of them, then they wait
for all of Redis, and processors are idle. Fewer cost Redis more reads (docs/adr/019)."""


class Channel(Protocol):
    """What callers need of a connection: this one, or one that answers later (``committer``)."""

    @property
    def open(self) -> bool:
        """Whether commands may be sent."""
        ...

    @property
    def full(self) -> bool:
        """Whether callers have to wait for room."""
        ...

    @property
    def pending(self) -> int:
        """Commands not answered yet."""
        ...

    @property
    def silent_s(self) -> float:
        """For how long, in seconds, the node has owed a reply and sent nothing."""
        ...

    async def execute(self, payload: bytes) -> Answer:
        """Send one packed command and wait for what comes back."""
        ...

    async def execute_asking(self, payload: bytes) -> Answer:
        """``execute`` with ASKING directly before the command."""
        ...

    async def wait_for_room(self) -> None:
        """Sleep until it is worth looking at ``full`` again."""
        ...

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """Called periodically, to end what has been silent for too long."""
        ...


class Connection:
    """A connection that has finished its handshake. ``run`` must be running for it to work."""

    def __init__(
        self,
        transport: Transport,
        clock: Clock,
        *,
        name: str,
        max_in_flight: int,
        max_reply_bytes: int,
    ) -> None:
        self.name = name
        self.open = True
        self.full = False
        self._transport = transport
        self._clock = clock
        self._limit = max_in_flight
        self._max_reply_bytes = max_reply_bytes
        self._parser = hiredis.Reader(replyError=RedisReplyError, notEnoughData=_MORE)
        self._queue: list[Waiter] = []
        self._payloads: list[bytes] = []
        self._in_flight: deque[Waiter] = deque()
        self._idle_writer: Task | None = None
        self._burst = BURST if transport.immediate else max_in_flight + 1
        self._rest = b""
        """What was taken from the queue and not sent yet; the writer's next turn is for it."""
        self._sending = False
        self._room = trio.lowlevel.ParkingLot()
        self._last_progress = clock.now
        self._end: str | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.name} in_flight={self.pending} open={self.open}>"

    @property
    def pending(self) -> int:
        """Commands queued or unanswered, abandoned ones included."""
        return len(self._queue) + len(self._in_flight)

    @property
    def silent_s(self) -> float:
        """For how long, in seconds, the node has owed a reply and sent nothing."""
        return self._clock.now - self._last_progress if self._in_flight else 0.0

    async def execute(self, payload: bytes) -> Answer:
        """Send one packed command and wait for what comes back: a reply, error reply or signal.

        Check ``open`` and ``full`` first (no await in between): this method does not.
        """
        driven = taskless.driven
        if driven is not None:
            queued = DrivenWaiter(driven, self._clock.now)
            if not self._payloads:
                taskless.unsent.append(self)
            self._queue.append(queued)
            self._payloads.append(payload)
            if len(self._payloads) >= self._burst:
                self._send_early()
            if len(self._queue) + len(self._in_flight) >= self._limit:
                self.full = True
            answer = await park()
            return await queued.adopted() if answer is ADOPTED else answer
        waiter = Waiter(current_task(), self._clock.now)
        self._queue.append(waiter)
        self._payloads.append(payload)
        writer = self._idle_writer
        if writer is not None:
            self._idle_writer = None
            reschedule(writer)
        elif len(self._payloads) >= self._burst:
            self._send_early()
        if len(self._queue) + len(self._in_flight) >= self._limit:
            self.full = True
        return await wait_task_rescheduled(waiter.abort)  # type: ignore[no-any-return]

    async def execute_asking(self, payload: bytes) -> Answer:
        """``execute`` with ASKING directly before the command, as an ASK redirection wants."""
        # The pair must stay a pair: an ASKING left alone would lend its right to the next
        # command of somebody else. So neither half can be dropped from the queue.
        self._queue.append(Waiter(None, self._clock.now, droppable=False))
        self._payloads.append(b"")
        waiter = Waiter(current_task(), self._clock.now, droppable=False)
        self._queue.append(waiter)
        self._payloads.append(ASKING + payload)
        self._wake_writer()
        return await wait_task_rescheduled(waiter.abort)  # type: ignore[no-any-return]

    def submit(self, payload: bytes, *, asking: bool = False) -> Held:
        """Queue one packed command without waiting for it; check ``open`` first."""
        if asking:
            self._queue.append(Waiter(None, self._clock.now, droppable=False))
            self._payloads.append(b"")
            payload = ASKING + payload
        held = Held(self._clock.now)
        self._queue.append(held)
        self._payloads.append(payload)
        self._wake_writer()
        return held

    async def wait_for_room(self) -> None:
        """Sleep until commands have been answered, or the connection has ended."""
        await self._room.park()

    async def run(self) -> str:
        """Read and write until the connection ends; returns why. Never leaves a waiter asleep."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with, self._write, nursery.cancel_scope)
                nursery.start_soon(self._end_with, self._read, nursery.cancel_scope)
        finally:
            self.close("the client was closed")
        return self._end or "the client was closed"

    def close(self, reason: str) -> None:
        """End the connection now and tell every waiter. Harmless when already ended."""
        if not self.open:
            return
        self.open = False
        self.full = True
        self._end = reason
        self._transport.close()
        lost = Lost(f"connection to {self.name} ended before the reply: {reason}")
        for waiter in self._in_flight:
            waiter.wake(lost)
        self._in_flight.clear()
        unsent = NotSent(f"connection to {self.name} ended: {reason}")
        for waiter in self._queue:
            waiter.wake(unsent)
        self._queue.clear()
        self._payloads.clear()
        self._rest = b""
        self._room.unpark_all()
        # Replies that were read before the end may have led to commands for other nodes.
        taskless.flush()

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """Called periodically: end a silent connection, expire callers that waited too long."""
        now = self._clock.now
        if self.silent_s > reply_timeout_s:
            self.close(f"no reply for {reply_timeout_s:g} s")
            return
        # Whoever was woken for the last free place may have been cancelled instead of taking it.
        self._make_room()
        oldest = now - call_timeout_s
        for waiter in self._in_flight:
            if waiter.stamp > oldest:
                return
            waiter.wake(Lost(f"no reply from {self.name} within {call_timeout_s:g} s"))
        for waiter in self._queue:
            if waiter.stamp > oldest:
                return
            waiter.wake(NotSent(f"not sent to {self.name} within {call_timeout_s:g} s"))

    def _make_room(self) -> None:
        """Let callers in again, those who wait first, if the limits allow it."""
        free = self._limit - self.pending
        if free > 0 and self.open:
            self.full = False
            self._room.unpark(count=free)

    def _wake_writer(self) -> None:
        writer = self._idle_writer
        if writer is not None:
            self._idle_writer = None
            reschedule(writer)

    async def _end_with(self, loop: Callable[[], Any], cancel_scope: trio.CancelScope) -> None:
        """Run one of the two loops; when it ends for any reason, end the connection."""
        try:
            reason = await loop()
        except (OSError, trio.ClosedResourceError) as error:
            reason = str(error) or type(error).__name__
        self.close(reason)
        cancel_scope.cancel()

    async def _write(self) -> str:
        queue = self._queue
        while self.open:
            if not queue and not self._rest:
                self._idle_writer = current_task()
                await wait_task_rescheduled(self._abort_writer)
                continue
            data, self._rest = self._rest or self._take_queue(), b""
            if data:
                self._sending = True
                await self._transport.send(data)
                self._sending = False
            if self.full or self._room:
                self._make_room()  # abandoned commands were dropped
        return "closed"

    def _take_queue(self) -> bytes:
        """The bytes of all queued commands, which are in flight from now on.

        Moved before the send: a send that fails half way may have delivered any of them.
        """
        queue, payloads, in_flight = self._queue, self._payloads, self._in_flight
        if not in_flight:
            self._last_progress = self._clock.now
        for waiter in queue:
            if waiter.task is None and waiter.droppable:
                self._drop_abandoned()
                break
        in_flight.extend(queue)
        data = b"".join(payloads)
        queue.clear()
        payloads.clear()
        return data

    def _send_early(self) -> None:
        """Send what is queued without waiting for the writer's turn, which is to come."""
        if self._sending or self._rest:
            return
        data = self._take_queue()
        # An end of the connection is left to the writer, which meets it again: the caller, whom it
        # would wake, is not asleep yet.
        self._rest = data[self._transport.send_now(data) :]

    def flush(self) -> None:
        """Send what driven requests have queued, without waiting for the writer's turn."""
        if self.open and (self._payloads or self._rest):
            if self._transport.immediate:
                self._send_early()
            if self._payloads or self._rest:
                self._wake_writer()
            elif self.full or self._room:
                self._make_room()

    def _abort_writer(self, _raise_cancel: object) -> Abort:
        self._idle_writer = None
        return Abort.SUCCEEDED

    def _drop_abandoned(self) -> None:
        """Take commands out of the queue whose callers were cancelled before they were sent."""
        kept = [
            (waiter, payload)
            for waiter, payload in zip(self._queue, self._payloads, strict=True)
            if waiter.task is not None or not waiter.droppable
        ]
        self._queue[:] = [waiter for waiter, _ in kept]
        self._payloads[:] = [payload for _, payload in kept]

    async def _read(self) -> str:
        receive, parser, in_flight = self._transport.receive, self._parser, self._in_flight
        gets = parser.gets
        partial = 0
        while True:
            data = await receive()
            if not data:
                return "closed by the server"
            if not self.open:
                return "closed"
            self._last_progress = self._clock.now
            parser.feed(data)
            partial += len(data)
            try:
                while (answer := gets()) is not _MORE:
                    partial = 0
                    waiter = in_flight.popleft()
                    task = waiter.task
                    if task is not None:
                        waiter.task = None
                        reschedule(task, Value(answer))
                    else:
                        waiter.keep(answer)
                if taskless.unsent:
                    taskless.flush()
            except (hiredis.ProtocolError, IndexError) as error:
                # IndexError: a message that no command asked for. Either way the order is lost.
                return f"protocol error: {error}"
            if partial == 0:
                partial = parser.len()
            elif partial > self._max_reply_bytes:
                return self._refuse_reply()
            if self.full or self._room:
                self._make_room()

    def _refuse_reply(self) -> str:
        reason = f"a reply of more than {self._max_reply_bytes} bytes"
        if self._in_flight:
            self._in_flight.popleft().wake(TooLarge(reason))
        return reason
