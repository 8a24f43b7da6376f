"""WebSockets (spec: ojs-realtime 3)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from ojs_cluster.http.push.announcements import Announcement
from ojs_cluster.http.push.channels import ALL
from ojs_cluster.http.websocket import session as ws_session
from ojs_cluster.http.websocket.messages import MAX_CHANNELS, MAX_TYPES, EventMessages
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.server.http import http_server
from ojs_cluster.store.features.events.subscriber import Channel, Subscription
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import shards_read
from tests.http.push.sockets import DEADLINE_S, websocket
from tests.http.push.test_sse import complete, principals
from tests.support.access import accepts

UNKNOWN = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"


def subscribe(channel: str, **more: Any) -> dict[str, Any]:
    return {"action": "subscribe", "channel": channel, **more}


@pytest.fixture(params=["hypercorn", "lane"])
def lane(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "lane")


async def test_channels_come_and_go(backend: Embedded, lane: bool) -> None:
    async with open_app(backend) as app, serving(app, lane=lane) as port:
        api = Api(app)
        job = await api.enqueue(options={"queue": "q"})
        async with websocket(port, subprotocols=["other", "ojs.v1"]) as socket:
            assert (socket.subprotocol, socket.extensions) == ("ojs.v1", [])
            channel = f"job:{job['id']}"
            reply = await socket.ask(subscribe(channel))
            assert reply == {"type": "subscribed", "channel": channel}
            only = ["job.enqueued"]
            reply = await socket.ask(subscribe("queue:q", event_types=only))
            assert reply == {"type": "subscribed", "channel": "queue:q", "event_types": only}

            await api.enqueue(options={"queue": "other"})
            await complete(api, (await api.fetch("q"))[0])
            found = await socket.until("job.completed")
            assert [m["event"] for m in found] == [
                *("job.state_changed", "job.started", "job.state_changed", "job.completed")
            ]
            for message in found:
                assert message["type"] == "event"
                assert message["channel"] == channel
                assert message["id"]
                assert message["timestamp"] == message["data"]["timestamp"]
                assert message["data"]["job_id"] == job["id"]

            reply = await socket.ask({"action": "unsubscribe", "channel": channel})
            assert reply == {"type": "unsubscribed", "channel": channel}
            another = await api.enqueue(options={"queue": "q"})
            [message] = await socket.until("job.enqueued")
            assert message["channel"] == "queue:q"
            assert message["data"]["job_id"] == another["id"]
            # A new filter replaces the old one.
            await socket.ask(subscribe("queue:q", event_types=["queue.paused"]))
            await api.enqueue(options={"queue": "q"})
            await api.post("/ojs/v1/queues/q/pause")
            assert [m["event"] for m in await socket.until("queue.paused")] == ["queue.paused"]
        await until(lambda: _async(app.push.count == 0))
        assert shards_read(app.push.hub) == 0


async def test_a_finished_job_is_told(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        job = await api.active()
        await complete(api, job)
        async with websocket(port) as socket:
            await socket.ask(subscribe(f"job:{job['id']}"))
            message = await socket.next()
            assert (message["event"], message["data"]["to"]) == ("job.state_changed", "completed")


async def test_what_is_wrong_is_told_and_the_connection_goes_on(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as socket:
        for message, code in (
            (subscribe(f"job:{UNKNOWN}"), "not_found"),
            (subscribe("queue:unknown"), "not_found"),
            (subscribe("nothing"), "invalid_request"),
            (subscribe("job:x"), "not_found"),
            (subscribe("all", event_types=["a"] * 51), "invalid_request"),
            (subscribe("all", event_types=["a" * 65]), "invalid_request"),
            (subscribe("all", event_types=["job.started", "a b"]), "invalid_request"),
            (subscribe("all", event_types=[""]), "invalid_request"),
            ({"action": "dance"}, "invalid_request"),
            ({"action": "resume", "last_event_id": "evt_0042"}, "unknown_event_id"),
            ({"action": "resume", "last_event_id": "1.2.3;x"}, "unknown_event_id"),
            ({"action": "resume", "last_event_id": "1.2.3;W1tdXQ"}, "unknown_event_id"),
            ("no json", "invalid_request"),
            ("[1]", "invalid_request"),
            ('{"action": 1}', "invalid_request"),
        ):
            reply = await socket.ask(message)
            assert (reply["type"], reply["code"]) == ("error", code), message
            assert reply["message"]
        assert await socket.ask({"type": "ping"}) == {"type": "pong"}
        assert (await socket.ask(subscribe("all")))["type"] == "subscribed"


async def test_the_event_types_of_a_connection_are_bounded(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as socket:
        api = Api(app)

        async def answer() -> Any:
            while (message := await socket.next())["type"] == "event":
                pass
            return message

        channels = [f"queue:q{number}" for number in range(MAX_TYPES // 50)]
        for channel in channels:
            await api.enqueue(options={"queue": channel.removeprefix("queue:")})
            types = [f"{number:02}{'t' * 62}" for number in range(50)]
            reply = await socket.ask(subscribe(channel, event_types=types))
            assert reply["type"] == "subscribed"
        one = subscribe("all", event_types=["job.started"])
        refused = await socket.ask(one)
        assert (refused["type"], refused["code"]) == ("error", "invalid_request")
        assert (await socket.ask(subscribe("all")))["type"] == "subscribed"
        # A new filter of a channel replaces its types. Events of the jobs come from now on, too.
        for channel in channels[:2]:
            await socket.send(subscribe(channel, event_types=types[1:]))
            assert (await answer())["type"] == "subscribed"
        await socket.send(one)
        assert (await answer())["type"] == "subscribed"


def test_a_long_list_of_channels_is_not_encoded_again_for_each_subscription() -> None:
    encoded: list[str] = []

    class Types(tuple[str, ...]):
        """Types that note when they are encoded."""

        def __iter__(self) -> Iterator[str]:
            encoded.append("x")
            return super().__iter__()

    types = Types(["t" * 60] * 50)
    channels = [
        Subscription(Channel(f"queue:q{number}", "queue", f"q{number}"), types)
        for number in range(MAX_CHANNELS)
    ]
    messages = EventMessages()
    messages.name_channels(channels[:1])
    encoded.clear()
    messages.name_channels(channels)
    assert len(encoded) == 1
    assert ";" not in json.loads(messages.event(None, Announcement("t", b"{}", 0)))["id"]
    types = Types(["job.enqueued"])
    messages.name_channels([Subscription(ALL, types)])
    assert ";" in json.loads(messages.event(None, Announcement("t", b"{}", 0)))["id"]


async def test_a_large_message_ends_the_connection(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port, websocket(port) as socket:
        await socket.send(json.dumps({"action": "x" * 20_000}))
        assert await socket.next() is None
        assert socket.close_code == 1009


async def test_a_later_connection_resumes_exactly(backend: Embedded) -> None:
    """The id names the channels and their filters; the other process knows nothing else."""
    async with (
        open_app(backend) as one,
        open_app(backend) as two,
        serving(one) as first,
        serving(two) as second,
    ):
        api = Api(one)
        job = await api.enqueue(options={"queue": "q"})
        channel = f"job:{job['id']}"
        async with websocket(first) as socket:
            await socket.ask(subscribe("queue:q", event_types=["job.enqueued"]))
            await socket.ask(subscribe(channel))
            made = [await api.enqueue(options={"queue": "q"}) for _ in range(30)]
            found = [await socket.next() for _ in range(7)]
        made += [await api.enqueue(options={"queue": "q"}) for _ in range(30)]
        await api.fetch("q", count=1)
        async with websocket(second) as socket:
            await socket.send({"action": "resume", "last_event_id": found[-1]["id"]})
            names = [await socket.next() for _ in range(2)]
            assert [(m["type"], m["channel"], m.get("event_types")) for m in names] == [
                ("subscribed", "queue:q", ["job.enqueued"]),
                ("subscribed", channel, None),
            ]
            made.append(await api.enqueue(options={"queue": "q"}))
            while found[-1]["data"].get("job_id") != made[-1]["id"]:
                found.append(await socket.next())
        queue = [m["data"]["job_id"] for m in found if m["channel"] == "queue:q"]
        assert queue == [job["id"] for job in made]
        assert [m["event"] for m in found if m["channel"] == channel] == [
            "job.state_changed",
            "job.started",
        ]


async def test_a_resumed_connection_is_told_of_a_gap(standalone: Embedded) -> None:
    settings = StoreSettings(events_per_shard=100)
    async with open_app(standalone, store=settings) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue()
        async with websocket(port) as socket:
            await socket.ask(subscribe("queue:default"))
            await api.enqueue()
            last = (await socket.next())["id"]
        for _ in range(400):
            await api.enqueue()
        async with websocket(port) as socket:
            reply = await socket.ask({"action": "resume", "last_event_id": last})
            assert reply["type"] == "subscribed"
            gap = await socket.next()
            assert (gap["event"], gap["data"]["channel"]) == ("system.gap", "queue:default")
            assert (await socket.next())["event"] == "job.enqueued"


async def test_a_slow_reader_is_warned(standalone: Embedded) -> None:
    async with open_app(standalone, push_buffer_events=10) as app, serving(app) as port:
        api = Api(app)
        async with websocket(port) as socket:
            await socket.ask(subscribe("all", event_types=["job.enqueued"]))
            await api.post("/ojs/v1/jobs/batch", {"jobs": [{"type": "t", "args": []}] * 200})
            found = await socket.until("system.events_dropped")
            warning, event = found[-2:]
            assert (warning["type"], warning["code"]) == ("warning", "events_dropped")
            assert warning["count"] == event["data"]["dropped_count"] > 0
            assert warning["oldest_dropped_id"].startswith("evt_")


async def test_a_shutdown_closes_the_connection(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app, grace_s=20.0) as port:
        async with websocket(port) as socket:
            await socket.ask(subscribe("all"))
            app.drain()
            message = await socket.next()
            assert (message["event"], message["data"]["grace_period_ms"]) == (
                "server.shutdown",
                1000,
            )
            assert await socket.next() is None
            assert socket.close_code == 1001
        async with websocket(port) as socket:
            assert socket.status == 503


async def test_a_drain_does_not_wait_for_a_client_that_has_vanished(
    standalone: Embedded, lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that sends pings would otherwise run until the next ping."""
    monkeypatch.setattr(http_server, "_PING_S", 3600.0)
    with trio.fail_after(DEADLINE_S):
        async with open_app(standalone) as app, serving(app, lane=lane, grace_s=3600.0) as port:
            async with websocket(port) as socket:
                await socket.ask(subscribe("all"))
            await until(lambda: _async(app.push.count == 0))


