"""One multiplexed connection: many commands in flight, answered in the order they were sent.

A caller packs its command, queues it and sleeps. The writer task joins all queued commands into one
send. If a caller finds ``BURST`` commands in the queue, it sends them without the writer. The
reader task parses the replies and wakes the callers in order. A command needs no task, cancel
scope, event or timer of its own, because these cost most of the CPU time of other clients.

These rules keep the stream consistent:

- A command is in ``_queue`` until its bytes are passed to the transport, then in ``_in_flight``
  until its reply. So the client knows which commands were never sent and which may have been
  applied.
- When a caller is cancelled, its waiter forgets the task. If the command is still queued, the
  writer drops it. If it is in flight, the reader discards the reply.
- ``check``, which runs periodically, ends commands that have waited too long. ``_queue`` and
  ``_in_flight`` are ordered by time, so it examines only their oldest entries.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import hiredis
import trio
from outcome import Value
from trio.lowlevel import Abort, Task, current_task, reschedule, wait_task_rescheduled

from ojs_cluster.redis.driven_coroutines import ADOPTED, driver_state, park
from ojs_cluster.redis.errors import CommandNotSent, OversizedReply, RedisReplyError, ReplyLost
from ojs_cluster.redis.reply_waiters import (
    Answer,
    CoarseClock,
    DrivenReplyWaiter,
    KeptReply,
    ReplyBatch,
    ReplyWaiter,
)
from ojs_cluster.redis.silent_nodes import IMPATIENT_S
from ojs_cluster.redis.transport import Transport

Arg = bytes | str | int | float

# The type stubs of hiredis are wrong here: the argument is a tuple of one, and there is no result.
pack: Final[Callable[[tuple[Arg, ...]], bytes]] = hiredis.pack_command  # type: ignore[assignment]

ASKING: Final = pack((b"ASKING",))
_MORE: Final = object()
"""What the parser returns when it needs more bytes."""
BURST: Final = 10
"""Number of queued commands that a caller sends without the writer.

