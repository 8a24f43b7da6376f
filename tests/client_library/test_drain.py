"""A worker obeys the server, and it drains without leaving anything half done."""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest

from ojs_client import BlockingJob, Client, RunningJob, Worker, new_job
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE, new_worker, serving_jobs, until


async def direct(client: Client, worker: Worker, directive: str) -> None:
    """Send a directive to a worker, as an operator does."""
    body = {"worker_ids": [worker.worker_id], "directive": directive}
    async with httpx2.AsyncClient(base_url=client.url) as http:
        (await http.post("/ojs/v1/admin/workers/directive", json=body)).raise_for_status()


async def test_handlers_end_and_their_acks_are_in_before_the_worker_ends(server: Server) -> None:
    reported: list[str] = []

    async def note(path: str, body: Any) -> None:
        if path.endswith("heartbeat"):
            reported.append(body["state"])

    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=5, transport=Watched(after=note))
        go, running = anyio.Event(), 0

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            nonlocal running
            running += 1
            await go.wait()

        jobs = await client.enqueue_many(new_job("t.async", queue=QUEUE) for _ in range(9))
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await until(lambda: running == 5)
            worker.stop()
            await until(lambda: "quiet" in reported)
            go.set()
        states = [(await client.get(job.id)).state for job in jobs]
        assert sorted(states) == ["available"] * 4 + ["completed"] * 5
        async with httpx2.AsyncClient(base_url=client.url) as http:
            assert (await http.get("/ojs/v1/workers")).json()["workers"] == []

    await server.run(scenario)


async def test_a_worker_does_not_end_before_acks_that_are_repeated(server: Server) -> None:
    refused = 0

    async def refuse(path: str, body: Any) -> None:
        nonlocal refused
        if path.endswith("ack/batch") and refused < 5:
            refused += 1
            raise httpx2.ConnectError("no answer")

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(before=refuse))
        go, running = anyio.Event(), anyio.Event()

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            running.set()
            await go.wait()

        job = await client.enqueue("t.async", queue=QUEUE)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await running.wait()
            worker.stop()
            go.set()
        assert (await client.get(job.id)).state == "completed"

    await server.run(scenario)
    assert refused == 5


@pytest.mark.parametrize("how", ["grace", "second-stop"])
async def test_handlers_that_do_not_end_are_cancelled_and_their_jobs_given_back(
    server: Server, how: str
) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, grace=0.1 if how == "grace" else 600)
        started, stay = anyio.Event(), threading.Event()
        in_thread = threading.Event()

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            started.set()
            await anyio.sleep_forever()

        @worker.handler("t.sync")
        def block(job: BlockingJob) -> None:
            in_thread.set()
            stay.wait(60)

        jobs = await client.enqueue_many(
            [new_job("t.async", queue=QUEUE), new_job("t.sync", queue=QUEUE)]
        )
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await started.wait()
            await anyio.to_thread.run_sync(in_thread.wait, 60)
            worker.stop()
            if how == "second-stop":
                worker.stop()
        for job in jobs:
            found = await client.get(job.id)
            assert (found.state, found.error) == ("available", None)
        stay.set()

    await server.run(scenario)


async def test_an_operator_quiets_and_resumes_a_worker(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=0.1)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None: ...

        async with serving_jobs(worker):
            first = await client.enqueue("t.short", queue=QUEUE)
            await client.result(first.id, wait=60)
            await direct(client, worker, "quiet")
            await until(lambda: worker.paused)
            second = await client.enqueue("t.short", queue=QUEUE)
            assert (await client.get(second.id)).state == "available"
            await direct(client, worker, "resume")
            await client.result(second.id, wait=60)
            assert not worker.paused

    await server.run(scenario)


async def test_a_program_quiets_and_resumes_its_worker(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=0.1)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None: ...

        worker.quiet()
        async with serving_jobs(worker):
            job = await client.enqueue("t.short", queue=QUEUE)
            assert (await client.get(job.id)).state == "available"
            worker.resume()
            await client.result(job.id, wait=60)

    await server.run(scenario)


