"""A worker keeps its leases, and a handler whose lease is lost ends."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio
import httpx2
import pytest
import trio

from ojs_client import BlockingJob, Client, JobCancelled, RetryPolicy, RunningJob, new_job
from ojs_client.worker import heartbeats
from ojs_cluster.store.engine.queues.deadlines import reap
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE, error_of, job_in, new_worker, serving_jobs, until


async def test_a_handler_whose_job_is_cancelled_is_cancelled(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=wire, heartbeat=0.2)
        started, cancelled = anyio.Event(), anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                assert job.lease_lost
                assert job.cancelled
                with anyio.CancelScope(shield=True), pytest.raises(JobCancelled, match=job.id):
                    await job.progress(0.5)
                cancelled.set()

        async with serving_jobs(worker):
            job = await client.enqueue("t.long", queue=QUEUE)
            await started.wait()
            await client.cancel(job.id)
            await cancelled.wait()
        assert (await client.get(job.id)).state == "cancelled"

    await server.run(scenario)
    assert wire.counts["workers/ack/batch"] == wire.counts["workers/nack/batch"] == 0
    assert "it was cancelled" in caplog.text
    assert "lease is lost" not in caplog.text


async def test_a_worker_that_gets_its_job_again_cancels_the_first_handler(server: Server) -> None:
    """As after a failover that has lost the fetch: no heartbeat has found the loss yet."""

    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=10)
        attempts: list[int] = []
        cancelled = anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> str:
            attempts.append(job.attempt)
            if len(attempts) == 2:
                await cancelled.wait()
                return "second"
            try:
                await anyio.sleep_forever()
            finally:
                assert job.lease_lost
                cancelled.set()
            return "first"

        async with serving_jobs(worker):
            job = await client.enqueue("t.long", queue=QUEUE)
            await until(lambda: attempts)
            body = {"job_id": job.id, "requeue": True}
            async with httpx2.AsyncClient() as http:
                answer = await http.post(f"{client.url}/ojs/v1/workers/nack", json=body)
            assert answer.status_code == 200
            assert await client.result(job.id, wait=60) == "second"
            await until(lambda: worker.held == 0)
        assert len(attempts) == 2

    await server.run(scenario)


async def test_a_cancel_reaches_the_handler_before_the_next_heartbeat(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was sent between two heartbeats that wait: the next one lists the job."""
    monkeypatch.setattr(heartbeats, "_WAIT_MS", 500)
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=wire, lease=3600, heartbeat=600)
        started, cancelled = anyio.Event(), anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        async with serving_jobs(worker):
            job = await client.enqueue("t.long", queue=QUEUE)
            await started.wait()
            await client.cancel(job.id)
            await cancelled.wait()
            sent = wire.counts["workers/heartbeat"]
            await until(lambda: wire.counts["workers/heartbeat"] > sent)  # it waits again

    await server.run(scenario)


async def test_leases_do_not_wait_for_news(server: Server) -> None:
    """The heartbeats that extend leases do not wait for the answer of one that waits."""
    sent: list[Any] = []

    async def record(path: str, body: Any) -> None:
        if path.endswith("heartbeat"):
            sent.append(body)

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(before=record), heartbeat=0.2)

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            start = len(sent)
            await until(lambda: len(sent) > start + 3)
            assert not any("wait_ms" in body for body in sent[start:])

        async with serving_jobs(worker):
            await until(lambda: any("wait_ms" in body for body in sent))
            job = await client.enqueue("t.long", queue=QUEUE)
            assert (await client.result(job.id, wait=60)) is None
        assert all(isinstance(body["active_jobs"], list) for body in sent if "wait_ms" not in body)
        assert all(isinstance(body["active_jobs"], int) for body in sent if "wait_ms" in body)

    await server.run(scenario)


async def test_a_sync_handler_learns_that_its_lease_is_lost(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=0.2)
        started, ended = threading.Event(), threading.Event()

        @worker.handler("t.long")
        def long(job: BlockingJob) -> None:
            started.set()
            pause = threading.Event()
            while not job.lease_lost:
                pause.wait(0.01)
            assert job.cancelled
            with pytest.raises(JobCancelled):
                job.progress(0.5)
            ended.set()

        async with serving_jobs(worker):
            job = await client.enqueue("t.long", queue=QUEUE)
            await anyio.to_thread.run_sync(started.wait, 60)
            await client.cancel(job.id)
            assert await anyio.to_thread.run_sync(ended.wait, 60)
        assert (await client.get(job.id)).state == "cancelled"

    await server.run(scenario)


@pytest.mark.parametrize("args", [[], ["progress"]])
async def test_progress_of_a_lost_job_ends_its_handler(server: Server, args: list[str]) -> None:
    def without_heartbeats(path: str, body: Any) -> httpx2.Response | None:
        return httpx2.Response(503) if path.endswith("heartbeat") else None

    async def scenario(client: Client) -> None:
        wire = Watched(instead=without_heartbeats)
        worker = new_worker(client, transport=wire, heartbeat=10)
        lost = anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            await client.cancel(job.id)
            try:
                await (job.progress(0.5) if job.args else job.save_checkpoint(1))
            except JobCancelled:
                lost.set()
                raise

        async with serving_jobs(worker):
            await client.enqueue("t.long", *args, queue=QUEUE)
            await lost.wait()

    await server.run(scenario)


