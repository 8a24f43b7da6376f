"""Streams go on where they were, on any process (spec: ojs-realtime 2.5, 5.5)."""

from __future__ import annotations

import base64
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio

from ojs_cluster.http.app import App
from ojs_cluster.http.push import sse
from ojs_cluster.http.push.frames import FrameEncoder
from ojs_cluster.http.websocket import session as ws_session
from ojs_cluster.http.websocket.messages import EventMessages
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.features.events import replay
from ojs_cluster.store.features.events.shard_reader import ShardReader
from ojs_cluster.store.ground.settings import StoreSettings
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import Event, events, shards_read
from tests.http.push.sockets import websocket
from tests.http.push.test_sse import principals
from tests.support.access import accepts


async def test_another_process_goes_on_exactly(backend: Embedded) -> None:
    """The client disconnects after every few events, and reconnects to the other process."""
    chance = random.Random(7)
    async with (
        open_app(backend) as one,
        open_app(backend) as two,
        serving(one) as first,
        serving(two) as second,
    ):
        api = Api(one)
        ports, last, found = [first, second], "", list[Event]()
        jobs: list[str] = []
        while len(found) < 150:
            headers = {"Last-Event-ID": last} if last else {}
            async with events(ports[0], "/ojs/v1/events/stream?types=job.*", headers) as stream:
                for _ in range(chance.randint(1, 4)):
                    queue = f"q{chance.randint(0, 9)}"
                    batch = [{"type": "t", "args": [], "options": {"queue": queue}}] * 20
                    made = await api.post("/ojs/v1/jobs/batch", {"jobs": batch})
                    jobs += [job["id"] for job in made.json["jobs"]]
                    fetched = await api.fetch(queue, count=3)
                    for job in fetched:
                        await api.post("/ojs/v1/workers/ack", {"job_id": job["id"]})
                taken = await stream.take(chance.randint(1, 30))
                found += taken
                last = taken[-1].id
            ports.reverse()
        async with events(ports[0], "/ojs/v1/events/stream", {"Last-Event-ID": last}) as stream:
            job = await api.enqueue(options={"queue": "end"})
            while found[-1].data.get("job_id") != job["id"]:
                found += await stream.take(1)

    enqueued = [event.data["job_id"] for event in found if event.kind == "job.enqueued"]
    assert sorted(enqueued) == sorted([*jobs, job["id"]])
    by_job: dict[str, list[tuple[str, str]]] = {}
    for event in found:
        by_job.setdefault(event.data["job_id"], []).append((event.kind, event.data["event"]))
    whole = [
        ("job.enqueued", "job.enqueued"),
        ("job.state_changed", "job.started"),
        ("job.started", "job.started"),
        ("job.state_changed", "job.completed"),
        ("job.completed", "job.completed"),
    ]
    assert all(sequence == whole[: len(sequence)] for sequence in by_job.values())
    assert len({event.id for event in found}) == len(found)


async def test_a_client_that_has_seen_no_event_resumes(backend: Embedded) -> None:
    """The first block sets the id of the client by the HTML standard, and dispatches no event."""
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream:
            opening = b""
            while not opening.endswith(b"\n\n"):
                opening += await stream.piece() or b""
        retry, position, *rest = opening.decode().split("\n")
        assert (retry, position[:4], rest) == ("retry: 3000", "id: ", ["", ""])
        job = await api.enqueue(options={"queue": "q"})
        last = {"Last-Event-ID": position[4:]}
        async with events(port, "/ojs/v1/queues/q/events", last) as stream:
            assert (await stream.take(1))[0].data["job_id"] == job["id"]


