"""One stream of server-sent events (spec: ojs-realtime 2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import DirectOutput
from ojs_cluster.http.push.access import ReplayStopped, StreamAccess
from ojs_cluster.http.push.announcements import (
    GRACE_S,
    SHUTDOWN,
    ended_data,
    shutdown_data,
)
from ojs_cluster.http.push.channels import shards_of
from ojs_cluster.http.push.frames import (
    HEARTBEAT,
    RETRY,
    FrameEncoder,
    event_block,
    position_block,
)
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.events.feed import Feed
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
REPLAY_CHUNK: Final = 50
"""Maximum number of events of a replay that are sent before the API key is checked again."""


class EventStream:
    """The body of a response: the events of one channel, until the client disconnects."""

    def __init__(
        self,
        access: StreamAccess,
        subscription: Subscription,
        feed: Feed,
        *,
        starts: Mapping[int, Start] | None,
        gap: bool = False,
        client: str,
    ) -> None:
        """Take over the feed, which ``close`` closes.

        Args:
            access: the access of the client.
            subscription: its subscription.
            feed: the feed of the subscription.
            starts: the positions at which a client resumes; None to send new events only.
            gap: whether the client may have missed events that Redis does not hold any more.
            client: the name under which the stream is counted.
        """
        self._app: App = access.app
        self._access = access
        self._subscription = subscription
        self._feed = feed
        self._follower = self._app.push.hub.add_client()
        self._starts = starts
        self._gap = gap
        self._client: str | None = client
        self._encoder = FrameEncoder()
        """Encodes the events of a replay."""
        if starts is None:
            self._follower.follow(feed)
        else:
            self._encoder.reached = initial_positions(starts)
        self._ended_job: JobRecord | None = None
        self._written_at = 0.0

    def report_ended(self, job: JobRecord) -> None:
        """Send the end of a job that ended before the stream was opened; then end."""
        self._ended_job = job

    def close(self) -> None:
        """Close the feed, and stop counting this stream. May be called repeatedly."""
        client, self._client = self._client, None
        if client is not None:
            push = self._app.push
            push.hub.remove_client(self._follower)
            push.hub.close_feed(self._feed)
            push.close(client)

    async def run(self, send: Send, direct: DirectOutput | None = None) -> None:
        """Send events until the job ends, the process stops or the API key is no longer valid."""
        self._follower.output = direct
        try:
            start = self._follower.position or self._encoder.position
            await self._write(send, RETRY + position_block(start))
            if not await self._begin(send):
                return
            if self._ended_job is not None and not self._encoder.ended:
                position = self._follower.position.removesuffix(b"~") + b"~"
                now_ms = self._app.store.clock.now_ms()
                data = ended_data(self._ended_job, now_ms)
                await self._write(send, event_block(position, STATE_CHANGED, data))
            elif not self._encoder.ended:
                await self._follow(send, direct)
        except OJSError:
            return  # Redis does not answer; the client reconnects and resumes at its position
        finally:
            self.close()

    async def _begin(self, send: Send) -> bool:
        """Send a gap event, or the events since the position of the client.

        Returns:
            Whether the stream may continue.
        """
        subscription, readers = self._subscription, self._feed.readers
        if self._gap:
            at_ms = self._app.store.clock.now_ms()
            shard = readers.shards[0].index
            gap = Gap(shard, readers.reader(shard).position, at_ms, at_ms)
            self._encoder.reached = readers.parts
            await self._write(send, self._encoder.items([(subscription, gap)]))
        if self._starts is None:
            return True

        async def deliver(items: list[Found]) -> None:
            self._access.check_replay()  # also while no event is of this channel
            for first in range(0, len(items), REPLAY_CHUNK):
                self._access.check_replay()
                await self._write(send, self._encoder.items(items[first : first + REPLAY_CHUNK]))

        try:
            await replay(
                *(self._app.store, readers, [subscription], self._starts, deliver),
                lambda: self._follower.follow(self._feed),
            )
        except ReplayStopped:
            if self._access.is_valid():
                block = event_block(self._encoder.position, SHUTDOWN, shutdown_data())
                await self._write(send, block)
            return False
        return True

    async def _follow(self, send: Send, direct: DirectOutput | None) -> None:
        """Send new events, and heartbeats while there are none."""
        follower, app = self._follower, self._app
        check_at = trio.current_time() + CHECK_S
        end_at = float("inf")
        while not follower.has_ended:
            now = trio.current_time()
            if app.draining.is_set() and end_at == float("inf"):
                end_at = now + GRACE_S
                block = event_block(follower.position, SHUTDOWN, shutdown_data())
                await self._write(send, block)
            if now >= end_at:
                break
            if now >= check_at:
                check_at = now + CHECK_S
                if not await self._check():
                    break
            heartbeat_at = max(self._written_at, follower.sent_at) + HEARTBEAT_S
            if now >= heartbeat_at:
                await self._write(send, HEARTBEAT + position_block(follower.position))
            elif await follower.wait(min(heartbeat_at, check_at, end_at) - now):
                await self._write(send, b"".join(follower.next_piece().messages))
            if direct is not None:
                await direct.flush()

    async def _check(self) -> bool:
        """Read new partitions of the queue, too. Return whether the stream may continue."""
        channel = self._subscription.channel
        if channel.kind == "queue":
            store = self._app.store
            await self._feed.extend(store, await shards_of(store, channel))
        return self._access.is_valid()

    async def _write(self, send: Send, data: bytes) -> None:
        if data:
            await send(data)
            self._written_at = trio.current_time()


def initial_positions(starts: Mapping[int, Start]) -> dict[int, bytes]:
    """Return the parts of the position at which a stream resumes."""
    return {
        index: part_of(index, start.position, half=start.half) for index, start in starts.items()
    }


def has_ended(job: JobRecord) -> bool:
    """Return whether a job is in a terminal state."""
    return job.state in TERMINAL
