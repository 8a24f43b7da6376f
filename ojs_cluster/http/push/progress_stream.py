"""The progress of one job as server-sent events (spec: ojs-progress 7.2).

The events of a job only say that its progress has changed. The stream then reads the job, and sends
the progress as ``GET /ojs/v1/jobs/{id}/progress`` returns it. So a client that reads slowly may
miss intermediate values, and always gets the last value. For the same reason a stream pauses
between two reads, however many events there are.

Each value is sent twice: as the event ``progress`` of the spec, and as an event without a name,
which is the only kind that the admin UI handles (``onmessage``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import trio

from ojs_cluster.core.errors import OJSError
from ojs_cluster.core.jobs.states import State
from ojs_cluster.http.messages import DirectOutput, task_output
from ojs_cluster.http.push.access import StreamAccess
from ojs_cluster.http.push.announcements import SHUTDOWN, shutdown_data
from ojs_cluster.http.push.frames import HEARTBEAT, RETRY
from ojs_cluster.http.push.sse import CHECK_S
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.engine.jobs.record import JobRecord
from ojs_cluster.store.features.events.feed import Feed
from ojs_cluster.store.features.progress.progress_fields import read_progress_fields

READ_EVERY_S: Final = 0.25
"""Shortest time in seconds between two reads of the job by one stream."""
_LAST_EVENTS: Final = {
    State.COMPLETED: b"completed",
    State.CANCELLED: b"cancelled",
    State.DISCARDED: b"failed",
}


class ProgressStream:
    """The body of a response: the progress of a job, until the job has ended."""

    def __init__(
        self,
        access: StreamAccess,
        feed: Feed,
        shard: Shard | Meta,
        job_id: str,
        body_of: Callable[[JobRecord], bytes],
        client: str,
    ) -> None:
        """Take over the feed, which ``close`` closes.

        Args:
            access: the access of the client.
            feed: the feed of the events of the job.
            shard: the shard of the job.
            job_id: its id.
            body_of: returns the progress of a job as JSON.
            client: the name under which the stream is counted.
        """
        self._access = access
        self._feed = feed
        self._follower = access.app.push.hub.add_client()
        self._follower.follow(feed)
        self._shard = shard
        self._job_id = job_id
        self._body_of = body_of
        self._client: str | None = client

    def close(self) -> None:
        """Close the feed, and stop counting this stream. May be called repeatedly."""
        client, self._client = self._client, None
        if client is not None:
            push = self._access.app.push
            push.hub.remove_client(self._follower)
            push.hub.close_feed(self._feed)
            push.close(client)

    async def run(
        self, send: Callable[[bytes], Awaitable[None]], direct: DirectOutput | None = None
    ) -> None:
        """Send progress until the job ends, the process stops or the API key is no longer valid."""
        self._follower.output = task_output(direct)
        try:
            await send(RETRY + b"\n")
            await self._follow(send)
        except OJSError:
            return  # the job was removed, or Redis does not answer
        finally:
            self.close()

    async def _follow(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        app, follower = self._access.app, self._follower
        sent = b""
        while not app.draining.is_set():
            if not self._access.is_valid():
                return
            follower.skip()
            job = await read_progress_fields(app.store, self._shard, self._job_id)
            body = self._body_of(job)
            last_event = _LAST_EVENTS.get(job.state)
            if last_event is not None:
                await send(b"event: %b\ndata: %b\n\ndata: %b\n\n" % (last_event, body, body))
                return
            if job.progress is not None and body != sent:
                sent = body
                await send(b"event: progress\ndata: %b\n\ndata: %b\n\n" % (body, body))
            wait_began = trio.current_time()
            await follower.wait(CHECK_S)
            if trio.current_time() >= wait_began + CHECK_S:
                await send(HEARTBEAT + b"\n")
            await trio.sleep_until(wait_began + READ_EVERY_S)
        data = orjson.dumps(shutdown_data())
        await send(b"event: %b\ndata: %b\n\n" % (SHUTDOWN.encode(), data))
