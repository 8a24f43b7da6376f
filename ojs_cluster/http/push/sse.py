"""One stream of server-sent events (spec: ojs-realtime 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.http.app import App
from ojs_cluster.http.push.access import ReplayStopped, StreamAccess
from ojs_cluster.http.push.announcements import (
    GRACE_S,
    SHUTDOWN,
    ended_data,
    shutdown_data,
)
from ojs_cluster.http.push.channels import shards_of
from ojs_cluster.http.push.frames import HEARTBEAT, RETRY, FrameEncoder
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.events.hub import Readers
from ojs_cluster.store.features.events.new_event import STATE_CHANGED, Gap
from ojs_cluster.store.features.events.positions import Start, part_of
from ojs_cluster.store.features.events.replay import Found, replay
from ojs_cluster.store.features.events.subscriber import Subscription

Send = Callable[[bytes], Awaitable[None]]

HEARTBEAT_S: Final = 10.0
"""Seconds without a byte after which a heartbeat is sent; the spec allows 15."""
CHECK_S: Final = 5.0
"""Interval in seconds at which the API key and the partitions of the queue are checked. A new
partition gets no job in its first ten seconds."""
GATHER_S: Final = 0.02
"""Pause in seconds after the last event was sent, so that one write sends several later events."""
PIECE_BYTES: Final = 8 * 1024
"""Maximum number of bytes of events that are encoded at once. A client that reads slowly keeps so
many bytes in memory."""
REPLAY_CHUNK: Final = 50
"""Maximum number of events of a replay that are sent before the API key is checked again."""


class EventStream:
    """The body of a response: the events of one channel, until the client disconnects."""

    def __init__(
        self,
        access: StreamAccess,
        subscription: Subscription,
        readers: Readers,
        *,
        starts: Mapping[int, Start] | None,
        gap: bool = False,
        client: str,
    ) -> None:
        """Take over the subscription and its readers, which ``close`` releases.

        Args:
            access: the access of the client.
            subscription: its subscription. It is registered unless there are ``starts``.
            readers: the readers of the shards of the channel.
            starts: the positions at which a client resumes; None to send new events only.
            gap: whether the client may have missed events that Redis does not hold any more.
            client: the name under which the stream is counted.
        """
        self._app: App = access.app
        self._access = access
        self._subscription = subscription
        self._subscriber = subscription.subscriber
        self._readers = readers
        self._starts = starts
        self._gap = gap
        self._client: str | None = client
        self._encoder = FrameEncoder(self._subscriber)
        self._ended_job: JobRecord | None = None
        self._written_at = 0.0

    def report_ended(self, job: JobRecord) -> None:
        """Send the end of a job that ended before the subscription was registered; then end."""
        self._ended_job = job

    def close(self) -> None:
        """Release the readers, and stop counting this stream. May be called repeatedly."""
        client, self._client = self._client, None
        if client is not None:
            self._readers.release()
            self._app.push.hub.remove_subscriber(self._subscriber)
            self._app.push.close(client)

    async def run(self, send: Send) -> None:
        """Send events until the job ends, the process stops or the API key is no longer valid."""
        try:
            await self._write(send, RETRY + self._encoder.position())
            if not await self._begin(send):
                return
            if self._ended_job is not None and not self._encoder.ended:
                self._encoder.ended = True
                await self._write(
                    send,
                    self._encoder.event(
                        STATE_CHANGED, ended_data(self._ended_job, self._app.store.clock.now_ms())
                    ),
                )
            if not self._encoder.ended:
                await self._follow(send)
        except OJSError:
            return  # Redis does not answer; the client reconnects and resumes at its position
        finally:
            self.close()

    async def _begin(self, send: Send) -> bool:
        """Send a gap event, or the events since the position of the client.

        Returns:
            Whether the stream may continue.
        """
        subscription = self._subscription
        if self._gap:
            at_ms = self._app.store.clock.now_ms()
            shard = self._readers.shards[0].index
            position = self._readers.reader(shard).position
            gap = Gap(shard, position, at_ms, at_ms)
            await self._write(send, self._encoder.items([(subscription, gap)]))
        if self._starts is None:
            return True

        async def deliver(items: list[Found]) -> None:
            self._access.check_replay()  # also while no event is of this channel
            for first in range(0, len(items), REPLAY_CHUNK):
                self._access.check_replay()
                await self._write(send, self._encoder.items(items[first : first + REPLAY_CHUNK]))

        try:
            await replay(self._app.store, self._readers, [subscription], self._starts, deliver)
        except ReplayStopped:
            if self._access.is_valid():
                await self._write(send, self._encoder.event(SHUTDOWN, shutdown_data()))
            return False
        return True

    async def _follow(self, send: Send) -> None:
        """Send new events, and heartbeats while there are none."""
        subscriber, app = self._subscriber, self._app
        check_at = trio.current_time() + CHECK_S
        end_at = float("inf")
        while not self._encoder.ended:
            now = trio.current_time()
            if app.draining.is_set() and end_at == float("inf"):
                end_at = now + GRACE_S
                await self._write(send, self._encoder.event(SHUTDOWN, shutdown_data()))
            if now >= end_at:
                return
            if now >= check_at:
                check_at = now + CHECK_S
                if not await self._check():
                    return
            if not subscriber.is_empty:
                dropped, items = subscriber.take(PIECE_BYTES)
                await self._write(
                    send,
                    self._encoder.dropped(dropped, self._app.store.clock.now_ms())
                    + self._encoder.items(items),
                )
                if subscriber.is_empty:
                    await trio.sleep(GATHER_S)
            elif now >= self._written_at + HEARTBEAT_S:
                subscriber.reached = self._readers.parts  # all events before it were sent
                await self._write(send, HEARTBEAT + self._encoder.position())
            else:
                await subscriber.wait(min(self._written_at + HEARTBEAT_S, check_at, end_at) - now)

    async def _check(self) -> bool:
        """Read new partitions of the queue, too. Return whether the stream may continue."""
        channel = self._subscription.channel
        if channel.kind == "queue":
            shards = await shards_of(self._app.store, channel)
            if await self._readers.extend(self._app.store, shards):
                self._subscriber.reached = {**self._readers.parts, **self._subscriber.reached}
        return self._access.is_valid()

    async def _write(self, send: Send, data: bytes) -> None:
        if data:
            await send(data)
            self._written_at = trio.current_time()


def initial_positions(readers: Readers, starts: Mapping[int, Start] | None) -> dict[int, bytes]:
    """Return the parts of the position at which a stream begins."""
    if starts is None:
        return readers.parts
    return {
        index: part_of(index, start.position, half=start.half) for index, start in starts.items()
    }


def has_ended(job: JobRecord) -> bool:
    """Return whether a job is in a terminal state."""
    return job.state in TERMINAL