async def test_a_handler_ends_when_no_heartbeat_is_answered_during_its_lease(
    server: Server,
) -> None:
    """The server may have given the job to another worker. If it has not, the job is retried."""
    cut = False

    async def fail(path: str, body: Any) -> None:
        if cut and path.endswith("heartbeat"):
            raise httpx2.ConnectError("the network is cut")

    async def scenario(client: Client) -> None:
        nonlocal cut
        wire = Watched(before=fail)
        worker = new_worker(client, transport=wire, lease=2, heartbeat=0.2)
        cancelled = anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            nonlocal cut
            cut = True
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        async with serving_jobs(worker):
            later = RetryPolicy(initial_interval=600)
            job = await client.enqueue("t.long", queue=QUEUE, retry=later)
            await cancelled.wait()
            # The scheduler does not run, so the server has not ended the lease.
            assert (await error_of(client, job.id))["code"] == "lease_expired"
            cut = False

    await server.run(scenario)


async def test_heartbeats_name_a_job_until_its_ack_is_in(server: Server) -> None:
    beats: list[Any] = []
    hold = True

    async def lose_acks(path: str, body: Any) -> None:
        if path.endswith("heartbeat"):
            beats.append(body)
        elif hold and path.endswith("ack/batch"):
            raise httpx2.ConnectError("refused")

    async def scenario(client: Client) -> None:
        nonlocal hold
        worker = new_worker(client, transport=Watched(before=lose_acks), heartbeat=0.1)
        ended = anyio.Event()

        @worker.handler("t.short")
        async def short(job: RunningJob) -> str:
            ended.set()
            return "kept"

        async with serving_jobs(worker):
            job = await client.enqueue("t.short", queue=QUEUE)
            await ended.wait()
            count = len(beats)
            await until(lambda: len(beats) >= count + 3)
            assert all(beat["active_jobs"] == [job.id] for beat in beats[-2:])
            assert all(set(beat["leases"]) == {job.id} for beat in beats[-2:])
            hold = False
            assert await client.result(job.id, wait=60) == "kept"
            await until(lambda: not beats[-1]["active_jobs"])

    await server.run(scenario)


async def test_an_ack_whose_response_is_lost_is_repeated(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    lost = 0

    async def lose_two(path: str, body: Any) -> None:
        nonlocal lost
        if path.endswith("ack/batch") and lost < 2:
            lost += 1
            raise httpx2.ReadError("the response is lost")

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(after=lose_two))

        @worker.handler("t.short")
        async def short(job: RunningJob) -> int:
            return int(job.args[0])

        async with serving_jobs(worker):
            jobs = await client.enqueue_many(new_job("t.short", n, queue=QUEUE) for n in range(5))
            for number, job in enumerate(jobs):
                assert await client.result(job.id, wait=60) == number

    await server.run(scenario)
    assert lost == 2
    assert "refused the ack" not in caplog.text


async def test_a_worker_goes_on_after_the_server_was_away(server: Server) -> None:
    away = True

    async def refuse(path: str, body: Any) -> None:
        if away:
            raise httpx2.ConnectError("refused")

    async def scenario(client: Client) -> None:
        nonlocal away
        wire = Watched(before=refuse)
        worker = new_worker(client, transport=wire)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None: ...

        async with serving_jobs(worker):
            job = await client.enqueue("t.short", queue=QUEUE)
            await until(lambda: wire.counts["workers/fetch"] >= 3)
            away = False
            await client.result(job.id, wait=60)

    await server.run(scenario)


async def test_a_job_that_the_worker_gets_twice_has_two_leases(server: Server) -> None:
    """A nack gives the job back, and the same worker runs it again."""

    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=1)
        attempts: list[int] = []

        @worker.handler("t.twice")
        async def twice(job: RunningJob) -> None:
            attempts.append(job.attempt)
            if job.attempt == 1:
                raise RuntimeError("once")

        async with serving_jobs(worker):
            soon = RetryPolicy(initial_interval=0.01, jitter=False)
            job = await client.enqueue("t.twice", queue=QUEUE, retry=soon)
            await job_in(client, job.id, "completed")
        assert attempts == [1, 2]

    await server.run(scenario)


async def test_a_handler_that_blocks_the_event_loop_keeps_its_lease(server: Server) -> None:
    """Only the loop stands still: a thread sends the heartbeats."""
    lease_s, runs = 8, 0

    async def reap_lost_jobs() -> None:
        store = server.app.store
        while True:
            for shard in store.keys:
                await reap(store, shard, 100)
            await trio.sleep(0.1)

    async def scenario(client: Client) -> None:
        worker = new_worker(client, lease=lease_s, heartbeat=1)

        @worker.handler("t.blocks")
        async def blocks(job: RunningJob) -> int:
            nonlocal runs
            runs += 1
            time.sleep(1.5 * lease_s)  # noqa: ASYNC251 - this is what the test is about
            return job.attempt

        async with serving_jobs(worker):
            job = await client.enqueue("t.blocks", queue=QUEUE)
            assert await client.result(job.id, wait=60) == 1
        assert (await client.get(job.id)).errors == []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_lost_jobs)
        await server.run(scenario)
        nursery.cancel_scope.cancel()
    assert runs == 1
