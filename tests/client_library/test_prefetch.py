"""A worker with ``prefetch`` holds jobs that wait for a free handler."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from ojs_client import Client, RunningJob, Worker, new_job
from ojs_client.testing import FakeServer
from ojs_client.worker import prefetch as module
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE, job_in, new_worker, serving_jobs, until

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return a function that runs an async test in an event loop of each kind."""

    def in_loop(test: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            with anyio.fail_after(60):
                await test()

        anyio.run(limited, backend=request.param)

    return in_loop


async def test_jobs_share_fetches_and_acks_and_run_in_order(server: Server) -> None:
    wire = Watched()
    ran: list[int] = []
    running = most = 0

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=wire, concurrency=1, prefetch=20)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.lowlevel.checkpoint()
            ran.append(job.args[0])
            running -= 1

        jobs = await client.enqueue_many(
            [new_job("t.short", number, queue=QUEUE) for number in range(60)]
        )
        async with serving_jobs(worker):
            await client.result(jobs[-1].id, wait=60)
        assert [(await client.get(job.id)).state for job in jobs] == ["completed"] * 60

    await server.run(scenario)
    assert (ran, most) == (list(range(60)), 1)
    # 21 jobs at first, then at least 10 each; the last fetches find no job.
    assert wire.counts["workers/fetch"] <= 10


def test_a_drain_requeues_the_jobs_that_wait(run: Run) -> None:
    async def test() -> None:
        server = FakeServer()
        worker = Worker(queues=["a"], concurrency=1, prefetch=5)
        started, ran = anyio.Event(), list[str]()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            ran.append(job.id)
            started.set()
            await anyio.sleep_forever()

        async with server.client() as client:
            jobs = await client.enqueue_many([new_job("t.long", queue="a")] * 4)
            async with server.running(worker):
                await started.wait()
                assert [job.state for job in server.jobs()] == ["active"] * 4
        assert ran == [jobs[0].id]
        assert [job.state for job in server.jobs()] == ["available"] * 4
        assert [job.error for job in server.jobs()] == [None] * 4
        assert [job.attempt for job in server.jobs()] == [1, 0, 0, 0]

    run(test)


async def test_a_drain_returns_the_jobs_that_wait_in_order_and_without_an_attempt(
    server: Server,
) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=1, prefetch=5)
        running, go = anyio.Event(), anyio.Event()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            running.set()
            await go.wait()

        jobs = await client.enqueue_many([new_job("t.long", queue=QUEUE)] * 4)
        async with serving_jobs(worker):
            await running.wait()
            await until(lambda: worker.held == 4)
            worker.stop()
            await until(lambda: worker.held == 1)
            go.set()
            await until(lambda: worker.held == 0)
        states = [await client.get(job.id) for job in jobs]
        assert [(it.state, it.attempt) for it in states[1:]] == [("available", 0)] * 3

        ran = list[str]()
        second = new_worker(client, concurrency=1)

        @second.handler("t.long")
        async def note(job: RunningJob) -> None:
            ran.append(job.id)

        async with serving_jobs(second):
            await client.result(jobs[-1].id, wait=60)
        assert ran == [job.id for job in jobs[1:]]

    await server.run(scenario)


def test_a_job_that_is_cancelled_while_it_waits_does_not_run(run: Run) -> None:
    async def test() -> None:
        server = FakeServer()
        worker = Worker(queues=["a"], concurrency=1, prefetch=5)
        go, ran = anyio.Event(), list[int]()

        @worker.handler("t.note")
        async def note(job: RunningJob) -> None:
            ran.append(job.args[0])
            await go.wait()

        async with server.client() as client:
            jobs = await client.enqueue_many([new_job("t.note", n, queue="a") for n in range(3)])
            copy = worker.copy(server.url, transport=server.transport, heartbeat=0.05)
            async with serving_jobs(copy):
                await until(lambda: ran and copy.held == 3)
                await client.cancel(jobs[1].id)
                await until(partial(lost_is_known, copy))
                go.set()
                await client.result(jobs[2].id, wait=30)
        assert ran == [0, 2]
        assert copy.held == 0
        assert [job.state for job in server.jobs()] == ["completed", "cancelled", "completed"]

    def lost_is_known(worker: Worker) -> bool:
        return any(job.taken for job in worker._held)

    run(test)


