"""The progress of a job as a stream (spec: ojs-progress 7.2)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio

from ojs_cluster.http.push import progress_stream
from ojs_cluster.server.embedded.servers import Embedded
from tests.http.api import Api, open_app, serving, until
from tests.http.push.reading import events, shards_read
from tests.http.push.test_sse import _async, complete


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the job often: a second report within a second makes no event."""
    monkeypatch.setattr(progress_stream, "CHECK_S", 0.2)


async def test_progress_is_told_until_the_job_is_completed(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        api = Api(app)
        job = await api.active()
        target = f"/ojs/v1/jobs/{job['id']}/progress"
        async with events(port, f"{target}/stream") as stream:
            for value in (0.25, 0.5):
                await api.call("PUT", target, {"progress": value, "data": {"n": value}})
                found = await stream.take(2)
                assert [event.kind for event in found] == ["progress", "message"]
                for event in found:
                    assert event.data == (await api.get(target)).json
                    assert (event.data["progress"], event.data["data"]) == (value, {"n": value})
            await complete(api, job)
            found = await stream.rest()
        assert [event.kind for event in found] == ["completed", "message"]
        assert (found[0].data["progress"], found[0].data["state"]) == (1.0, "completed")
        await until(lambda: _async((app.push.count, shards_read(app.push.hub)) == (0, 0)))


@pytest.mark.parametrize(("path", "last"), [("cancel", "cancelled"), ("nack", "failed")])
async def test_other_ends_have_their_own_event(standalone: Embedded, path: str, last: str) -> None:
    async with open_app(standalone) as app, serving(app) as port:
        api = Api(app)
        job = await api.active(options={"retry": {"max_attempts": 1}})
        async with events(port, f"/ojs/v1/jobs/{job['id']}/progress/stream") as stream:
            reply = await api.post(f"/ojs/v1/jobs/{job['id']}/{path}", {"error": {"message": "x"}})
            assert reply.status == 200
            assert [event.kind for event in await stream.rest()] == [last, "message"]


async def test_a_shutdown_ends_the_stream(standalone: Embedded) -> None:
    async with open_app(standalone) as app, serving(app, grace_s=20.0) as port:
        api = Api(app)
        job = await api.active()
        async with events(port, f"/ojs/v1/jobs/{job['id']}/progress/stream") as stream:
            app.drain()
            assert [event.kind for event in await stream.rest()] == ["server.shutdown"]


async def test_a_stream_reads_few_fields_and_pauses_between_reads(
    backend: Embedded, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_app(backend) as app, serving(app) as port:
        job = await Api(app).active(args=["x" * 1000])
        shard = app.store.keys.shard_of_queue("default")
        reads: list[tuple[float, Any]] = []
        call = app.store.redis.call

        async def record(slot: int, command: str, *args: Any, **options: Any) -> Any:
            reply = await call(slot, command, *args, **options)
            if command in ("HGETALL", "HMGET") and args[0] == shard.job(job["id"]):
                reads.append((trio.current_time(), reply))
            return reply

        async with events(port, f"/ojs/v1/jobs/{job['id']}/progress/stream"):
            monkeypatch.setattr(app.store.redis, "call", record)
            entry = ("t", "job.progress", "j", job["id"], "y", "t", "q", "default", "p", "0.5")
            with trio.fail_after(60):
                while len(reads) < 4:
                    await call(shard.slot, "XADD", shard.events, "*", *entry)
    times = [at for at, _ in reads]
    pauses = [later - before for before, later in pairwise(times)]
    assert min(pauses) >= 0.2, pauses
    assert all(sum(map(len, filter(None, reply))) < 1000 for _, reply in reads)


async def test_a_removed_job_ends_its_stream(backend: Embedded) -> None:
    async with open_app(backend) as app, serving(app) as port:
        job = await Api(app).active()
        shard = app.store.keys.shard_of_queue("default")
        async with events(port, f"/ojs/v1/jobs/{job['id']}/progress/stream") as stream:
            await app.store.redis.call(shard.slot, "DEL", shard.job(job["id"]))
            assert await stream.rest() == []


async def test_an_unknown_job_is_an_error(api: Api) -> None:
    unknown = "01962222-bbbb-7ccc-8ddd-eeeeeeeeeeee"
    assert (await api.get(f"/ojs/v1/jobs/{unknown}/progress/stream")).status == 404
    job = await api.enqueue()
    reply = await api.call("HEAD", f"/ojs/v1/jobs/{job['id']}/progress/stream")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream")
    assert api.app.push.count == 0
