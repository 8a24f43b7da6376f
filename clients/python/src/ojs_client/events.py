"""Events as they happen: server-sent events that continue after a broken connection."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

import anyio

from ojs_client.background import running
from ojs_client.backoff import Backoff
from ojs_client.errors import ApiError, ConnectionFailed, OJSError
from ojs_client.jobs import parse_time
from ojs_client.options import JSON, names
from ojs_client.transport import Transport

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

_PATH: Final = "/events/stream"
_MAX_PAUSE_S: Final = 5.0
"""Longest pause in seconds before a stream is opened again."""
_SUCCESS_S: Final = 5.0
"""Time in seconds for which a stream without events must stay open to count as a success."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event.

    Args:
        id: its position. Pass the last one as ``after`` to continue there later.
        name: its name, such as ``job.completed``. After ``system.gap`` or
            ``system.events_dropped`` events are missing, so read the state again.
        data: its members.
    """

    id: str
    name: str
    data: Mapping[str, JSON]

    @property
    def job_id(self) -> str | None:
        """The job that it is about; None for an event of no job."""
        return self.data.get("job_id")

    @property
    def timestamp(self) -> datetime | None:
        """When it happened."""
        return parse_time(self.data.get("timestamp"))


class Subscription:
    """An open stream of events. Iterate over it with ``async for``, in one task.

    A wait for the next event may be cancelled, and continued later.

    Args:
        events: where the events arrive.
        failed: the error that has ended the stream, if there is one.
    """

    def __init__(self, events: MemoryObjectReceiveStream[Event], failed: list[OJSError]) -> None:
        self._events = events
        self._failed = failed

    def __aiter__(self) -> Self:
        """Return the subscription."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            ApiError: the server has refused to continue the stream.
            ConnectionFailed: the server cannot be reached any more.
        """
        try:
            return await self._events.receive()
        except anyio.EndOfStream:
            if self._failed:
                raise self._failed[0] from None
            raise StopAsyncIteration from None


@dataclass(slots=True)
class _Position:
    """Where a stream is.

    Attributes:
        last_id: the id of the last block, which the server also sends without an event: first of
            all, and as a heartbeat. So a connection that breaks before its first event loses none.
        failed_since: when the first failure after the last open connection was, in seconds of
            anyio's clock; None if there was none.
        backoff: the pauses between two connections.
    """

    last_id: str
    failed_since: float | None = None
    backoff: Backoff = field(default_factory=lambda: Backoff(max_s=_MAX_PAUSE_S))


@asynccontextmanager
async def subscribe(
    transport: Transport,
    *,
    job_id: str | None,
    queue: str | None,
    types: Sequence[str],
    after: str,
) -> AsyncIterator[Subscription]:
    """Open a stream; ``Client.events`` describes the arguments.

    The first connection is open when the block begins, so no later event is missed.
    """
    if job_id is not None and queue is not None:
        raise ValueError("give either job_id or queue")
    if "" in (job_id, queue):
        raise ValueError("job_id and queue must not be empty")
    channel = "all" if queue is None else f"queue:{queue}"
    params = {"channel": channel if job_id is None else f"job:{job_id}"}
    if chosen := names(types, "types"):
        params["types"] = ",".join(chosen)
    send, receive = anyio.create_memory_object_stream[Event](100)
    opened = anyio.Event()
    failed: list[OJSError] = []

    async def deliver(event: Event) -> None:
        # ``send_nowait`` is no checkpoint, so a cancellation arrives in ``lines`` and closes its
        # generators. httpx2 would leave that to the garbage collector. A full buffer is the
        # exception.
        try:
            send.send_nowait(event)
        except anyio.WouldBlock:
            await send.send(event)

    async def read() -> None:
        position = _Position(after)
        with send:
            try:
                goes_on = True
                while goes_on:
                    goes_on = await _read_once(transport, params, position, deliver, opened)
                    await anyio.sleep(position.backoff.next_s() if goes_on else 0)
            except (ApiError, ConnectionFailed) as error:
                failed.append(error)
            finally:
                opened.set()

    with receive:
        async with running(read):
            await opened.wait()
            if failed:
                raise failed[0]
            yield Subscription(receive, failed)


async def _read_once(
    transport: Transport,
    params: Mapping[str, str],
    position: _Position,
    deliver: Callable[[Event], Awaitable[None]],
    opened: anyio.Event,
) -> bool:
    """Read a stream until it ends; return whether to connect again.

    Raises:
        ApiError: the server refused the stream.
        ConnectionFailed: the server could not be reached for the time of the client's repetitions.
    """
    try:
        async with transport.stream(_PATH, params, position.last_id) as lines:
            if lines is None:  # the job has ended
                return False
            position.failed_since = None
            opened_at = anyio.current_time()
            opened.set()
            name, data, event_id = "", "", ""
            async for line in lines:
                key, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if key == "event":
                    name = value
                elif key == "data":
                    data += value
                elif key == "id":
                    event_id = value
                elif not line:
                    position.last_id = event_id or position.last_id
                    is_event = bool(data) and name != "server.shutdown"
                    # A stream that ends at once is no success.
                    if is_event or anyio.current_time() > opened_at + _SUCCESS_S:
                        position.backoff.reset()
                    if is_event:
                        await deliver(Event(position.last_id, name, json.loads(data)))
                    name, data, event_id = "", "", ""
    except (ApiError, ConnectionFailed) as error:
        now = anyio.current_time()
        since = position.failed_since = position.failed_since or now
        temporary = not isinstance(error, ApiError) or error.retryable
        if not temporary or now - since > transport.retry_for_s:
            raise
        return True
    return True
