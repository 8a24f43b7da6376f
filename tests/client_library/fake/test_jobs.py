"""Jobs of the fake server run as those of a server do."""

from __future__ import annotations

from typing import Any

import pytest

from ojs_client import BlockingJob, Conflict, JobFailed, ResultPending, RunningJob, Worker
from ojs_client.testing import FakeServer
from tests.client_library.fake.worlds import (
    LATER,
    POOL,
    POOL_QUEUES,
    SOON,
    Play,
    World,
    job,
    new_worker,
)
from tests.client_library.workers import QUEUE


async def test_jobs_run_with_their_arguments_and_results(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.double")
    async def double(job: RunningJob) -> Any:
        return {"of": job.args, "meta": job.meta, "tags": job.tags, "attempt": job.attempt}

    @worker.handler("t.thread")
    def thread(job: BlockingJob) -> Any:
        job.progress(0.5, "half", data={"rows": 7})
        return job.args[0] * 3

    async def scenario(world: World) -> None:
        client = world.client
        first = await client.enqueue("t.double", 2**70, "x", queue=QUEUE, meta={"a": 1}, tags=["b"])
        assert (first.state, first.attempt, first.args) == ("available", 0, [2**70, "x"])
        with pytest.raises(ResultPending):
            await client.result(first.id)
        many = await client.enqueue_many([job("t.thread", 5), job("t.thread", 6)])
        async with world.running(worker):
            assert await client.result(first.id, wait=60) == {
                "of": [2**70, "x"],
                "meta": {"a": 1},
                "tags": ["b"],
                "attempt": 1,
            }
            assert [await client.result(each.id, wait=60) for each in many] == [15, 18]
        assert (await client.get(first.id)).state == "completed"
        shown = (await client.get(many[0].id)).members
        assert (shown["progress_data"], shown["result"]) == ({"rows": 7}, 15)

    await play(scenario)


async def test_jobs_with_a_higher_priority_run_first(play: Play) -> None:
    ran: list[Any] = []
    worker = new_worker(concurrency=1)

    @worker.handler("t.note")
    async def note(job: RunningJob) -> None:
        ran.append(job.args[0])

    async def scenario(world: World) -> None:
        ran.clear()
        for name, priority in (("a", 0), ("b", 0), ("c", 5), ("d", -5)):
            last = await world.client.enqueue("t.note", name, queue=QUEUE, priority=priority)
        async with world.running(worker):
            await world.client.result(last.id, wait=60)
        assert ran == ["c", "a", "b", "d"]

    await play(scenario)


async def test_scheduled_jobs_run_when_they_are_due(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.note")
    async def note(job: RunningJob) -> str:
        return "ran"

    async def scenario(world: World) -> None:
        client = world.client
        async with world.running(worker):
            soon = await client.enqueue("t.note", queue=QUEUE, delay=SOON)
            later = await client.enqueue("t.note", queue=QUEUE, delay=LATER)
            assert later.state == "scheduled"
            await world.passes(10 * SOON)
            assert await client.result(soon.id, wait=60) == "ran"
            assert (await client.get(later.id)).state == "scheduled"
            at = later.members["scheduled_at"]
            assert (await client.get(later.id)).members["scheduled_at"] == at
            cancelled = await client.cancel(later.id)
        assert cancelled.state == "cancelled"
        with pytest.raises(Conflict):
            await client.cancel(later.id)
        with pytest.raises(JobFailed):
            await client.result(later.id)

    await play(scenario)


async def test_a_job_that_has_expired_does_not_run(play: Play) -> None:
    worker, first = new_worker(), Worker(queues=["other"])

    @first.handler("t.note")
    @worker.handler("t.note")
    async def note(job: RunningJob) -> str:
        return "ran"

    async def scenario(world: World) -> None:
        client = world.client
        late = await client.enqueue("t.note", queue=QUEUE, expires=SOON)
        passed = await client.enqueue("t.note", queue="other", delay=4 * SOON)
        async with world.running(first):
            await world.passes(10 * SOON)
            await client.result(passed.id, wait=60)
        async with world.running(worker):
            expired = await world.ended(late)
        assert (expired.state, expired.attempt, expired.error) == ("discarded", 0, None)
        assert "completed_at" not in expired.members

    await play(scenario)


async def test_a_worker_of_a_pool_gets_jobs_of_its_queues(play: Play) -> None:
    async def scenario(world: World) -> None:
        worker = Worker(pool=POOL)
        only_second = worker.copy("http://localhost", transport=None, queues=POOL_QUEUES[1:])
        for each in (worker, only_second):
            each.handler("t.pool")(_run)
        if world.fake is None:
            body = {"queues": POOL_QUEUES}
            await world.client._transport.request("PUT", f"/admin/pools/{POOL}", body)

        async with world.running(worker):
            jobs = [await world.client.enqueue("t.pool", queue=queue) for queue in POOL_QUEUES]
            assert [(await world.ended(job)).state for job in jobs] == ["completed"] * 2
        first, second = [await world.client.enqueue("t.pool", queue=q) for q in POOL_QUEUES]
        async with world.running(only_second):
            assert (await world.ended(second)).state == "completed"
            assert (await world.client.get(first.id)).state == "available"

    await play(scenario)


async def test_a_pool_that_the_fake_server_does_not_have_is_an_error() -> None:
    fake = FakeServer(pools={POOL: POOL_QUEUES})
    for pool, queues in (("other", None), (POOL, ["other"])):
        with pytest.raises(ValueError, match="pools="):
            async with fake.running(Worker(pool=pool, queues=queues)):
                pass


async def _run(job: RunningJob) -> None:
    assert job.queue in POOL_QUEUES
