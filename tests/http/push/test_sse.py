"""Server-sent events of one process (spec: ojs-realtime 2)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import trio

from ojs_cluster.core.access.scopes import (
    ALL_SCOPES,
    Keyring,
    Principal,
    QueuePatterns,
    Scope,
    digest,
)
from ojs_cluster.http.access.keys_and_scopes import AccessControl
from ojs_cluster.http.push import sse
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import events, shards_read
from tests.support.access import accepts


async def complete(api: Api, job: dict[str, Any], **members: Any) -> None:
    reply = await api.post("/ojs/v1/workers/ack", {"job_id": job["id"], **members})
    assert reply.status == 200, reply.body


async def test_a_job_is_followed_to_its_end(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        job = await api.enqueue()
        other = await api.enqueue(options={"queue": "other"})
        async with events(port, f"/ojs/v1/jobs/{job['id']}/events") as stream:
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-cache"
            assert app.push.count == 1
            await complete(api, (await api.fetch("other"))[0])
            await complete(api, (await api.fetch())[0])

            found = await stream.rest()

        assert [event.kind for event in found] == [
            "job.state_changed",
            "job.started",
            "job.state_changed",
            "job.completed",
        ]
        changes = [event.data for event in found if event.kind == "job.state_changed"]
        assert [(data["from"], data["to"]) for data in changes] == [
            ("available", "active"),
            ("active", "completed"),
        ]
        for event in found:
            assert event.data["job_id"] == job["id"] != other["id"]
            assert (event.data["queue"], event.data["type"]) == ("default", "test.echo")
            assert event.data["timestamp"].endswith("Z")
        assert len({event.id for event in found}) == 4
        await until(lambda: _async((app.push.count, shards_read(app.push.hub)) == (0, 0)))


async def test_a_finished_job_is_told_at_once(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        job = await api.active()
        await complete(api, job)
        target = f"/ojs/v1/events/stream?channel=job:{job['id']}"
        async with events(port, target) as stream:
            found = await stream.rest()
            assert [event.kind for event in found] == ["job.state_changed"]
            assert (found[0].data["from"], found[0].data["to"]) == ("active", "completed")
        # A browser reconnects until it gets 204.
        async with events(port, target, {"Last-Event-ID": found[0].id}) as stream:
            assert stream.status == 204


async def test_a_queue_is_followed_with_its_jobs_only(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events?types=job.enqueued,queue.*") as stream:
            await api.enqueue(options={"queue": "other"})
            job = await api.enqueue(options={"queue": "q"})
            await api.fetch("q")
            await api.post("/ojs/v1/queues/q/pause")

            found = await stream.take(2)

        assert [event.kind for event in found] == ["job.enqueued", "queue.paused"]
        assert found[0].data["job_id"] == job["id"]
        assert found[1].data["queue"] == "q"


async def test_the_whole_cluster_is_followed(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        async with events(port, "/ojs/v1/events/stream?types=job.enqueued") as stream:
            names = {f"q{number}" for number in range(20)}
            for name in sorted(names):
                await api.enqueue(options={"queue": name})

            found = await stream.take(20)

        assert {event.data["queue"] for event in found} == names
        assert {event.data["event"] for event in found} == {"job.enqueued"}


# The parameters of ojs-cli (commands/events.go:24), which names a queue that may not exist yet.
async def test_the_parameter_queue_is_a_channel(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        async with events(port, "/ojs/v1/events/stream?queue=new&types=job.enqueued") as stream:
            await api.enqueue(options={"queue": "old"})
            await api.enqueue(options={"queue": "new"})
            assert (await stream.take(1))[0].data["queue"] == "new"


async def test_what_cannot_be_followed_is_an_error(api: Api) -> None:
    unknown = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
    for target, status in (
        (f"/ojs/v1/jobs/{unknown}/events", 404),
        (f"/ojs/v1/events/stream?channel=job:{unknown}", 404),
        ("/ojs/v1/jobs/x/events", 404),
        ("/ojs/v1/queues/unknown/events", 404),
        ("/ojs/v1/events/stream?channel=nothing", 400),
        ("/ojs/v1/events/stream?channel=queue:", 400),
        ("/ojs/v1/events/stream?queue=" + "x" * 300, 400),
        ("/ojs/v1/events/stream?types=" + ",".join(["a"] * 51), 400),
        ("/ojs/v1/events/stream?types=job.enqueued," + "a" * 65, 400),
    ):
        reply = await api.get(target)
        assert (reply.status, reply.headers["content-type"]) == (
            status,
            "application/openjobspec+json",
        ), target
    assert (api.app.push.count, shards_read(api.app.push.hub)) == (0, 0)


async def test_head_opens_no_stream(api: Api) -> None:
    reply = await api.call("HEAD", "/ojs/v1/events/stream")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert api.app.push.count == 0


async def test_a_client_that_leaves_is_noticed(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app) as port:
        async with events(port, "/ojs/v1/events/stream"):
            assert (app.push.count, shards_read(app.push.hub)) == (1, len(app.store.keys) + 1)
        await until(lambda: _async(app.push.count == 0))
        assert shards_read(app.push.hub) == 0


async def _async(value: bool) -> bool:
    return value


async def test_a_slow_reader_loses_the_oldest_events_and_is_told(backend: Embedded) -> None:
    async with open_app(backend, push_buffer_events=10) as app, serving(app) as port:
        api = Api(app)
        async with events(port, "/ojs/v1/events/stream?types=job.enqueued") as stream:
            # One entry of the shard's stream has up to 16 events, which enter the buffer at once.
            job = {"type": "t", "args": [], "scheduled_at": "2020-01-01T00:00:00Z"}
            made = await api.post("/ojs/v1/jobs/batch", {"jobs": [job] * 200})
            ids = [job["id"] for job in made.json["jobs"]]
            found = await stream.until("system.events_dropped")
            dropped = sum(e.data["dropped_count"] for e in found if e.kind[:6] == "system")
            while len(found) + dropped < 200:
                found += await stream.take(1)
                if found[-1].kind == "system.events_dropped":
                    dropped += found[-1].data["dropped_count"]
            assert ids


async def test_a_shutdown_is_told(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app, grace_s=20.0) as port:
        api = Api(app)
        async with events(port, "/ojs/v1/events/stream") as stream:
            await api.enqueue()
            assert (await stream.take(1))[0].kind == "job.enqueued"

            app.drain()

            found = await stream.rest()
            assert [event.kind for event in found] == ["server.shutdown"]
            assert found[0].data == {"reason": "shutdown", "grace_period_ms": 1000}
            assert found[0].id
        async with events(port, "/ojs/v1/events/stream") as stream:
            assert stream.status == 503
            assert stream.headers["retry-after"] == "1"


async def test_streams_are_counted(standalone: Embedded) -> None:
    async with (
        open_app(standalone, push_subscribers=3, push_per_client=2) as app,
        serving(app) as port,
        events(port, "/ojs/v1/events/stream"),
        events(port, "/ojs/v1/events/stream") as second,
    ):
        async with events(port, "/ojs/v1/events/stream") as third:
            assert (third.status, third.headers["retry-after"]) == (429, "5")
        app.push.open("another")
        async with events(port, "/ojs/v1/events/stream") as third:
            assert (third.status, third.headers["retry-after"]) == (503, "5")
        app.push.close("another")
        await second.stream.aclose()
        await until(lambda: _async(app.push.count == 1))
        async with events(port, "/ojs/v1/events/stream") as third:
            assert third.status == 200


async def test_heartbeats_carry_the_position(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)
    async with open_app(standalone) as app, serving(app) as port:
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream:
            before = stream.last_id
            await api.post("/ojs/v1/queues/q/pause")
            assert (await stream.take(1))[0].kind == "queue.paused"
            after = stream.last_id
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.next)
                await until(lambda: _async("heartbeat" in stream.comments))
                nursery.cancel_scope.cancel()
            assert before != after


async def test_heartbeats_pass_the_events_of_other_queues(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that resumes need not read them again."""
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)
    async with open_app(standalone) as app, serving(app) as port:
        shard_of = app.store.keys.shard_of_queue
        names = (f"q{number}" for number in itertools.count())
        other = next(name for name in names if shard_of(name) is shard_of("q"))
        api = Api(app)
        await api.enqueue(options={"queue": "q"})
        async with events(port, "/ojs/v1/queues/q/events") as stream:
            await api.post("/ojs/v1/queues/q/pause")
            assert (await stream.take(1))[0].kind == "queue.paused"
            before = stream.last_id
            await api.enqueue(options={"queue": other})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.next)
                await until(lambda: _async(stream.last_id != before))
                nursery.cancel_scope.cancel()


