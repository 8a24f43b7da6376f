"""Whatever a handler raises, the worker and its other jobs go on."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import anyio
import pytest

from ojs_client import BlockingJob, Client, Retry, RetryPolicy, RunningJob
from tests.client_library.conftest import Server
from tests.client_library.workers import QUEUE, job_in, new_worker, serving_jobs

ONCE = RetryPolicy(max_attempts=1)


async def test_a_cancelled_future_or_task_fails_the_attempt_alone(server: Server) -> None:
    """On asyncio a handler that awaits it raises the same error as a cancelled handler."""

    async def scenario(client: Client) -> None:
        worker = new_worker(client)
        started, go = anyio.Event(), anyio.Event()

        @worker.handler("t.other")
        async def other(job: RunningJob) -> str:
            started.set()
            await go.wait()
            return "done"

        @worker.handler("t.awaits")
        async def awaits(job: RunningJob) -> None:
            if job.args[0] == "future":
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task

        async with serving_jobs(worker):
            good = await client.enqueue("t.other", queue=QUEUE)
            await started.wait()
            for what in ("future", "task"):
                job = await client.enqueue("t.awaits", what, queue=QUEUE, retry=ONCE)
                error = (await job_in(client, job.id, "discarded")).error
                assert error is not None
                assert (error["code"], error["type"]) == ("handler_error", "CancelledError")
            go.set()
            assert await client.result(good.id, wait=60) == "done"

    if server.loop == "asyncio":
        await server.run(scenario)


async def test_a_foreign_cancellation_during_a_drain_gives_the_job_back(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, grace=0.1)
        started = anyio.Event()

        @worker.handler("t.awaits")
        async def awaits(job: RunningJob) -> None:
            future = asyncio.get_running_loop().create_future()
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                future.cancel()
                await future

        job = await client.enqueue("t.awaits", queue=QUEUE)
        async with serving_jobs(worker):
            await started.wait()
        found = await client.get(job.id)
        assert (found.state, found.error) == ("available", None)

    if server.loop == "asyncio":
        await server.run(scenario)


async def test_a_failed_cleanup_of_a_cancelled_handler_ends_no_worker(server: Server) -> None:
    """The task group of the handler raises the failure together with cancellations."""

    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        async def fail() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise RuntimeError("cleanup")

        @worker.handler("t.slow", timeout=0.2)
        async def slow(job: RunningJob) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                group.start_soon(fail)

        @worker.handler("t.good")
        async def good(job: RunningJob) -> str:
            return "done"

        async with serving_jobs(worker):
            job = await client.enqueue("t.slow", queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert error["message"] == "cleanup"
            after = await client.enqueue("t.good", queue=QUEUE)
            assert await client.result(after.id, wait=60) == "done"

    await server.run(scenario)


@pytest.mark.parametrize("kind", ["async", "sync", "group", "code"])
async def test_an_exit_or_an_odd_error_of_a_handler_ends_no_worker(
    server: Server, kind: str
) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.async")
        async def end(job: RunningJob) -> None:
            match kind:
                case "async":
                    sys.exit(2)
                case "group":
                    raise BaseExceptionGroup("two", [SystemExit(1), SystemExit(2)])
                case "code":
                    raise Retry("odd", code=object())  # type: ignore[arg-type]

        @worker.handler("t.sync")
        def end_thread(job: BlockingJob) -> None:
            sys.exit("no")

        @worker.handler("t.good")
        async def good(job: RunningJob) -> str:
            return "done"

        async with serving_jobs(worker):
            type = "t.sync" if kind == "sync" else "t.async"
            job = await client.enqueue(type, queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert error["code"] == ("invalid_error" if kind == "code" else "handler_error")
            after = await client.enqueue("t.good", queue=QUEUE)
            assert await client.result(after.id, wait=60) == "done"

    await server.run(scenario)


async def test_an_error_tells_what_it_was_raised_from(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.from")
        async def raise_from(job: RunningJob) -> None:
            try:
                _divide(1, job.args[0])
            except ZeroDivisionError as error:
                raise RuntimeError("no quotient") from error

        @worker.handler("t.group")
        async def raise_group(job: RunningJob) -> None:
            raise ExceptionGroup("both", [KeyError("a"), ValueError("b")])

        @worker.handler("t.one")
        async def raise_group_from(job: RunningJob) -> None:
            try:
                _divide(1, 0)
            except ZeroDivisionError as error:
                raise ExceptionGroup("one", [KeyError("a")]) from error

        async with serving_jobs(worker):
            job = await client.enqueue("t.one", queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            causes = [each["type"] for each in error["details"]["causes"]]
            assert (error["type"], causes) == ("ExceptionGroup", ["KeyError", "ZeroDivisionError"])

            job = await client.enqueue("t.from", 0, queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert (error["type"], error["message"]) == ("RuntimeError", "no quotient")
            [frame] = error["backtrace"]
            assert frame.endswith(" in raise_from")
            [cause] = error["details"]["causes"]
            assert (cause["type"], cause["message"]) == ("ZeroDivisionError", "division by zero")
            assert [frame.split()[-1] for frame in cause["backtrace"]] == ["raise_from", "_divide"]

            never = RetryPolicy(max_attempts=9, non_retryable_errors=["KeyError"])
            job = await client.enqueue("t.group", queue=QUEUE, retry=never)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert [each["type"] for each in error["details"]["causes"]] == [
                "KeyError",
                "ValueError",
            ]

    await server.run(scenario)


def _divide(a: int, b: int) -> float:
    return a / b


async def test_causes_in_a_circle_have_an_end(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.circle")
        async def raise_circle(job: RunningJob) -> None:
            first, second = ValueError("first"), ValueError("second")
            first.__cause__, second.__cause__ = second, first
            raise first

        async with serving_jobs(worker):
            job = await client.enqueue("t.circle", queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert len(error["details"]["causes"]) == 8

    await server.run(scenario)


async def test_a_thread_of_a_sync_handler_is_no_part_of_its_traceback(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.sync")
        def fail(job: BlockingJob) -> None:
            _divide(1, 0)

        async with serving_jobs(worker):
            job = await client.enqueue("t.sync", queue=QUEUE, retry=ONCE)
            error = (await job_in(client, job.id, "discarded")).error
            assert error is not None
            assert [frame.split()[-1] for frame in error["backtrace"]] == ["fail", "_divide"]

    await server.run(scenario)


async def test_every_failed_attempt_is_logged_with_what_is_needed_to_find_it(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.raises")
        async def fail(job: RunningJob) -> None:
            raise ValueError("no")

        @worker.handler("t.retries")
        async def retry(job: RunningJob) -> None:
            raise Retry("later")

        @worker.handler("t.slow", timeout=0.05)
        async def slow(job: RunningJob) -> None:
            await anyio.sleep_forever()

        @worker.handler("t.odd")
        async def odd(job: RunningJob) -> Any:
            return object()

        async with serving_jobs(worker):
            for type in ("t.raises", "t.retries", "t.slow", "t.odd"):
                job = await client.enqueue(type, queue=QUEUE, retry=ONCE)
                await job_in(client, job.id, "discarded")
                [record] = [r for r in caplog.records if getattr(r, "job_id", "") == job.id]
                found = {name: record.__dict__[name] for name in ("job_type", "queue", "attempt")}
                assert found == {"job_type": type, "queue": QUEUE, "attempt": 1}
                trace = record.exc_info and record.exc_info[1]
                assert isinstance(trace, ValueError) == (type == "t.raises")
                if record.exc_info and record.exc_info[2]:  # it begins with the handler
                    assert record.exc_info[2].tb_frame.f_code.co_name == "fail"

    await server.run(scenario)
