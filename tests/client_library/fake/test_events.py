"""Events and schemas of the fake server are those of a server."""

from __future__ import annotations

import pytest

from ojs_client import Conflict, NotFound, RunningJob, Snooze, chain
from ojs_client.testing import FakeServer
from tests.client_library.fake.worlds import FAST, LATER, SOON, Play, World, job, new_worker
from tests.client_library.workers import QUEUE, job_in

TYPES = [f"job.{name}" for name in ("enqueued", "started", "failed", "retrying", "completed")]


async def test_the_life_of_jobs_is_told(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.second")
    async def second(job: RunningJob) -> None:
        if job.attempt == 1:
            raise RuntimeError("once")

    async def scenario(world: World) -> None:
        client = world.client
        async with client.events(queue=QUEUE, types=TYPES) as events:
            enqueued = await client.enqueue("t.second", queue=QUEUE, retry=FAST)
            await client.enqueue("t.second", queue="another")
            async with world.running(worker):
                await world.passes(SOON)
                names = []
                async for event in events:
                    names.append(event.name)
                    assert (event.job_id, event.data["queue"]) == (enqueued.id, QUEUE)
                    if event.name == "job.retrying":
                        resume_at = event.id
                        await world.passes(SOON)
                    if event.name == "job.completed":
                        break
            # The server may have enqueued it again when it starts.
            seen = [name for name in names[1:] if name != "job.enqueued"]
            failed, started = ["job.failed", "job.retrying"], ["job.started"]
            assert names[0] == "job.enqueued"
            assert seen == [*started, *failed, *started, "job.completed"]
        async with client.events(queue=QUEUE, types=["job.completed"], after=resume_at) as events:
            assert (await anext(events)).data["to"] == "completed"
        async with client.events(job_id=enqueued.id) as events:
            assert [event.data["to"] async for event in events] == ["completed"]
        with pytest.raises(NotFound):
            async with client.events(job_id="019539a4-0000-7000-8000-00000000000f"):
                raise AssertionError

    await play(scenario)


async def test_the_stream_of_a_job_ends_with_it(play: Play) -> None:
    async def scenario(world: World) -> None:
        enqueued = await world.client.enqueue("t.never", queue=QUEUE)
        async with world.client.events(job_id=enqueued.id) as events:
            await world.client.cancel(enqueued.id)
            names = [event.name async for event in events]
            assert names == ["job.state_changed", "job.cancelled"]

    await play(scenario)


async def test_the_end_of_a_workflow_is_told(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.step")
    async def step(job: RunningJob) -> None: ...

    async def scenario(world: World) -> None:
        types = ["workflow.completed", "workflow.failed"]
        async with world.client.events(types=types) as events, world.running(worker):
            started = await world.client.start(chain(job("t.step"), job("t.step")))
            event = await anext(events)
            assert (event.name, event.data["workflow_id"]) == ("workflow.completed", started.id)

    await play(scenario)


async def test_a_registered_schema_stays(play: Play) -> None:
    async def scenario(world: World) -> None:
        for _ in range(2):  # a deployment may repeat it
            await world.client.register_schema("t.typed", "1.0.0", {"type": "array"})
        with pytest.raises(Conflict):
            await world.client.register_schema("t.typed", "1.0.0", {"type": "array", "minItems": 1})

    await play(scenario)


async def test_a_snoozed_attempt_leaves_nothing_behind(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.snoozes")
    async def snoozes(job: RunningJob) -> None:
        await job.progress(0.5)
        raise Snooze(LATER)

    async def scenario(world: World) -> None:
        async with world.running(worker):
            enqueued = await world.client.enqueue("t.snoozes", queue=QUEUE)
            found = await job_in(world.client, enqueued.id, "retryable")
        assert (found.attempt, found.progress, found.errors) == (0, None, [])
        assert found.members["retry_delay_ms"] == LATER * 1000

    await play(scenario)


async def test_a_job_is_snoozed_for_a_second_at_least() -> None:
    server, worker = FakeServer(), new_worker()

    @worker.handler("t.snoozes")
    async def snoozes(job: RunningJob) -> None:
        raise Snooze(0)

    async with server.client() as client, server.running(worker):
        enqueued = await client.enqueue("t.snoozes", queue=QUEUE)
        await server.run_all()
        found = await client.get(enqueued.id)
        assert found.members["retry_delay_ms"] == 1000
