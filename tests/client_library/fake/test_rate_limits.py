"""Rate limits that jobs declare hold on the fake server as on a server."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import pytest

from ojs_client import ApiError, Retry, RetryPolicy, RunningJob, Worker, new_job
from ojs_client.testing import FakeServer
from tests.client_library.fake.worlds import Play, World
from tests.client_library.workers import job_in

HOUR = "PT1H"


async def test_a_key_bounds_the_active_jobs_of_all_queues(play_scheduled: Play) -> None:
    queues = ["limits-a", "limits-b"]
    worker = Worker(queues=queues)
    running: list[int] = []
    most: list[int] = []

    @worker.handler("t.call")
    async def call(job: RunningJob) -> None:
        running.append(1)
        most.append(len(running))
        await anyio.sleep(0.02)
        running.pop()

    async def scenario(world: World) -> None:
        most.clear()
        limit: Any = {"key": "t-active", "concurrency": 2}
        jobs = await world.client.enqueue_many(
            [new_job("t.call", queue=queues[n % 2], rate_limit=limit) for n in range(8)]
        )
        async with world.running(worker):
            for job in jobs:
                await world.client.result(job.id, wait=60)
        assert max(most) <= 2

    await play_scheduled(scenario)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("key", {"key": "t-rate", "rate": {"limit": 2, "period": HOUR}}),
        ("flat", {"key": "t-flat", "rate": 2, "period": "hour"}),
        ("even", {"key": "t-even", "throttle": {"limit": 1, "period": HOUR}}),
    ],
)
async def test_a_rate_bounds_the_starts_of_a_period(
    play_scheduled: Play, name: str, limit: Any
) -> None:
    queue = f"limits-rate-{name}"
    worker = Worker(queues=[queue])

    @worker.handler("t.call")
    async def call(job: RunningJob) -> None: ...

    async def scenario(world: World) -> None:
        client, count = world.client, 1 if name == "even" else 2
        jobs = await client.enqueue_many([new_job("t.call", queue=queue, rate_limit=limit)] * 4)
        free = await client.enqueue("t.call", queue=queue)
        async with world.running(worker):
            for job in (*jobs[:count], free):
                await client.result(job.id, wait=60)
            if world.fake is not None:
                await world.fake.run_all()
            states = [(await client.get(job.id)).state for job in jobs]
        assert states == ["completed"] * count + ["available"] * (4 - count)

    await play_scheduled(scenario)


@pytest.mark.parametrize(
    ("on_limit", "state"), [("reschedule", "scheduled"), ("drop", "discarded")]
)
async def test_a_job_at_its_limit_does_what_it_asks_for(
    play_scheduled: Play, on_limit: str, state: str
) -> None:
    queue = f"limits-{on_limit}"
    worker = Worker(queues=[queue])

    @worker.handler("t.call")
    async def call(job: RunningJob) -> None: ...

    async def scenario(world: World) -> None:
        limit: Any = {
            "key": f"t-{on_limit}",
            "rate": {"limit": 1, "period": HOUR},
            "on_limit": on_limit,
        }
        jobs = await world.client.enqueue_many(
            [new_job("t.call", queue=queue, rate_limit=limit)] * 2
        )
        async with world.running(worker):
            await world.client.result(jobs[0].id, wait=60)
            found = await job_in(world.client, jobs[1].id, state)
        assert (found.attempt, found.error) == (0, None)
        assert "completed_at" not in found.members or on_limit == "drop"

    await play_scheduled(scenario)


async def test_a_failed_attempt_may_hold_its_key(play_scheduled: Play) -> None:
    worker = Worker(queues=["limits-hold"], concurrency=1)

    @worker.handler("t.call")
    async def call(job: RunningJob) -> None:
        raise Retry("the API asks for a pause", hold=3000)

    async def scenario(world: World) -> None:
        client = world.client
        policy = RetryPolicy(initial_interval=3600, jitter=False)
        enqueue = partial(client.enqueue, "t.call", queue="limits-hold", retry=policy)
        limit: Any = {"key": "t-hold", "concurrency": 1}
        first = await enqueue(rate_limit=limit)
        second = await enqueue(rate_limit=limit)
        other = await enqueue()
        async with world.running(worker):
            await job_in(client, first.id, "retryable")
            await job_in(client, other.id, "retryable")
        assert (await client.get(second.id)).state == "available"

    await play_scheduled(scenario)


@pytest.mark.parametrize("kind", ["rate", "throttle"])
async def test_a_released_job_gives_its_start_back(play_scheduled: Play, kind: str) -> None:
    async def scenario(world: World) -> None:
        send, queue = world.client._transport.request, f"limits-release-{kind}"
        limit: Any = {"key": f"t-release-{kind}", kind: {"limit": 1, "period": HOUR}}
        made = await world.client.enqueue("t.call", queue=queue, rate_limit=limit)
        asked: dict[str, Any] = {"queues": [queue], "worker_id": "w", "wait_ms": 1000}

        async def fetched() -> Any:
            with anyio.fail_after(60):
                while not (jobs := (await send("POST", "/workers/fetch", asked))["jobs"]):
                    pass
            return jobs[0]

        async def nack(job: Any, **members: Any) -> None:
            item = {"job_id": made.id, "lease_id": job["lease_id"], "requeue": True, **members}
            await send("POST", "/workers/nack/batch", {"worker_id": "w", "nacks": [item]})

        await nack(await fetched(), started=False)
        again = await fetched()
        assert (again["id"], again["attempt"]) == (made.id, 1)
        await nack(again)
        assert (await send("POST", "/workers/fetch", asked))["jobs"] == []

    await play_scheduled(scenario)


async def test_invalid_limits_are_refused(play_scheduled: Play) -> None:
    limits: list[Any] = [
        {},
        {"key": "a b", "concurrency": 1},
        {"key": "a"},
        {"key": "a", "concurrency": -1},
        {"key": "a", "rate": 5},
        {"key": "a", "rate": {"limit": 0, "period": HOUR}},
        {"key": "a", "concurrency": 1, "on_limit": "panic"},
        {"key": "a", "max_per_second": 1},
        {"max_per_second": 0},
    ]

    async def scenario(world: World) -> None:
        for limit in limits:
            with pytest.raises(ApiError) as caught:
                await world.client.enqueue("t.call", queue="limits-no", rate_limit=limit)
            assert (caught.value.status, caught.value.code) == (422, "validation_error"), limit

    await play_scheduled(scenario)


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ({"max_per_second": 2}, [0, 0, 1, 1]),
        ({"key": "k", "rate": {"limit": 2, "period": "PT1M"}}, [0, 0, 60, 60]),
        ({"key": "k", "throttle": {"limit": 2, "period": "PT1M"}}, [0, 30, 60, 90]),
        (
            {"key": "k", "rate": {"limit": 1, "period": "PT1M"}, "on_limit": "reschedule"},
            [0, 60, 120, 180],
        ),
    ],
)
def test_jobs_start_as_soon_as_their_limit_lets_them(limit: Any, seconds: list[float]) -> None:
    async def test() -> None:
        server, worker, starts = FakeServer(now=NOON), Worker(queues=["a"]), list[float]()

        @worker.handler("t.call")
        async def call(job: RunningJob) -> None:
            starts.append((server.now - NOON).total_seconds())

        async with server.client() as client, server.running(worker):
            await client.enqueue_many([new_job("t.call", queue="a", rate_limit=limit)] * 4)
            await server.advance(200)
        assert starts == seconds

    anyio.run(test)


def test_a_hold_lasts_as_long_as_the_handler_says() -> None:
    async def test() -> None:
        server, worker, starts = FakeServer(now=NOON), Worker(queues=["a"]), list[float]()

        @worker.handler("t.call")
        async def call(job: RunningJob) -> None:
            starts.append(round((server.now - NOON).total_seconds()))
            if len(starts) == 1:
                raise Retry("a pause, please", hold=30)

        async with server.client() as client, server.running(worker):
            limit: Any = {"key": "k", "concurrency": 1}
            await client.enqueue_many([new_job("t.call", queue="a", rate_limit=limit)] * 2)
            await server.advance(100)
        assert starts == [0, 30, 30]

    anyio.run(test)