In one turn of the event loop, every caller that is ready queues its command. The writer runs in the
next turn. Without bursts Redis would be idle while callers run, and callers would be idle while
Redis runs. Smaller bursts would cost Redis more reads (docs/adr/019).
"""


class NodeConnection(Protocol):
    """The interface of ``RedisConnection`` and ``GroupCommitConnection`` for callers."""

    @property
    def open(self) -> bool:
        """Whether commands may be sent."""
        ...

    @property
    def full(self) -> bool:
        """Whether callers have to call ``wait_until_not_full`` before they send a command."""
        ...

    @property
    def pending(self) -> int:
        """Number of commands that are not answered yet."""
        ...

    @property
    def silent_s(self) -> float:
        """Seconds since the node last sent anything; 0 if it has no unanswered commands."""
        ...

    async def execute(self, payload: bytes) -> Answer:
        """Send one packed command; return its reply, error reply or failure."""
        ...

    async def execute_asking(self, payload: bytes) -> Answer:
        """Do as ``execute``, with ASKING directly before the command."""
        ...

    async def wait_until_not_full(self) -> None:
        """Sleep until ``full`` may have changed."""
        ...

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """End a silent connection, and commands that have waited too long.

        The client calls this method periodically.
        """
        ...


class RedisConnection:
    """A multiplexed connection; ``run`` reads and writes for it."""

    def __init__(
        self,
        transport: Transport,
        clock: CoarseClock,
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
        self._max_pending = max_in_flight
        self._max_reply_bytes = max_reply_bytes
        self._parser = hiredis.Reader(replyError=RedisReplyError, notEnoughData=_MORE)
        self._queue: list[ReplyWaiter] = []
        self._payloads: list[bytes] = []
        self._in_flight: deque[ReplyWaiter] = deque()
        self._idle_writer: Task | None = None
        self._burst_size = BURST if transport.can_send_now else max_in_flight + 1
        self._unsent_bytes = b""
        """Bytes of commands in flight that are not sent yet; the writer sends them first."""
        self._sending = False
        self._impatient: list[ReplyBatch] = []
        """The batches of reads that had missing replies at the last ``check``, and newer ones."""
        self._waiting_callers = trio.lowlevel.ParkingLot()
        self._last_progress = clock.attentive
        self._end_reason: str | None = None

    def __repr__(self) -> str:
        return f"<RedisConnection {self.name} in_flight={self.pending} open={self.open}>"

    @property
    def pending(self) -> int:
        """Number of queued and unanswered commands, including those of cancelled callers."""
        return len(self._queue) + len(self._in_flight)

    @property
    def silent_s(self) -> float:
        """Seconds since the node last sent anything; 0 if it has no unanswered commands."""
        return self._clock.attentive - self._last_progress if self._in_flight else 0.0

    @property
    def silent(self) -> bool:
        """Whether the node has not answered for ``IMPATIENT_S``."""
        return self.silent_s > IMPATIENT_S

    @property
    def ready(self) -> bool:
        """Whether a command may be sent and the node is responsive."""
        return not (self.full or self.silent)

    async def execute(self, payload: bytes) -> Answer:
        """Send one packed command; return its reply, error reply or failure.

        The caller has to check ``open`` and ``full`` directly before, without an await in between.
        """
        driven = driver_state.driven
        if driven is not None:
            queued = DrivenReplyWaiter(driven, self._clock.now)
            self.queue(queued, payload)
            answer = await park()
            return await queued.wait_in_task() if answer is ADOPTED else answer
        waiter = ReplyWaiter(current_task(), self._clock.now)
        self._queue.append(waiter)
        self._payloads.append(payload)
        writer = self._idle_writer
        if writer is not None:
            self._idle_writer = None
            reschedule(writer)
        elif len(self._payloads) >= self._burst_size:
            self._send_queued()
        if len(self._queue) + len(self._in_flight) >= self._max_pending:
            self.full = True
        return await wait_task_rescheduled(waiter.abort)  # type: ignore[no-any-return]

    def queue(self, waiter: ReplyWaiter, payload: bytes) -> None:
        """Queue a packed command, which the next ``DriverState.flush`` sends.

        The caller has to check ``open`` and ``full`` directly before.
        """
        if not self._payloads:
            driver_state.with_commands.append(self)
        self._queue.append(waiter)
        self._payloads.append(payload)
        if len(self._payloads) >= self._burst_size:
            self._send_queued()
        if len(self._queue) + len(self._in_flight) >= self._max_pending:
            self.full = True

    async def execute_asking(self, payload: bytes) -> Answer:
        """Do as ``execute``, with ASKING directly before the command (ASK redirection)."""
        # ASKING applies to the next command on the connection. If the command were dropped from the
        # queue, ASKING would apply to the command of another caller. So neither is droppable.
        self._queue.append(ReplyWaiter(None, self._clock.now, droppable=False))
        self._payloads.append(b"")
        waiter = ReplyWaiter(current_task(), self._clock.now, droppable=False)
        self._queue.append(waiter)
        self._payloads.append(ASKING + payload)
        self._wake_writer()
        return await wait_task_rescheduled(waiter.abort)  # type: ignore[no-any-return]

    def submit(self, payload: bytes, *, asking: bool = False) -> KeptReply:
        """Queue one packed command without waiting for it; check ``open`` first."""
        if asking:
            self._queue.append(ReplyWaiter(None, self._clock.now, droppable=False))
            self._payloads.append(b"")
            payload = ASKING + payload
        kept = KeptReply(self._clock.now)
        self._queue.append(kept)
        self._payloads.append(payload)
        self._wake_writer()
        return kept

    def submit_reads(self, payload: bytes, count: int) -> ReplyBatch:
        """Send several packed commands that only read; check ``open`` and ``full`` first.

        Args:
            payload: the packed commands.
            count: their number.

        Returns:
            The replies. If the node sends nothing for ``IMPATIENT_S``, the missing replies become
            failures.
        """
        batch = ReplyBatch(count, self._clock.now)
        self._queue += [batch] * count
        self._payloads += [payload, *([b""] * (count - 1))]
        self._impatient.append(batch)
        if self.pending >= self._max_pending:
            self.full = True
        self.flush()
        return batch

    async def wait_until_not_full(self) -> None:
        """Sleep until commands have been answered, or the connection has ended."""
        await self._waiting_callers.park()

    async def run(self) -> str:
        """Read and write until the connection ends; then wake all waiters and return the reason."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._end_with, self._write, nursery.cancel_scope)
                nursery.start_soon(self._end_with, self._read, nursery.cancel_scope)
        finally:
            self.close("the client was closed")
        return self._end_reason or "the client was closed"

    def close(self, reason: str) -> None:
        """End the connection and wake every waiter, unless the connection has ended already."""
        if not self.open:
            return
        self.open = False
        self.full = True
        self._end_reason = reason
        self._transport.close()
        lost = ReplyLost(f"connection to {self.name} ended before the reply: {reason}")
        for waiter in self._in_flight:
            waiter.wake(lost)
        self._in_flight.clear()
        unsent = CommandNotSent(f"connection to {self.name} ended: {reason}")
        for waiter in self._queue:
            waiter.wake(unsent)
        self._queue.clear()
        self._payloads.clear()
        self._unsent_bytes = b""
        self._waiting_callers.unpark_all()
        # The coroutines that ``wake`` has continued may have queued commands and responses.
        driver_state.flush()

    def check(self, reply_timeout_s: float, call_timeout_s: float) -> None:
        """End a silent connection, and commands that have waited too long (see ``silent_nodes``).

        The router calls this method periodically.
        """
        now = self._clock.now
        if self.silent_s > reply_timeout_s:
            self.close(f"no reply for {reply_timeout_s:g} s")
            return
        self._impatient = [batch for batch in self._impatient if not batch.complete]
        if self.silent_s > IMPATIENT_S:
            for batch in self._impatient:
                batch.wake(ReplyLost(f"no reply from {self.name} for {IMPATIENT_S:g} s"))
        # A caller that was woken may have been cancelled before it sent a command. Then other
        # callers may be waiting although the connection is not full.
        self._wake_waiting_callers()
        self._end_late_commands(now - call_timeout_s, f"{self.name} within {call_timeout_s:g} s")
        # The coroutines that have continued may have queued commands and responses.
        driver_state.flush()

    def _end_late_commands(self, queued_until: float, where: str) -> None:
        # ``wake`` continues coroutines. One that sent the queue would change the lists below, and
        # would send commands that are then reported as not sent.
        sending, self._sending = self._sending, True
        try:
            for waiter in self._in_flight:
                if waiter.queued_at > queued_until:
                    return
                waiter.wake(ReplyLost(f"no reply from {where}"))
            for waiter in self._queue:
                if waiter.queued_at > queued_until:
                    return
                # Commands of ``execute_asking`` stay in the queue, so they may be sent later.
                stays = waiter.task is not None and not waiter.droppable
                waiter.wake((ReplyLost if stays else CommandNotSent)(f"not sent to {where}"))
        finally:
            self._sending = sending

    def _wake_waiting_callers(self) -> None:
        """Wake the oldest callers in ``wait_until_not_full``, as many as may send a command now."""
        free = self._max_pending - self.pending
        if free > 0 and self.open:
            self.full = False
            self._waiting_callers.unpark(count=free)

    def _wake_writer(self) -> None:
        writer = self._idle_writer
        if writer is not None:
            self._idle_writer = None
            reschedule(writer)

    async def _end_with(self, loop: Callable[[], Any], cancel_scope: trio.CancelScope) -> None:
        """Run ``_read`` or ``_write``, and end the connection when it ends for any reason."""
        try:
            reason = await loop()
        except (OSError, trio.ClosedResourceError) as error:
            reason = str(error) or type(error).__name__
        self.close(reason)
        cancel_scope.cancel()

    async def _write(self) -> str:
        queue = self._queue
        while self.open:
            if not queue and not self._unsent_bytes:
                self._idle_writer = current_task()
                await wait_task_rescheduled(self._abort_writer)
                continue
            data, self._unsent_bytes = self._unsent_bytes or self._take_queue(), b""
            if data:
                self._sending = True
                await self._transport.send(data)
                self._sending = False
            if self.full or self._waiting_callers:
                self._wake_waiting_callers()  # ``_take_queue`` may have dropped commands
        return "closed"

    def _take_queue(self) -> bytes:
        """Return the bytes of all queued commands, and move the commands to ``_in_flight``.

        They move before they are sent, because a send that fails may have sent some of them.
        """
        queue, payloads, in_flight = self._queue, self._payloads, self._in_flight
        if not in_flight:
            self._last_progress = self._clock.attentive
        for waiter in queue:
            if waiter.task is None and waiter.droppable:
                self._drop_abandoned()
                break
        in_flight.extend(queue)
        data = b"".join(payloads)
        queue.clear()
        payloads.clear()
        return data

    def _send_queued(self) -> None:
        """Send the queued commands now instead of leaving them to the writer."""
        if self._sending or self._unsent_bytes:
            return
        data = self._take_queue()
        # If the send fails, the writer sends the same bytes again, fails as well, and ends the
        # connection. This method must not end it, because the caller is not asleep yet.
        self._unsent_bytes = data[self._transport.send_now(data) :]

    def flush(self) -> None:
        """Send the commands that driven coroutines have queued."""
        if self.open and (self._payloads or self._unsent_bytes):
            if self._transport.can_send_now:
                self._send_queued()
            if self._payloads or self._unsent_bytes:
                self._wake_writer()
            elif self.full or self._waiting_callers:
                self._wake_waiting_callers()

    def _abort_writer(self, _raise_cancel: object) -> Abort:
        self._idle_writer = None
        return Abort.SUCCEEDED

    def _drop_abandoned(self) -> None:
        """Remove commands from the queue whose callers were cancelled."""
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
        partial_bytes = 0
        while True:
            data = await receive()
            if not data:
                return "closed by the server"
            if not self.open:
                return "closed"
            self._last_progress = self._clock.attentive
            parser.feed(data)
            partial_bytes += len(data)
            try:
                while (answer := gets()) is not _MORE:
                    partial_bytes = 0
                    waiter = in_flight.popleft()
                    task = waiter.task
                    if task is not None:
                        waiter.task = None
                        reschedule(task, Value(answer))
                    else:
                        waiter.receive(answer)
                driver_state.flush()
            except (hiredis.ProtocolError, IndexError) as error:
                # IndexError means a reply without a command, so replies no longer match commands.
                return f"protocol error: {error}"
            if partial_bytes == 0:
                partial_bytes = parser.len()
            elif partial_bytes > self._max_reply_bytes:
                return self._refuse_reply()
            if self.full or self._waiting_callers:
                self._wake_waiting_callers()

    def _refuse_reply(self) -> str:
        reason = f"a reply of more than {self._max_reply_bytes} bytes"
        if self._in_flight:
            self._in_flight.popleft().wake(OversizedReply(reason))
        return reason
