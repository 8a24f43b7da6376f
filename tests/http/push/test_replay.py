"""Streams go on where they were, on any process (spec: ojs-realtime 2.5, 5.5)."""

from __future__ import annotations

import random

from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.settings import StoreSettings
from tests.http.api import Api, open_app, serving
from tests.http.push.reading import Event, events


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