@pytest.mark.parametrize("found", [True, False])
def test_a_job_whose_lease_expires_while_it_waits_goes_back_without_an_attempt(
    run: Run, found: bool
) -> None:
    """The worker has not found it yet if its process was stopped meanwhile."""

    async def test() -> None:
        server = FakeServer()
        worker = Worker(queues=["a"], concurrency=1, prefetch=1)
        go, ran = anyio.Event(), list[int]()

        @worker.handler("t.note")
        async def note(job: RunningJob) -> None:
            ran.append(job.args[0])
            await go.wait()

        async with server.client() as client:
            jobs = await client.enqueue_many([new_job("t.note", n, queue="a") for n in range(2)])
            copy = worker.copy(server.url, transport=server.transport)
            async with serving_jobs(copy):
                await until(lambda: ran and copy.held == 2)
                copy.quiet()
                [waiting] = [job for job in copy._held if job.id == jobs[1].id]
                if found:
                    waiting.lose("expired")
                else:
                    waiting.expires_at = time.monotonic()
                go.set()
                await until(lambda: copy.held == 0)
        assert ran == [0]
        _, returned = server.jobs()
        assert (returned.state, returned.attempt, returned.error) == ("available", 0, None)

    run(test)


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ValueError, match="prefetch"):
        Worker(prefetch=-1)


def test_a_fetch_asks_for_more_jobs_after_short_handlers() -> None:
    waiting = Worker(concurrency=3)._waiting
    for _ in range(9):
        waiting.handler_ended(0.001)
    assert waiting.wanted() == 3
    waiting.handler_ended(0.001)
    assert waiting.wanted() == 6
    waiting.handler_ended(0.5)
    assert waiting.wanted() == 3


def test_a_worker_without_a_free_handler_does_not_fetch() -> None:
    """A job that waits at the server goes to a worker with a free handler."""
    worker = Worker(concurrency=1)
    for _ in range(10):
        worker._waiting.handler_ended(0.001)
    worker._runner.running = 1
    assert worker._waiting.wanted() == 0


@pytest.mark.parametrize(("prefetch", "least", "most"), [(None, 20, 35), (0, 60, 70)])
async def test_short_handlers_share_fetches_unless_prefetch_is_zero(
    server: Server, monkeypatch: pytest.MonkeyPatch, prefetch: int | None, least: int, most: int
) -> None:
    monkeypatch.setattr(module, "_SHORT_S", 600.0)  # also on a busy machine
    monkeypatch.setattr(module, "_MAX_WAIT_S", 600.0)
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=wire, concurrency=1, prefetch=prefetch)
        ran: list[int] = []

        @worker.handler("t.short")
        async def short(job: RunningJob) -> None:
            ran.append(job.args[0])

        jobs = await client.enqueue_many(
            [new_job("t.short", number, queue=QUEUE) for number in range(60)]
        )
        async with serving_jobs(worker):
            await client.result(jobs[-1].id, wait=60)
        assert ran == list(range(60))

    await server.run(scenario)
    assert least <= wire.counts["workers/fetch"] <= most


async def test_a_job_that_would_wait_for_a_long_handler_goes_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SHORT_IN_A_ROW", 0)

    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=1)
        go, held = anyio.Event(), list[int]()

        @worker.handler("t.long")
        async def long(job: RunningJob) -> None:
            held.append(worker.held)
            await go.wait()

        first, second = await client.enqueue_many([new_job("t.long", queue=QUEUE)] * 2)
        async with serving_jobs(worker):
            await until(lambda: held)
            assert held == [2]  # both were fetched
            job = await job_in(client, second.id, "available")
            assert job.attempt == 0
            other = new_worker(client, concurrency=1)

            @other.handler("t.long")
            async def note(job: RunningJob) -> None: ...

            async with serving_jobs(other):
                await client.result(second.id, wait=60)
            assert (await client.get(first.id)).state == "active"
            go.set()
            await client.result(first.id, wait=60)

    await server.run(scenario)