async def test_origins_are_checked(standalone: Embedded) -> None:
    async with (
        open_app(standalone, cors_origins=("https://admin.example",)) as app,
        serving(app) as port,
    ):
        for origin, status in (
            ("https://admin.example", 101),
            (f"http://127.0.0.1:{port}", 101),
            ("https://evil.example", 403),
            (f"http://127.0.0.1:{port + 1}", 403),
            ("null", 403),
            ("http://[", 403),
        ):
            async with websocket(port, {"Origin": origin}) as socket:
                assert socket.status == status, origin
        assert app.push.count <= 2


async def test_a_connection_needs_a_key_and_room(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws_session, "CHECK_S", 0.05)
    access = accepts(["one", "two"])
    async with open_app(standalone, access=access, push_per_client=1) as app, serving(app) as port:
        async with websocket(port) as socket:
            assert socket.status == 401
            assert json.loads(socket.body)["error"]["code"] == "unauthenticated"
        headers = {"Authorization": "Bearer one"}
        async with websocket(port, headers) as socket:
            assert socket.status == 101
            async with websocket(port, headers) as second:
                assert second.status == 429
            access.replace(principals("two"))
            assert await socket.next() is None
            assert socket.close_code == 1008


async def test_a_plain_request_is_told_to_upgrade(api: Api) -> None:
    reply = await api.get("/ojs/v1/ws")
    assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")


async def _async(value: bool) -> bool:
    await trio.lowlevel.checkpoint()
    return value