async def test_an_operator_terminates_a_worker(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, heartbeat=0.1)
        started, go = anyio.Event(), anyio.Event()

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            started.set()
            await go.wait()

        job = await client.enqueue("t.async", queue=QUEUE)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await started.wait()
            await direct(client, worker, "terminate")
            await until(lambda: worker.paused)
            go.set()
        assert (await client.get(job.id)).state == "completed"

    await server.run(scenario)


async def test_jobs_that_arrive_during_a_drain_stay_available(server: Server) -> None:
    """The long poll of the worker is open when the drain begins."""
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, poll=20, transport=wire, concurrency=3)

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None: ...

        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await until(lambda: wire.counts["workers/fetch"])
            worker.stop()
            jobs = [await client.enqueue("t.async", queue=QUEUE) for _ in range(5)]
        for job in jobs:
            state = (await client.get(job.id)).state
            assert state in ("available", "completed")

    await server.run(scenario)


@pytest.mark.parametrize("how", ["returns", "raises"])
async def test_a_sync_handler_learns_of_the_end_before_its_job_is_given_back(
    server: Server, how: str
) -> None:
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, grace=0.1, transport=wire)
        started = threading.Event()
        nacks: list[int] = []

        @worker.handler("t.sync")
        def loop(job: BlockingJob) -> None:
            started.set()
            pause = threading.Event()
            for _ in range(800):
                pause.wait(0.01)
                if job.lease_lost:
                    nacks.append(wire.counts["workers/nack/batch"])
                    if how == "raises":
                        raise RuntimeError("half done")
                    return

        job = await client.enqueue("t.sync", queue=QUEUE)
        async with serving_jobs(worker):
            assert await anyio.to_thread.run_sync(started.wait, 60)
        assert nacks == [0]
        found = await client.get(job.id)
        assert (found.state, found.error) == ("available", None)

    await server.run(scenario)
    assert wire.counts["workers/ack/batch"] == 0


async def test_a_sync_handler_that_ends_after_the_grace_period_is_acknowledged(
    server: Server,
) -> None:
    """It has not read that its job is given back, so it has done its work."""

    async def scenario(client: Client) -> None:
        worker = new_worker(client, grace=0.1)
        started, go = threading.Event(), threading.Event()

        @worker.handler("t.sync")
        def work(job: BlockingJob) -> str:
            started.set()
            while not job._held.requeued:
                go.wait(0.005)
            return "done"

        job = await client.enqueue("t.sync", queue=QUEUE)
        async with serving_jobs(worker):
            assert await anyio.to_thread.run_sync(started.wait, 60)
        assert (await client.get(job.id)).state == "completed"

    await server.run(scenario)


async def test_a_sync_handler_learns_that_the_task_of_its_worker_is_cancelled(
    server: Server,
) -> None:
    learned = threading.Event()

    async def scenario(client: Client) -> None:
        worker = new_worker(client)
        started = threading.Event()

        @worker.handler("t.sync")
        def loop(job: BlockingJob) -> None:
            started.set()
            pause = threading.Event()
            for _ in range(800):
                pause.wait(0.01)
                if job.lease_lost:
                    learned.set()
                    return

        job = await client.enqueue("t.sync", queue=QUEUE)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            assert await anyio.to_thread.run_sync(started.wait, 60)
            group.cancel_scope.cancel()
        found = await client.get(job.id)
        assert (found.state, found.error) == ("available", None)
        assert await anyio.to_thread.run_sync(learned.wait, 60)

    await server.run(scenario)


@pytest.mark.parametrize("how", ["refused", "shielded"])
async def test_a_process_ends_although_a_handler_does_not(server: Server, how: str) -> None:
    async def scenario(client: Client) -> None:
        job = await client.enqueue(f"t.{how}", queue=QUEUE)
        command = [sys.executable, "-m", "tests.client_library.exiting"]
        ended = await anyio.to_thread.run_sync(
            partial(
                subprocess.run,
                [*command, client.url, server.loop, how],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        )
        assert ended.returncode == 1, ended.stderr
        assert ("no key" if how == "refused" else "does not end") in ended.stderr
        # The program has not set up any logging.
        assert f"starts: queues {QUEUE}, server {client.url}" in ended.stderr
        assert "Traceback" not in ended.stderr
        found = await client.get(job.id)
        assert (found.state, found.error) == ("available", None)

    await server.run(scenario)