async def test_a_key_sees_its_queues_only(standalone: Embedded) -> None:
    keyring = Keyring(
        {
            digest("mail"): Principal("mail", ALL_SCOPES, QueuePatterns(["mail.*"])),
            digest("all"): Principal("all"),
            digest("worker"): Principal("worker", frozenset({Scope.WORKER})),
        },
        {},
    )
    access = AccessControl(keyring)
    async with open_app(standalone, access=access) as app, serving(app) as port:
        everything = {"Authorization": "Bearer all"}
        headers = {"Authorization": "Bearer mail"}
        api = Api(app)

        async def enqueue(queue: str) -> str:
            job = {"type": "t", "args": [], "options": {"queue": queue}}
            reply = await api.post("/ojs/v1/jobs", job, headers=everything)
            job_id: str = reply.json["job"]["id"]
            return job_id

        other = await enqueue("other")
        for target, status in (
            (f"/ojs/v1/jobs/{other}/events", 404),
            (f"/ojs/v1/events/stream?channel=job:{other}", 404),
            ("/ojs/v1/queues/other/events", 403),
            ("/ojs/v1/events/stream?channel=queue:other", 403),
            ("/ojs/v1/events/stream?queue=other", 403),
        ):
            async with events(port, target, headers) as stream:
                assert stream.status == status, target
        async with events(port, "/ojs/v1/events/stream") as stream:
            assert stream.status == 401
        worker = {"Authorization": "Bearer worker"}
        async with events(port, "/ojs/v1/events/stream", worker) as stream:
            assert stream.status == 403
        async with events(port, "/ojs/v1/events/stream", headers) as stream:
            last = stream.last_id
            await enqueue("other")
            await enqueue("mail.in")
            found = await stream.take(1)
            assert found[0].data["queue"] == "mail.in"
        resumed = {**headers, **({"Last-Event-ID": last} if last else {})}
        async with events(port, "/ojs/v1/events/stream", resumed) as stream:
            await enqueue("other")
            await enqueue("mail.out")
            assert (await stream.until("job.enqueued"))[-1].data["queue"].startswith("mail.")


async def test_a_stream_ends_with_its_key(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    access = accepts(["one", "two"])
    async with open_app(standalone, access=access) as app, serving(app) as port:
        headers = {"Authorization": "Bearer one"}
        async with events(port, "/ojs/v1/events/stream", headers) as stream:
            access.replace(principals("two"))
            assert await stream.rest() == []


async def test_a_stream_ends_when_its_key_is_restricted(
    standalone: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "CHECK_S", 0.05)
    access = accepts(["one"])
    async with open_app(standalone, access=access) as app, serving(app) as port:
        headers = {"Authorization": "Bearer one"}
        async with events(port, "/ojs/v1/events/stream", headers) as stream:
            queues = QueuePatterns(["mail.*"])
            access.replace(Keyring({digest("one"): Principal("one", ALL_SCOPES, queues)}, {}))
            assert await stream.rest() == []


def principals(*secrets: str) -> Keyring:
    return Keyring({digest(secret): Principal(secret) for secret in secrets}, {})
