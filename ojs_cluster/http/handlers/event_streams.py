"""Stream new events to clients as server-sent events (spec: ojs-realtime 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ojs_cluster.core.errors import StreamRefused
from ojs_cluster.core.events import JOB_PROGRESS
from ojs_cluster.core.jobs.options import check_queue
from ojs_cluster.http import fields, query
from ojs_cluster.http.app import App
from ojs_cluster.http.authorization.queue_scope import check_queues
from ojs_cluster.http.errors import UpgradeRequired
from ojs_cluster.http.handlers import progress
from ojs_cluster.http.messages import Headers, Request, Response
from ojs_cluster.http.push.access import STREAM_SCOPE, StreamAccess
from ojs_cluster.http.push.channels import (
    ALL,
    check_access,
    check_queue_exists,
    parse_channel,
    shards_of,
    types_of,
)
from ojs_cluster.http.push.frames import FrameEncoder
from ojs_cluster.http.push.progress_stream import ProgressStream
from ojs_cluster.http.push.sse import EventStream, has_ended
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.features.events.positions import EventId, decode_id
from ojs_cluster.store.features.events.subscriber import Channel, Subscription

_PROGRESS: Final = frozenset({JOB_PROGRESS})
_HEADERS: Final[Headers] = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),  # nginx would hold events back
)


async def stream_events(app: App, request: Request) -> Response:
    """Stream the events of a job, of a queue or of the cluster.

    The queue need not exist yet.
    """
    given = query.parameters(request.query)
    channel = parse_channel(given["channel"]) if given.get("channel") else ALL
    queues = tuple(check_queue(name, field="queue") for name in query.names(given, "queue"))
    check_queues(request.queues, queues)
    if channel is ALL and len(queues) == 1:
        channel, queues = Channel(f"queue:{queues[0]}", "queue", queues[0]), ()
    await check_access(app, request, channel)
    return await _open(app, request, channel, given, queues)


async def stream_job(app: App, request: Request, job_id: str) -> Response:
    """Stream the events of a job; the stream ends when the job has ended.

    (spec: ojs-realtime 2.1)
    """
    channel = Channel(f"job:{job_id}", "job", fields.job_id(job_id))
    await check_access(app, request, channel)
    return await _open(app, request, channel, query.parameters(request.query))


async def stream_queue(app: App, request: Request, name: str) -> Response:
    """Stream the events of a queue that exists.

    (spec: ojs-realtime 2.2)
    """
    channel = Channel(f"queue:{name}", "queue", check_queue(name, field="name"))
    await check_queue_exists(app, name)
    return await _open(app, request, channel, query.parameters(request.query))


async def upgrade(_app: App, _request: Request) -> Response:
    """Refuse a request that does not open a WebSocket; ``push.websocket`` serves the others.

    (spec: ojs-realtime 3.1)
    """
    raise UpgradeRequired("open a WebSocket to this path")


async def stream_progress(app: App, request: Request, job_id: str) -> Response:
    """Stream the progress of a job; the stream ends when the job has ended.

    (spec: ojs-progress 7.2)
    """
    channel = Channel(f"job:{job_id}", "job", fields.job_id(job_id))
    await check_access(app, request, channel)
    if request.method == "HEAD":
        return Response(200, b"", _HEADERS)
    access = StreamAccess(app, request, STREAM_SCOPE)
    with _counted(access) as client:
        subscription = Subscription(channel, _PROGRESS, (), request.queues, request.tenant)
        shards = await shards_of(app.store, channel)
        feed = await app.push.hub.open_feed(app.store, shards, [subscription], FrameEncoder)
        stream = ProgressStream(
            *(access, feed, shards[0], channel.value, progress.body_of), client=client
        )
    return Response(200, b"", _HEADERS, stream=stream)


async def _open(
    app: App,
    request: Request,
    channel: Channel,
    given: Mapping[str, str],
    queues: tuple[str, ...] = (),
) -> Response:
    """Return a response whose body is the stream of a channel.

    The stream follows its feed before the response begins. So a client that has got the head gets
    all events that follow.
    """
    types = types_of(given)
    if request.method == "HEAD":
        return Response(200, b"", _HEADERS)
    access = StreamAccess(app, request, STREAM_SCOPE)
    last_id = request.headers.get("last-event-id", "")
    event_id = decode_id(last_id, len(app.store.keys))
    with _counted(access) as client:
        subscription = Subscription(channel, types, queues, request.queues, request.tenant)
        shards = await shards_of(app.store, channel)
        feed = await app.push.hub.open_feed(app.store, shards, [subscription], FrameEncoder)
        indexes = [shard.index for shard in feed.readers.shards]
        starts = None if event_id is None else event_id.starts_of(indexes)
        # Without a known position the client may have missed events.
        lost = bool(last_id) and starts is None
        stream = EventStream(access, subscription, feed, starts=starts, gap=lost, client=client)
    try:
        if channel.kind == "job" and await _job_is_over(app, channel, stream, event_id):
            stream.close()
            return Response(204, b"")
    except BaseException:
        stream.close()
        raise
    return Response(200, b"", _HEADERS, stream=stream)


@contextmanager
def _counted(access: StreamAccess) -> Iterator[str]:
    """Count a stream, and forget it if the block raises an exception.

    Yields:
        The name under which the stream is counted.

    Raises:
        StreamRefused: the process shuts down, or has as many streams as it may have.
        RateLimited: the client has as many streams as it may have.
    """
    app = access.app
    if app.draining.is_set():
        raise StreamRefused("this process shuts down")
    client = access.client_name
    app.push.open(client)
    try:
        yield client
    except BaseException:
        app.push.close(client)
        raise


async def _job_is_over(
    app: App, channel: Channel, stream: EventStream, event_id: EventId | None
) -> bool:
    """Return whether the job has ended and the client has read its last event already.

    If the job has ended, the stream sends its end and closes. The function reads the job after the
    stream follows its feed, so it gets an end that happens later. A browser
    reconnects after the end of a stream, and stops when it gets 204.
    """
    job = await store_jobs.get(app.store, channel.value)
    if not has_ended(job):
        return False
    stream.report_ended(job)
    return event_id is not None and event_id.ended
