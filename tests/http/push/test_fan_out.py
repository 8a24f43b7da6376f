"""Many clients of one feed, and clients that read slowly."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.push import channels, sse
from ojs_cluster.http.push.frames import FrameEncoder
from ojs_cluster.http.websocket.messages import EventMessages
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http.send_timeouts import TimedConnection
from ojs_cluster.store.features.events.subscriber import Item, Subscription
from tests.http.api import Api, entry_points, open_app, serving, until
from tests.http.push import reading, sockets
from tests.http.push.reading import Events, events
from tests.http.push.sockets import Socket, websocket

TARGET = "/ojs/v1/events/stream?types=job.enqueued"


async def _async(value: bool) -> bool:
    await trio.lowlevel.checkpoint()
    return value


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the encoders, once for each event that they encode."""
    names: list[str] = []
    for encoder in (FrameEncoder, EventMessages):
        messages: Any = encoder.messages

        def counted(
            self: Any, subscription: Subscription, item: Item, messages: Any = messages
        ) -> Sequence[bytes]:
            names.append(type(self).__name__)
            found: Sequence[bytes] = messages(self, subscription, item)
            return found

        monkeypatch.setattr(encoder, "messages", counted)
    return names


async def test_an_event_is_encoded_once_for_all_clients_that_want_the_same(
    standalone: Embedded, encoded: list[str]
) -> None:
    async with (
        open_app(standalone) as app,
        serving(app) as port,
        events(port, TARGET) as one,
        events(port, TARGET) as two,
        events(port, "/ojs/v1/events/stream?channel=queue:q") as other,
        websocket(port) as first,
        websocket(port) as second,
    ):
        for each in (first, second):
            await each.ask({"action": "subscribe", "channel": "all"})
        api = Api(app)
        jobs = [(await api.enqueue(options={"queue": "q"}))["id"] for _ in range(5)]
        found = [await stream.take(5) for stream in (one, two, other)]
        assert found[0] == found[1]
        assert all([event.data["job_id"] for event in got] == jobs for got in found)
        messages = [[await each.next() for _ in jobs] for each in (first, second)]
        assert messages[0] == messages[1]
        assert [message["data"]["job_id"] for message in messages[0]] == jobs
        assert sorted(encoded) == ["EventMessages"] * 5 + ["FrameEncoder"] * 10