async def test_an_event_during_the_last_round_comes_once(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, during = replay._between, list[str]()

    async def add_before(*args: Any) -> int:
        """Add an event to the last shard when the subscription is registered."""
        reader = app.push.hub._pool._readers[last_shard.index]
        if reader._all and not during:
            position = reader.position
            during.append((await api.enqueue(options={"queue": queue}))["id"])

            async def read() -> bool:
                return reader.position != position

            await until(read)
        return await between(*args)

    async with open_app(standalone) as app, serving(app) as port:
        api, keys = Api(app), app.store.keys
        last_shard = keys.shard(len(keys) - 1)
        names = (f"q{number}" for number in itertools.count())
        queue = next(name for name in names if keys.shard_of_queue(name) is last_shard)
        target = "/ojs/v1/events/stream?types=job.*"
        async with events(port, target) as stream:
            await api.enqueue(options={"queue": queue})
            headers = {"Last-Event-ID": (await stream.take(1))[0].id}
        await until(lambda: no_reader(app))
        monkeypatch.setattr(replay, "_between", add_before)
        async with events(port, target, headers) as stream:
            found = await stream.take(1)
            after = await api.enqueue(options={"queue": queue})
            found += await stream.take(1)
    assert [event.data["job_id"] for event in found] == [*during, after["id"]]


async def no_reader(app: App) -> bool:
    return not shards_read(app.push.hub)


async def test_dropped_entries_are_a_gap(backend: Embedded) -> None:
    settings = StoreSettings(events_per_shard=100)
    async with open_app(backend, store=settings) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue()
        target = "/ojs/v1/queues/default/events"
        async with events(port, target) as stream:
            await api.enqueue()
            last = (await stream.take(1))[0].id
        for _ in range(400):
            await api.enqueue()

        async with events(port, target, {"Last-Event-ID": last}) as stream:
            found = await stream.take(2)

        assert [event.kind for event in found] == ["system.gap", "job.enqueued"]
        gap = found[0].data
        assert gap["channel"] == "queue:default"
        assert gap["gap_start"] < gap["gap_end"] <= found[1].data["timestamp"]
        # The position after the gap has no gap.
        async with events(port, target, {"Last-Event-ID": found[0].id}) as stream:
            assert (await stream.take(1))[0] == found[1]


async def test_an_unknown_position_is_a_gap_and_no_error(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        for last in ("evt_0042", "zz", "1.2", "7f.1.1", "0.ffffffffffffffffff.0", "~"):
            target = "/ojs/v1/events/stream?channel=queue:q"
            async with events(port, target, {"Last-Event-ID": last}) as stream:
                assert stream.status == 200
                assert (await stream.take(1))[0].kind == "system.gap"
                await api.enqueue(options={"queue": "q"})
                assert (await stream.take(1))[0].kind == "job.enqueued"


async def test_a_client_that_has_read_the_change_of_state_gets_the_event(
    backend: Embedded,
) -> None:
    """A change of state and its event are two events with an id of their own."""
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        async with events(port, "/ojs/v1/events/stream") as stream:
            await api.enqueue()
            await api.fetch()
            found = await stream.take(3)
        assert [event.kind for event in found] == [
            *("job.enqueued", "job.state_changed", "job.started")
        ]
        for number, event in enumerate(found[:-1]):
            headers = {"Last-Event-ID": event.id}
            async with events(port, "/ojs/v1/events/stream", headers) as stream:
                assert await stream.take(len(found) - number - 1) == found[number + 1 :]


async def test_a_process_that_lags_repeats_nothing(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, release = trio.Event(), trio.Event()
    read = ShardReader._read

    async def hold(reader: ShardReader) -> int:
        if reader._store is two.store:
            held.set()
            await release.wait()
        return await read(reader)

    async with (
        open_app(standalone) as one,
        open_app(standalone) as two,
        serving(one) as first,
        serving(two) as second,
        events(first, "/ojs/v1/events/stream?channel=queue:q") as stream,
    ):
        api = Api(one)
        monkeypatch.setattr(ShardReader, "_read", hold)
        async with events(second, "/ojs/v1/events/stream?channel=queue:q"):
            await held.wait()
            await api.enqueue(options={"queue": "q"})
            headers = {"Last-Event-ID": (await stream.take(1))[0].id}
            target = "/ojs/v1/events/stream?channel=queue:q"
            async with events(second, target, headers) as later:
                release.set()
                job = await api.enqueue(options={"queue": "q"})
                [event] = await later.take(1)
    assert (event.kind, event.data["job_id"]) == ("job.enqueued", job["id"])


@pytest.mark.parametrize("kind", ["sse", "websocket"])
@pytest.mark.parametrize("revoked", [False, True])
async def test_a_shutdown_and_the_end_of_the_key_stop_a_replay(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, revoked: bool, kind: str
) -> None:
    monkeypatch.setattr(sse, "REPLAY_CHUNK", 1)
    monkeypatch.setattr(ws_session, "REPLAY_CHUNK", 1)
    headers = {"Authorization": "Bearer one"}
    access = accepts(["one", "two"])
    async with open_app(standalone, access=access) as app, serving(app) as port:

        async def enqueue(count: int) -> None:
            jobs = [{"type": "t", "args": [], "options": {"queue": "q"}}] * count
            made = await Api(app).post("/ojs/v1/jobs/batch", {"jobs": jobs}, headers=headers)
            assert made.status == 201

        await enqueue(1)
        target = "/ojs/v1/events/stream?channel=queue:q"
        async with events(port, target, headers) as stream:
            await enqueue(1)
            last = (await stream.take(1))[0].id
        await enqueue(30)
        _after_first_event(
            monkeypatch, lambda: access.replace(principals("two")) if revoked else app.drain()
        )
        if kind == "sse":
            async with events(port, target, {**headers, "Last-Event-ID": last}) as stream:
                kinds = [event.kind for event in await stream.rest()]
        else:
            async with websocket(port, headers) as socket:
                channels = base64.urlsafe_b64encode(b'[["queue:q",[]]]').decode().rstrip("=")
                await socket.send({"action": "resume", "last_event_id": f"{last};{channels}"})
                found = []
                while (message := await socket.next()) is not None:
                    found.append(message)
                kinds = [message["event"] for message in found[1:]]
                assert socket.close_code == (1008 if revoked else 1001)
    assert kinds == ["job.enqueued", *([] if revoked else ["server.shutdown"])]


def _after_first_event(patched: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Call ``change`` when the first event is encoded."""
    for encoder, name in ((FrameEncoder, "items"), (EventMessages, "event")):
        encode = getattr(encoder, name)

        def changed(*args: Any, encode: Any = encode) -> Any:
            change()
            return encode(*args)

        patched.setattr(encoder, name, changed)


async def test_a_damaged_entry_stops_no_stream(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        shard = app.store.keys.shard_of_queue("q")
        target = "/ojs/v1/events/stream?channel=queue:q"

        async def damage() -> None:
            for fields in (
                *(("x", "y"), ("t", "job.started", "q", "q", "j", "\xff")),
                ("t", "job.retrying", "j", "j", "y", "y", "q", "q", "n", "x"),
                ("t", "job.retrying", "j", "j", "y", "y", "q", "q", "n", "inf"),
                ("t", "job.enqueued", "j", "j", "y", b"\xff", "q", "q"),
            ):
                await app.store.redis.call(shard.slot, "XADD", shard.events, "*", *fields)

        async with events(port, target) as stream:
            await damage()
            await api.enqueue(options={"queue": "q"})
            [event] = await stream.take(1)
            assert event.kind == "job.enqueued"
        await damage()
        async with events(port, target, {"Last-Event-ID": event.id}) as stream:
            job = await api.enqueue(options={"queue": "q"})
            [event] = await stream.take(1)
            assert event.data["job_id"] == job["id"]
        for target in ("/ojs/v1/events?types=job.*&queues=q", "/ojs/v1/events?page=1"):
            reply = await api.get(target)
            assert reply.status == 200, reply.body
            assert {event["type"] for event in reply.json["events"]} == {"job.enqueued"}
            assert len(reply.json["events"]) == 2


async def test_new_partitions_are_read(backend: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream:
            assert shards_read(app.push.hub) == 2
            changed = await api.call("PUT", "/ojs/v1/admin/queues/q/config", {"partitions": 4})
            assert changed.status == 200

            shard = app.store.keys.partitions("q", 4)[3]

            async def read() -> bool:
                reader = app.push.hub._pool._readers.get(shard.index)
                return reader is not None and "q" in reader._by_queue

            await until(read)
            assert shards_read(app.push.hub) == 5
            # Producers use a new partition later.
            entry = ("t", "job.enqueued", "j", "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee", "y", "t")
            call = app.store.redis.call
            await call(shard.slot, "XADD", shard.events, "*", *entry, "q", "q")
            [event] = await stream.take(1)
        assert len(event.id.split("_")) == 5


@pytest.mark.parametrize("last", [False, True])
async def test_a_partition_that_another_client_finds_during_a_replay_is_read(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """Clients with the same subscriptions share the readers of their shards."""
    between, found = replay._between, list[bool]()

    async def extend_before(*args: Any) -> int:
        if feed.readers.shards and not found and (not last or len(feed.followers) == 2):
            found.append(True)
            added = app.store.keys.partitions("q", 4)
            await feed.extend(app.store, added)
            reader = feed.readers.reader(added[3].index)
            before = reader.position
            entry = ("t", "job.enqueued", "j", "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee", "y", "t")
            await app.store.redis.call(
                *(added[3].slot, "XADD", added[3].events, "*", *entry, "q", "q")
            )

            async def read() -> bool:
                return reader.position != before

            await until(read)
        return await between(*args)

    async with open_app(standalone) as app, serving(app) as port:
        api = Api(app)
        target = "/ojs/v1/queues/q/events"
        await api.enqueue(options={"queue": "q"})
        async with events(port, target) as stream:
            await api.enqueue(options={"queue": "q"})
            [first] = await stream.take(1)
            missed = await api.enqueue(options={"queue": "q"})
            await stream.take(1)
            [feed] = app.push.hub._feeds.values()
            monkeypatch.setattr(replay, "_between", extend_before)
            async with events(port, target, {"Last-Event-ID": first.id}) as again:
                got = [event.data["job_id"] for event in await again.take(2)]
                after = await api.enqueue(options={"queue": "q"})
                got += [event.data["job_id"] for event in await again.take(1)]
    assert got == [missed["id"], "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee", after["id"]]


async def test_a_new_partition_without_events_is_no_gap(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_CATCH_UP_S", 3600.0)
    async with open_app(standalone) as app, serving(app) as port:
        api, target = Api(app), "/ojs/v1/queues/q/events"
        await api.enqueue(options={"queue": "q"})
        async with events(port, target) as stream:
            await api.enqueue(options={"queue": "q"})
            [first] = await stream.take(1)
        await api.call("PUT", "/ojs/v1/admin/queues/q/config", {"partitions": 4})
        missed = await api.enqueue(options={"queue": "q"})
        async with events(port, target, {"Last-Event-ID": first.id}) as stream:
            [event] = await stream.take(1)
    assert event.data.get("job_id") == missed["id"], event
