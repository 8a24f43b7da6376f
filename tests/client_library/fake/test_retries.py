"""Attempts of the fake server are repeated as those of a server are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from ojs_client import Discard, Job, JobFailed, Retry, RetryPolicy, RunningJob
from tests.client_library.fake.worlds import FAST, LATER, SOON, Play, World, job, new_worker
from tests.client_library.workers import QUEUE, job_in


async def test_failed_attempts_are_repeated_as_the_policy_says(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.third")
    async def third(job: RunningJob) -> int:
        if job.attempt < 3:
            raise ValueError(f"attempt {job.attempt}")
        return job.attempt

    @worker.handler("t.fails")
    async def fails(job: RunningJob) -> None:
        match job.args[0]:
            case "discard":
                raise Discard("never", code="gone")
            case "named":
                raise Retry("busy", code="net.busy")
        raise KeyError("always")

    async def scenario(world: World) -> None:
        client = world.client
        never = RetryPolicy(max_attempts=9, initial_interval=LATER, non_retryable_errors=["net.*"])

        async def error_of(job: Job) -> Any:
            await world.passes(10 * SOON)
            with pytest.raises(JobFailed) as caught:
                await client.result(job.id, wait=60)
            error = caught.value.error
            assert error is not None
            return error["code"], error["type"], error["attempt"]

        async with world.running(worker):
            good = await client.enqueue("t.third", queue=QUEUE, retry=FAST)
            await world.passes(10 * SOON)
            assert await client.result(good.id, wait=60) == 3
            history = [event async for event in client.jobs.history(good.id)]
            data = [e["data"] for e in history if e["event_type"] == "job.attempt_started"]
            assert [each["attempt"] for each in data] == [1, 2, 3]
            assert len({each["worker_id"] for each in data}) == 1
            bad = await client.enqueue("t.fails", "", queue=QUEUE, retry=FAST)
            assert await error_of(bad) == ("handler_error", "KeyError", 3)
            bad = await client.enqueue("t.fails", "discard", queue=QUEUE, retry=FAST)
            assert await error_of(bad) == ("gone", "gone", 1)
            bad = await client.enqueue("t.fails", "named", queue=QUEUE, retry=never)
            assert await error_of(bad) == ("net.busy", "net.busy", 1)
            policy = RetryPolicy(initial_interval=LATER, jitter=False)
            waits = await client.enqueue("t.third", queue=QUEUE, retry=policy)
            found = await job_in(client, waits.id, "retryable")
        assert found.members["retry_delay_ms"] == LATER * 1000
        assert "next_attempt_at" in found.members
        assert [error["message"] for error in found.members["errors"]] == ["attempt 1"]

    await play(scenario)


async def test_backoffs_grow_as_the_strategy_says(play: Play) -> None:
    worker = new_worker()

    @worker.handler("t.third")
    async def third(job: RunningJob) -> Any:
        if job.attempt < 3:
            raise ValueError
        return job.job.members["retry_delay_ms"]

    async def scenario(world: World) -> None:
        strategies = {"exponential": 30, "linear": 20, "polynomial": 80, "constant": 10}
        policy = partial(RetryPolicy, initial_interval=0.01, backoff_coefficient=3, jitter=False)
        jobs = [
            job("t.third", retry=policy(strategy=strategy))
            for strategy in ("exponential", "linear", "polynomial", "constant")
        ]
        jobs.append(job("t.third", retry=policy(max_interval=0.025)))
        async with world.running(worker):
            enqueued = await world.client.enqueue_many(jobs)
            await world.passes(1)
            delays = [await world.client.result(each.id, wait=60) for each in enqueued]
        assert delays == [*strategies.values(), 25]

    await play(scenario)
