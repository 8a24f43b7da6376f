"""The clock of the fake server, and what only a fake server can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from ojs_client import ApiError, BlockingJob, Client, RunningJob, SyncClient, Worker
from ojs_client.testing import FakeServer

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
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


def new_worker(**options: Any) -> Worker:
    return Worker(queues=["a"], **options)


def test_each_attempt_runs_at_its_time(run: Run) -> None:
    async def test() -> None:
        server, worker = FakeServer(now=NOON), new_worker()
        seconds: list[float] = []

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            seconds.append((server.now - NOON).total_seconds())
            if job.attempt == 3:
                await job.client.enqueue("t.follows", queue="a", delay=60)
            raise ValueError

        @worker.handler("t.follows")
        def follows(job: BlockingJob) -> None:
            seconds.append((server.now - NOON).total_seconds())

        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.fails", queue="a")
            await server.run_all()
            assert seconds == [0]
            assert (await client.get(job.id)).state == "retryable"
            await server.advance(2.999)
            assert seconds == [0, 1]
            await server.advance(0.001)
            assert (await client.get(job.id)).state == "discarded"
            await server.advance(3600)
        assert seconds == [0, 1, 3, 63]
        assert (server.now - NOON).total_seconds() == 3603

    run(test)


def test_a_job_that_has_expired_does_not_run(run: Run) -> None:
    async def test() -> None:
        server, worker = FakeServer(), new_worker()

        @worker.handler("t.note")
        async def note(job: RunningJob) -> None:
            raise AssertionError

        async with server.client() as client:
            job = await client.enqueue("t.note", queue="a", delay=60, expires=30)
            await client.enqueue("t.note", queue="b", expires=30)
            async with server.running(worker):
                await server.advance(90)
            assert (await client.get(job.id)).state == "discarded"
            assert len(server.jobs(state="discarded", type="t.note")) == 2

    run(test)


def test_jobs_can_be_found_without_running_them(run: Run) -> None:
    async def test() -> None:
        server = FakeServer()
        async with server.client() as client:
            await client.enqueue("t.mail", "ada", queue="a")
            await client.enqueue("t.mail", "bob", queue="b", delay=5)
        assert [job.args for job in server.jobs(type="t.mail")] == [["ada"], ["bob"]]
        assert [job.args for job in server.jobs(queue="b", state="scheduled")] == [["bob"]]
        assert server.jobs(type="t.other") == []
        await server.advance(5)
        assert [job.state for job in server.jobs()] == ["available", "available"]

    run(test)


def test_run_all_says_why_jobs_do_not_end(run: Run) -> None:
    async def test() -> None:
        server, worker = FakeServer(), new_worker()

        @worker.handler("t.stuck")
        async def stuck(job: RunningJob) -> None:
            await anyio.sleep_forever()

        async with server.client() as client:
            await client.enqueue("t.stuck", queue="a")
            with pytest.raises(RuntimeError, match=r"\['a'\]"):
                await server.run_all()
            async with server.running(worker):
                with pytest.raises(TimeoutError, match=r"t\.stuck \(active\)"):
                    await server.run_all(limit_s=0.1)
            assert [job.state for job in server.jobs()] == ["available"]

    run(test)


def test_a_worker_of_the_application_serves_many_tests(run: Run) -> None:
    worker = new_worker(concurrency=2)

    @worker.handler("t.note")
    async def note(job: RunningJob) -> str:
        return f"{job.job.members['lease_id'] != ''}"

    async def fail_after_a_job(server: FakeServer, client: Client) -> None:
        async with server.running(worker):
            job = await client.enqueue("t.note", queue="a")
            await server.run_all()
            assert await client.result(job.id) == "True"
            raise KeyError("of the test")

    async def test() -> None:
        for _ in range(2):
            server = FakeServer()
            async with server.client() as client:
                with pytest.raises(KeyError, match="of the test"):
                    await fail_after_a_job(server, client)
        assert worker.held == 0

    run(test)


def test_a_wait_for_a_result_ends_when_the_job_ends(run: Run) -> None:
    async def test() -> None:
        server, worker = FakeServer(), new_worker()

        @worker.handler("t.note")
        async def note(job: RunningJob) -> int:
            return 7

        results: list[Any] = []
        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.note", queue="a", delay=60)

            async def wait() -> None:
                results.append(await client.result(job.id, wait=3600))  # longer than the test

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                assert results == []
                await server.advance(60)
        assert results == [7]

    run(test)


def test_a_job_that_is_cancelled_before_its_thread_begins_holds_no_thread(run: Run) -> None:
    copies: list[Worker] = []

    class Copied(Worker):
        def copy(self, *args: Any, **changes: Any) -> Worker:
            copies.append(super().copy(*args, **changes))
            return copies[-1]

    async def cancel(_job: RunningJob, call_next: Callable[[], Awaitable[Any]]) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await call_next()

    async def test() -> None:
        server, worker = FakeServer(), Copied(queues=["a"], middleware=[cancel])

        @worker.handler("t.note")
        def note(job: BlockingJob) -> None:
            raise AssertionError(job)

        async with server.client() as client, server.running(worker):
            job = await client.enqueue("t.note", queue="a")
            await server.run_all()
            assert (await client.get(job.id)).state == "completed"
        assert [each._runner.threads for each in copies] == [set()]

    run(test)


def test_it_refuses_what_it_does_not_have(run: Run) -> None:
    async def test() -> None:
        async with FakeServer().client() as client:
            with pytest.raises(ApiError) as caught:
                await client._transport.request("GET", "/queues")
            assert (caught.value.status, caught.value.code) == (501, "not_in_fake")

    run(test)


def test_programs_without_an_event_loop_can_use_it() -> None:
    server = FakeServer()
    with SyncClient(server.url, transport=server.transport) as client:
        job = client.enqueue("t.mail", "ada")
        assert client.get(job.id).state == "available"
    assert [job.args for job in server.jobs()] == [["ada"]]


def test_it_moves_without_a_wait_in_real_time() -> None:
    """With a clock that trio moves, a wait in real time would move the clock."""
    clock = trio.testing.MockClock()  # stands still

    async def test() -> None:
        server, worker = FakeServer(), new_worker()

        @worker.handler("t.fails")
        async def fails(job: RunningJob) -> None:
            raise ValueError

        async with server.client() as client:
            async with server.running(worker):
                job = await client.enqueue("t.fails", queue="a")
                await server.advance(3600)
            assert (await client.get(job.id)).attempt == 3

    trio.run(test, clock=clock)