async def test_a_new_client_of_a_feed_gets_no_earlier_event(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port, events(port, TARGET) as one:
        api = Api(app)
        await api.enqueue()
        [first] = await one.take(1)
        async with events(port, TARGET) as two:
            assert two.last_id == ""
            await api.enqueue()
            assert await two.take(1) == await one.take(1) != [first]
        headers = {"Last-Event-ID": first.id}
        async with events(port, TARGET, headers) as resumed:
            [second] = await resumed.take(1)
            await api.enqueue()
            assert await resumed.take(1) == await one.take(1) != [second]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Let clients have small receive buffers; return which direct sends were complete."""
    if entry_points.tls is not None:
        pytest.skip("only connections without TLS are sent to directly")

    async def dial(port: int) -> trio.SocketStream:
        connected = trio.socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await connected.connect(("127.0.0.1", port))
        return trio.SocketStream(connected)

    for module in (reading, sockets):
        monkeypatch.setattr(module, "dial", dial)
    complete: list[bool] = []
    send_now = TimedConnection.send_now

    def counted(self: TimedConnection, data: bytes) -> bool:
        complete.append(send_now(self, data))
        return complete[-1]

    monkeypatch.setattr(TimedConnection, "send_now", counted)
    return complete


async def _block(app: App, complete: list[bool]) -> int:
    """Enqueue jobs until a client has not got the whole of a piece; return their number."""
    api, count = Api(app), 0
    job = {"type": "t" * 200, "args": [], "options": {"queue": "q"}}

    async def blocked() -> bool:
        nonlocal count
        made = await api.post("/ojs/v1/jobs/batch", {"jobs": [job] * 100})
        assert made.status == 201
        count += 100
        return False in complete

    await until(blocked)
    return count


async def test_a_piece_that_a_slow_client_gets_in_two_parts_is_whole(
    standalone: Embedded, narrow: list[bool]
) -> None:
    async with open_app(standalone) as app, serving(app) as port, events(port, TARGET) as stream:
        count = await _block(app, narrow)
        assert await _seen(stream, count) == count
        # The stream goes on as before.
        await Api(app).enqueue()
        assert (await stream.take(1))[0].kind == "job.enqueued"


async def _seen(stream: Events, count: int) -> int:
    """Return how many events the client got, or was told to have lost."""
    seen = 0
    while seen < count:
        for event in await stream.take(1):
            lost = event.kind == "system.events_dropped"
            seen += event.data["dropped_count"] if lost else 1
    return seen


async def test_a_reply_does_not_come_into_the_middle_of_an_event(
    standalone: Embedded, narrow: list[bool]
) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as client:
        await client.ask({"action": "subscribe", "channel": "all", "event_types": ["job.enqueued"]})
        count = await _block(app, narrow)
        await client.send({"action": "ping"})
        kinds = await _read(client, count)
        assert "pong" in kinds
        await Api(app).enqueue()
        assert (await client.next())["event"] == "job.enqueued"


async def _read(client: Socket, count: int) -> set[str]:
    """Read all events and the reply to a ping; return the types of the messages."""
    kinds, seen = set[str](), 0
    while seen < count or "pong" not in kinds:
        message = await client.next()
        kinds.add(message["type"])
        if message["type"] == "warning":
            seen += message["count"]
        elif message.get("event") == "job.enqueued":
            seen += 1
    return kinds


async def test_the_events_before_an_unsubscription_come_before_its_confirmation(
    standalone: Embedded, narrow: list[bool]
) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as client:
        await client.ask({"action": "subscribe", "channel": "all", "event_types": ["job.enqueued"]})
        await client.ask({"action": "subscribe", "channel": "queue:q", "event_types": ["job.x"]})
        count = await _block(app, narrow)
        await client.send({"action": "unsubscribe", "channel": "all"})
        seen = 0
        while (message := await client.next())["type"] != "unsubscribed":
            seen += message["count"] if message["type"] == "warning" else 0
            seen += message.get("event") == "job.enqueued"
        assert 0 < seen <= count
        await Api(app).enqueue(options={"queue": "q"})
        assert await client.ask({"action": "ping"}) == {"type": "pong"}


async def test_a_drain_does_not_wait_for_a_client_that_reads_nothing(
    standalone: Embedded, narrow: list[bool]
) -> None:
    async with (
        open_app(standalone) as app,
        serving(app, grace_s=3600.0) as port,
        events(port, TARGET),
        websocket(port) as client,
    ):
        await client.ask({"action": "subscribe", "channel": "all"})
        await _block(app, narrow)
        app.drain()
        await until(lambda: _async(app.push.count == 0))


async def test_a_stream_closes_its_connection_although_the_client_does_not(
    standalone: Embedded,
) -> None:
    async with (
        open_app(standalone) as app,
        serving(app, grace_s=3600.0) as port,
        events(port, TARGET) as stream,
    ):
        app.drain()
        assert [event.kind for event in await stream.rest()] == ["server.shutdown"]
        with trio.fail_after(reading.DEADLINE_S):
            assert await stream.stream.receive_some(1) == b""


async def test_a_drain_during_a_check_is_noticed(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards_of = channels.shards_of

    async def drain_during(*args: Any) -> Any:
        if sse.CHECK_S == 3600.0:
            app.drain()
        monkeypatch.setattr(sse, "CHECK_S", 3600.0)
        return await shards_of(*args)

    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    monkeypatch.setattr(sse, "HEARTBEAT_S", 3600.0)
    async with open_app(standalone) as app, serving(app, grace_s=3600.0) as port:
        await Api(app).enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream:
            monkeypatch.setattr(sse, "shards_of", drain_during)
            assert [event.kind for event in await stream.rest()] == ["server.shutdown"]
