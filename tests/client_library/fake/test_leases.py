"""Leases, cancellation and checkpoints of the fake server work as those of a server do."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from ojs_client import JobCancelled, Retry, RetryPolicy, RunningJob
from ojs_client.testing import FakeServer
from tests.client_library.fake.worlds import FAST, SOON, Play, World, new_worker
from tests.client_library.workers import QUEUE, job_in


async def test_a_cancelled_job_loses_its_worker(play: Play) -> None:
    worker = new_worker()
    seen: dict[str, Any] = {}

    @worker.handler("t.long")
    async def long(job: RunningJob) -> None:
        seen["started"].set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True), pytest.raises(JobCancelled):
                await job.progress(0.5)
            seen["ended"].set()

    async def scenario(world: World) -> None:
        seen.update(started=anyio.Event(), ended=anyio.Event())
        held = await world.client.enqueue("t.long", queue=QUEUE)
        async with world.running(worker):
            await seen["started"].wait()
            assert (await world.client.get(held.id)).state == "active"
            assert (await world.client.cancel(held.id)).state == "cancelled"
            await seen["ended"].wait()
        assert (await world.client.get(held.id)).state == "cancelled"

    await play(scenario)


async def test_a_drained_worker_requeues_its_jobs(play: Play) -> None:
    worker = new_worker(grace=0.1)
    seen: dict[str, Any] = {}

    @worker.handler("t.long")
    async def long(job: RunningJob) -> None:
        seen["started"].set()
        await anyio.sleep_forever()

    async def scenario(world: World) -> None:
        seen.update(started=anyio.Event())
        held = await world.client.enqueue("t.long", queue=QUEUE)
        async with world.running(worker):
            await seen["started"].wait()
        found = await world.client.get(held.id)
        assert (found.state, found.attempt, found.error) == ("available", 1, None)

    await play(scenario)


def test_a_lost_lease_cancels_the_handler_and_the_job_runs_again() -> None:
    async def test() -> None:
        worker, started, cancelled = new_worker(), anyio.Event(), list[int]()

        @worker.handler("t.held")
        async def held(job: RunningJob) -> int:
            if job.attempt == 1:
                started.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.append(job.attempt)
            return job.attempt

        server = FakeServer()
        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.held", queue=QUEUE)
            await started.wait()
            server.lose_leases()
            await server.run_all()
            assert (await client.result(job.id), cancelled) == (2, [1])

    anyio.run(test)


@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_lease_without_a_heartbeat_ends(play_scheduled: Play, attempts: int) -> None:
    async def scenario(world: World) -> None:
        client, queue = world.client, f"leases-{attempts}"
        policy = RetryPolicy(max_attempts=attempts)
        made = await client.enqueue("t.held", queue=queue, retry=policy)
        send = client._transport.request
        asked = {"queues": [queue], "worker_id": "w", "visibility_timeout_ms": 1000}
        [held] = (await send("POST", "/workers/fetch", asked))["jobs"]
        await world.passes(2)
        found = await job_in(client, made.id, "available" if attempts > 1 else "discarded")
        assert found.attempt == 1
        assert found.error is not None
        assert found.error["code"] == "visibility_timeout"
        beat = {"worker_id": "w", "leases": {made.id: held["lease_id"]}}
        assert (await send("POST", "/workers/heartbeat", beat))["jobs_extended"] == []
        for kind in ("ack", "nack"):
            late = {
                "worker_id": "w",
                f"{kind}s": [{"job_id": made.id, "lease_id": held["lease_id"]}],
            }
            [result] = (await send("POST", f"/workers/{kind}/batch", late))["results"]
            assert result["status"] == 409

    await play_scheduled(scenario)


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_lease_ends_when_no_heartbeat_extends_it(attempts: int) -> None:
    async def test() -> None:
        server = FakeServer()
        async with server.client() as client:
            policy = RetryPolicy(max_attempts=attempts)
            made = await client.enqueue("t.held", queue=QUEUE, retry=policy)
            send = client._transport.request
            asked = {"queues": [QUEUE], "worker_id": "w", "visibility_timeout_ms": 10_000}
            [held] = (await send("POST", "/workers/fetch", asked))["jobs"]
            beat = {"worker_id": "w", "leases": {held["id"]: held["lease_id"]}}
            await server.advance(8)
            assert (await send("POST", "/workers/heartbeat", beat))["jobs_extended"] == [made.id]
            await server.advance(8)
            assert (await client.get(made.id)).state == "active"
            await server.advance(8)
            found = await client.get(made.id)
            assert found.state == ("available" if attempts > 1 else "discarded")
            assert (await send("POST", "/workers/heartbeat", beat))["jobs_extended"] == []
            late = {"worker_id": "w", "nacks": [{"job_id": made.id, "lease_id": held["lease_id"]}]}
            [result] = (await send("POST", "/workers/nack/batch", late))["results"]
            assert result["status"] == 409

    anyio.run(test)


async def test_a_job_that_is_released_is_as_before_its_fetch(play: Play) -> None:
    async def scenario(world: World) -> None:
        send = world.client._transport.request
        first, second = [await world.client.enqueue("t.held", queue=QUEUE) for _ in range(2)]
        await world.passes(SOON)
        asked = {"queues": [QUEUE], "worker_id": "w", "count": 1}
        [held] = (await send("POST", "/workers/fetch", asked))["jobs"]
        item = {"job_id": first.id, "lease_id": held["lease_id"]}
        await send("POST", "/workers/progress", {**item, "worker_id": "w", "progress": 0.5})
        release = {**item, "requeue": True, "started": False}
        body = {"worker_id": "w", "nacks": [release]}
        [result] = (await send("POST", "/workers/nack/batch", body))["results"]
        assert result["status"] == 200
        found = (await world.client.get(first.id)).members
        assert (found["state"], found["attempt"]) == ("available", 0)
        assert found["enqueued_at"] == first.members["enqueued_at"]
        assert not {"started_at", "progress"} & set(found)
        fetched = (await send("POST", "/workers/fetch", {**asked, "count": 2}))["jobs"]
        assert [job["id"] for job in fetched] == [first.id, second.id]

    await play(scenario)


async def test_an_attempt_continues_from_the_checkpoint_and_not_from_the_progress(
    play: Play,
) -> None:
    worker = new_worker()

    @worker.handler("t.rows")
    async def rows(job: RunningJob) -> Any:
        if job.checkpoint is None:
            await job.progress(0.7, "most rows")
            await job.progress(0.2)
            await job.save_checkpoint({"row": 6})
            await job.save_checkpoint({"row": 7})
            raise Retry("again")
        shown = (await job.client.get(job.id)).members.get("progress")
        return [job.checkpoint, shown]

    async def scenario(world: World) -> None:
        async with world.running(worker):
            enqueued = await world.client.enqueue("t.rows", queue=QUEUE, retry=FAST)
            await world.passes(10 * SOON)
            result = await world.client.result(enqueued.id, wait=60)
        assert result[0] == {"row": 7}

    await play(scenario)
