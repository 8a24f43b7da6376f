"""The worker runs handlers and tells the server how they ended."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from ojs_client import (
    ApiError,
    BlockingJob,
    Client,
    Discard,
    JobFailed,
    Next,
    Retry,
    RetryPolicy,
    RunningJob,
    SyncClient,
    Worker,
    chain,
    new_job,
)
from ojs_client.errors import api_error
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched
from tests.client_library.workers import QUEUE, error_of, job_in, new_worker, serving_jobs, until

ONCE = RetryPolicy(max_attempts=1)


async def test_results_of_async_and_sync_handlers_are_stored(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)
        threads: list[int] = []

        @worker.handler("t.async")
        async def double(job: RunningJob) -> Any:
            return {"doubled": job.args[0] * 2}

        @worker.handler("t.sync")
        def triple(job: BlockingJob) -> Any:
            threads.append(threading.get_ident())
            return job.args[0] * 3

        async with serving_jobs(worker):
            first = await client.enqueue("t.async", 2**70, queue=QUEUE)
            second = await client.enqueue("t.sync", 5, queue=QUEUE)
            assert await client.result(first.id, wait=60) == {"doubled": 2**71}
            assert await client.result(second.id, wait=60) == 15
        assert threading.get_ident() not in threads

    await server.run(scenario)


async def test_steps_of_a_chain_get_the_results_before_them(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.add")
        async def add(job: RunningJob) -> int:
            return sum(job.parent_results) + int(job.args[0])

        async with serving_jobs(worker):
            steps = [new_job("t.add", number, queue=QUEUE) for number in (1, 10, 100)]
            started = await client.start(chain(*steps))
            ended = await client.workflow(started.id, wait=60)
        assert ended.state == "completed"
        assert [step.result for step in ended.steps] == [1, 11, 112]

    await server.run(scenario)


async def test_the_end_of_a_handler_decides_about_the_job(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.ends")
        async def end(job: RunningJob) -> Any:
            match job.args[0]:
                case "retry":
                    raise Retry("not yet", code="busy")
                case "discard":
                    raise Discard("never", code="gone")
                case "dead":
                    raise Discard("look at it", dead_letter=True)
                case "grouped":
                    async with anyio.create_task_group() as group:
                        group.start_soon(fail)
                case "no-json":
                    return object()
            return [].pop()

        async def fail() -> None:
            raise Discard("in a task")

        async def ended(what: str, state: str) -> Any:
            later = RetryPolicy(initial_interval=600, jitter=False)
            job = await client.enqueue("t.ends", what, queue=QUEUE, retry=later)
            return (await job_in(client, job.id, state)).error

        async with serving_jobs(worker):
            error = await ended("retry", "retryable")
            assert (error["code"], error["message"]) == ("busy", "not yet")
            error = await ended("discard", "discarded")
            assert (error["code"], error["message"]) == ("gone", "never")
            assert (await ended("dead", "discarded"))["message"] == "look at it"
            assert (await ended("grouped", "discarded"))["message"] == "in a task"
            assert (await ended("no-json", "discarded"))["code"] == "invalid_result"
            error = await ended("raises", "retryable")
            assert (error["code"], error["type"]) == ("handler_error", "IndexError")
            assert "in end" in error["backtrace"][-1]

    await server.run(scenario)


async def test_a_retry_may_hold_all_jobs_of_its_rate_limit_key(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.throttled")
        async def throttled(job: RunningJob) -> None:
            raise Retry("429 of a service", hold=timedelta(hours=1))

        before = datetime.now(UTC)
        async with serving_jobs(worker):
            limit = {"key": "service", "concurrency": 5}
            job = await client.enqueue("t.throttled", queue=QUEUE, rate_limit=limit)
            await job_in(client, job.id, "retryable")
        async with httpx2.AsyncClient(base_url=client.url) as http:
            reply = (await http.get("/ojs/v1/rate-limits/service")).json()
        held = datetime.fromisoformat(reply["held_until"]) - before
        assert timedelta(minutes=59) < held < timedelta(minutes=70)

    await server.run(scenario)


@pytest.mark.parametrize(("hold", "held_s"), [(None, None), (2, 2), (-1, 0), (10**9, 86_400)])
def test_a_hold_is_a_day_at_most(hold: float | None, held_s: float | None) -> None:
    assert Retry("busy", hold=hold).hold_s == held_s


def with_handlers(client: Client, *types: str) -> Worker:
    worker = new_worker(client)

    async def answer(job: RunningJob) -> str:
        return job.type

    for name in types:
        worker.handler(name)(answer)
    return worker


async def test_a_job_without_a_handler_is_left_to_other_workers(server: Server) -> None:
    async def scenario(client: Client) -> None:
        async with serving_jobs(with_handlers(client, "t.old")):
            new = await client.enqueue_many([new_job("t.new", queue=QUEUE) for _ in range(100)])
            old = await client.enqueue("t.old", queue=QUEUE)
            assert await client.result(old.id, wait=60) == "t.old"
            left = await client.get(new[0].id)
            assert (left.state, left.attempt) == ("available", 0)
            async with serving_jobs(with_handlers(client, "t.new", "t.old")):
                for job in new:
                    assert await client.result(job.id, wait=60) == "t.new"
                    assert (await client.get(job.id)).attempt == 1

    await server.run(scenario)


async def test_a_job_without_a_handler_fails_if_the_server_ignores_types(server: Server) -> None:
    """As with more handlers than a fetch can name."""

    async def scenario(client: Client) -> None:
        async with serving_jobs(with_handlers(client, *(f"t.t{n}" for n in range(101)))):
            job = await client.enqueue("t.unknown", queue=QUEUE)
            assert (await error_of(client, job.id))["code"] == "handler_not_found"

    await server.run(scenario)


async def test_a_handler_for_all_types_gets_the_rest(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("*")
        async def anything(job: RunningJob) -> str:
            return job.type

        async with serving_jobs(worker):
            job = await client.enqueue("t.unknown", queue=QUEUE)
            assert await client.result(job.id, wait=60) == "t.unknown"

    await server.run(scenario)


async def test_a_handler_that_runs_too_long_is_cancelled(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.slow", timeout=0.2)
        async def slow(job: RunningJob) -> None:
            await anyio.sleep_forever()

        async with serving_jobs(worker):
            job = await client.enqueue("t.slow", queue=QUEUE, retry=ONCE)
            with pytest.raises(JobFailed, match=r"within 0\.2 s") as failed:
                await client.result(job.id, wait=60)
        assert failed.value.error is not None
        assert failed.value.error["code"] == "timeout"

    await server.run(scenario)


async def test_progress_is_reported_by_both_kinds_of_handlers(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)
        seen: list[Any] = []

        @worker.handler("t.async")
        async def first(job: RunningJob) -> None:
            await job.progress(0.25, "a quarter", data={"rows": 5})
            seen.append((await client.get(job.id)).members["progress_data"])

        @worker.handler("t.sync")
        def second(job: BlockingJob) -> None:
            job.progress(0.5, "half")

        async with serving_jobs(worker):
            for type in ("t.async", "t.sync"):
                job = await client.enqueue(type, queue=QUEUE)
                await client.result(job.id, wait=60)
                assert (await client.get(job.id)).members["progress"] == 1
        assert seen == [{"rows": 5}]

    await server.run(scenario)


async def test_an_attempt_continues_from_the_checkpoint_of_the_one_before(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.async")
        async def first(job: RunningJob) -> Any:
            if job.checkpoint is None:
                await job.save_checkpoint({"row": 7})
                raise Retry("again")
            return job.checkpoint

        @worker.handler("t.sync")
        def second(job: BlockingJob) -> Any:
            if job.checkpoint is None:
                job.save_checkpoint([1, 2])
                raise Retry("again")
            return job.checkpoint

        async with serving_jobs(worker):
            soon = RetryPolicy(initial_interval=0.01, jitter=False)
            for type, state in (("t.async", {"row": 7}), ("t.sync", [1, 2])):
                job = await client.enqueue(type, queue=QUEUE, retry=soon)
                assert await client.result(job.id, wait=60) == state

    await server.run(scenario)


async def test_middleware_is_called_around_handlers_in_order(server: Server) -> None:
    async def scenario(client: Client) -> None:
        calls: list[str] = []

        async def outer(job: RunningJob, call: Next) -> Any:
            calls.append(f"outer {job.type}")
            try:
                return {"wrapped": await call()}
            finally:
                calls.append("outer ends")

        async def inner(job: RunningJob, call: Next) -> Any:
            calls.append("inner")
            return await call()

        worker = new_worker(client, middleware=[outer, inner], concurrency=1)

        @worker.handler("t.sync")
        def handle(job: BlockingJob) -> str:
            calls.append("handler")
            return "done"

        async with serving_jobs(worker):
            job = await client.enqueue("t.sync", queue=QUEUE)
            assert await client.result(job.id, wait=60) == {"wrapped": "done"}
        assert calls == ["outer t.sync", "inner", "handler", "outer ends"]

    await server.run(scenario)


async def test_jobs_that_a_handler_enqueues_belong_to_its_trace(server: Server) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"

    async def scenario(client: Client) -> None:
        worker = new_worker(client)
        children: list[str] = []

        @worker.handler("t.async")
        async def parent(job: RunningJob) -> None:
            children.append((await job.client.enqueue("t.child", queue="other")).id)

        async with serving_jobs(worker):
            meta = {"traceparent": trace, "tracestate": "x=1", "tenant": "a"}
            job = await client.enqueue("t.async", queue=QUEUE, meta=meta)
            await client.result(job.id, wait=60)
        child = (await client.get(children[0])).meta
        assert child["traceparent"].split("-")[1] == "ab" * 16
        assert child["tracestate"] == "x=1"
        assert "tenant" not in child

    await server.run(scenario)


async def test_each_job_runs_once_on_two_workers(server: Server) -> None:
    async def scenario(client: Client) -> None:
        runs: list[str] = []

        async def handle(job: RunningJob) -> None:
            runs.append(job.id)

        workers = [new_worker(client, concurrency=7) for _ in range(2)]
        for worker in workers:
            worker.handler("t.async")(handle)
        jobs = await client.enqueue_many(new_job("t.async", n, queue=QUEUE) for n in range(300))
        async with serving_jobs(workers[0]), serving_jobs(workers[1]):
            for job in jobs:
                await client.result(job.id, wait=60)
        assert sorted(runs) == sorted(job.id for job in jobs)

    await server.run(scenario)


async def test_no_more_handlers_run_at_once_than_allowed(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=3)
        running = 0
        most = 0

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await anyio.sleep(0.01)
            running -= 1

        jobs = await client.enqueue_many(new_job("t.async", queue=QUEUE) for _ in range(20))
        async with serving_jobs(worker):
            for job in jobs:
                await client.result(job.id, wait=60)
        assert most == 3

    await server.run(scenario)


async def test_acks_of_handlers_that_end_together_share_requests(server: Server) -> None:
    wire = Watched()

    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=100, transport=wire)
        go = anyio.Event()
        running = 0

        @worker.handler("t.async")
        async def handle(job: RunningJob) -> None:
            nonlocal running
            running += 1
            if running == 100:
                go.set()
            await go.wait()

        jobs = await client.enqueue_many(new_job("t.async", queue=QUEUE) for _ in range(100))
        async with serving_jobs(worker):
            for job in jobs:
                await client.result(job.id, wait=60)

    await server.run(scenario)
    assert wire.counts["workers/ack/batch"] <= 3


async def test_a_result_that_the_server_refuses_ends_the_job(server: Server) -> None:
    async def scenario(client: Client) -> None:
        worker = new_worker(client)

        @worker.handler("t.large")
        async def large(job: RunningJob) -> str:
            return "x" * (2**20 + 1)

        async with serving_jobs(worker):
            job = await client.enqueue("t.large", queue=QUEUE)
            with pytest.raises(JobFailed) as failed:
                await client.result(job.id, wait=60)
        assert failed.value.error is not None
        assert failed.value.error["code"] == "result_refused"

    await server.run(scenario)


async def test_a_result_or_error_without_a_json_form_affects_no_other_job(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tracebacks with lone surrogates would be part of the report, which pytest-xdist cannot send.
    monkeypatch.setattr(logging.getLogger("ojs_client.worker"), "disabled", True)

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def scenario(client: Client) -> None:
        worker = new_worker(client, concurrency=100)
        deep: list[Any] = []
        for _ in range(600):
            deep = [deep]
        results = {"nan": float("nan"), "half": "\ud800", "deep": deep, "object": object()}

        @worker.handler("t.odd")
        async def odd(job: RunningJob) -> Any:
            what = job.args[0]
            if what == "raises":
                raise Unprintable
            if what == "half-error":
                raise OSError("\udcff")
            return results.get(what, "good")

        kinds = [*results, "raises", "half-error"]
        new = [new_job("t.odd", kind, queue=QUEUE, retry=ONCE) for kind in kinds]
        fine = [new_job("t.odd", "good", queue=QUEUE) for _ in range(50)]
        jobs = await client.enqueue_many([*new, *fine])
        async with serving_jobs(worker):
            for job in jobs[: len(kinds)]:
                await job_in(client, job.id, "discarded")
            for job in jobs[len(kinds) :]:
                assert await client.result(job.id, wait=60) == "good"

    await server.run(scenario)


async def test_a_worker_whose_fetch_is_refused_ends_with_the_error(server: Server) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(ApiError) as refused:
            await new_worker(client, queues=["NO SUCH NAME"]).serve()
        assert refused.value.status == 400

    await server.run(scenario)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_refused_program_ends_with_one_line(
    backend: Any,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    answer = {"error": {"code": "unauthorized", "message": "no key"}}
    refusing = Watched(instead=lambda path, body: httpx2.Response(401, json=answer))
    url = "http://refusing:8080"
    worker = Worker(f"{url}/", queues=["mails", "sms"], worker_id="w-7", transport=refusing)
    with pytest.raises(ApiError) as refused:
        worker.run(backend)
    sys.excepthook(ApiError, refused.value, refused.tb)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{url} refuses this worker: 401 unauthorized: no key; OJS_API_KEY")
    assert f"worker w-7 starts: queues mails, sms, server {url}" in caplog.text
    assert caplog.messages[-1] == "worker w-7 has stopped"
    other = ValueError("of the program")
    sys.excepthook(ValueError, other, None)
    assert capsys.readouterr().err == "ValueError: of the program\n"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://h:port"])
@pytest.mark.parametrize("kind", [Client, SyncClient, Worker])
def test_an_address_without_a_scheme_is_refused_at_once(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match=f"^'{url}' is no address of a server"):
        kind(url)


def test_what_cannot_work_is_refused_at_once() -> None:
    worker = Worker()

    @worker.handler("t.a")
    async def handle(job: RunningJob) -> None: ...

    for wrong in ("SendEmail", "email send", "email.", "email.*", "a" * 256, ""):
        with pytest.raises(ValueError, match="lower-case words joined by dots"):
            worker.handler(wrong)(handle)
    worker.handler("*")(handle)
    worker.handler("a-1.b_c")(handle)
    with pytest.raises(ValueError, match="has a handler"):
        worker.handler("t.a")(handle)
    with pytest.raises(ValueError, match="timeout"):
        worker.handler("t.b", timeout=1)(print)
    with pytest.raises(ValueError, match="must be positive"):
        worker.handler("t.b", timeout=0)(handle)
    bare: Any = handle
    with pytest.raises(TypeError, match="name the type"):
        worker.handler(bare)
    with pytest.raises(ValueError, match="concurrency"):
        Worker(concurrency=0)
    with pytest.raises(ValueError, match="lease"):
        Worker(lease=5, heartbeat=4)
    with pytest.raises(ValueError, match="heartbeat"):
        Worker(heartbeat=0)
    with pytest.raises(ValueError, match="negative"):
        Worker(poll=-1)
    with pytest.raises(ValueError, match="not the string 'email'"):
        Worker(queues="email")
    with pytest.raises(ValueError, match="queues must not be empty"):
        Worker(queues=[], pool="shop")
    with pytest.raises(ValueError, match="pool must not be empty"):
        Worker(pool="")
    with pytest.raises(ValueError, match="labels"):
        Worker(labels="blue")


async def test_a_program_can_run_a_worker_beside_its_own_tasks(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelling ``serve`` gives the jobs back, and the acks of ended handlers are sent."""
    caplog.set_level(logging.ERROR)

    async def scenario(client: Client) -> tuple[str, str]:
        worker = new_worker(client)
        started = anyio.Event()

        @worker.handler("t.ends")
        async def ends(job: RunningJob) -> None: ...

        @worker.handler("t.stays")
        async def stays(job: RunningJob) -> None:
            started.set()
            await anyio.sleep_forever()

        stayed = await client.enqueue("t.stays", queue=QUEUE)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await started.wait()
            ended = await client.enqueue("t.ends", queue=QUEUE)
            await client.result(ended.id, wait=60)
            group.cancel_scope.cancel()
        return stayed.id, ended.id

    stayed, ended = await server.run(scenario)

    async def check(client: Client) -> None:
        job = await client.get(stayed)
        assert (job.state, job.error) == ("available", None)
        assert (await client.get(ended)).state == "completed"

    await server.run(check)
    assert caplog.records == []


def from_proxies() -> list[httpx2.Response]:
    return [
        httpx2.Response(404, text="<html>no such backend</html>"),
        httpx2.Response(500, text=""),
        httpx2.Response(403, text="<html>blocked</html>"),
        httpx2.Response(503, headers=[(b"Retry-After", b"\xb2")]),
        httpx2.Response(200, json={}),
        httpx2.Response(200, json={"jobs": ["odd"]}),
    ]


async def test_a_worker_goes_on_after_responses_of_a_proxy(server: Server) -> None:
    proxied = from_proxies()

    def answer(path: str, body: Any) -> httpx2.Response | None:
        return proxied.pop() if path.endswith("fetch") and proxied else None

    async def scenario(client: Client) -> None:
        worker = new_worker(client, transport=Watched(instead=answer))

        @worker.handler("t.short")
        async def short(job: RunningJob) -> str:
            return "done"

        async with serving_jobs(worker):
            job = await client.enqueue("t.short", queue=QUEUE)
            assert await client.result(job.id, wait=60) == "done"
        assert not proxied

    await server.run(scenario)


async def test_a_fetch_that_ends_early_is_not_repeated_at_once(server: Server) -> None:
    """A server that shuts down ends all waits, and still accepts connections for a while."""
    away = True

    def answer(path: str, body: Any) -> httpx2.Response | None:
        return httpx2.Response(200, json={"jobs": []}) if away and "fetch" in path else None

    wire = Watched(instead=answer)

    async def scenario(client: Client) -> None:
        nonlocal away
        worker = new_worker(client, transport=wire, heartbeat=0.2)

        @worker.handler("t.short")
        async def short(job: RunningJob) -> str:
            return "done"

        async with serving_jobs(worker):
            await until(lambda: wire.counts["workers/heartbeat"] >= 4)
            assert wire.counts["workers/fetch"] <= 50
            away = False
            job = await client.enqueue("t.short", queue=QUEUE)
            assert await client.result(job.id, wait=60) == "done"

    await server.run(scenario)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("\u00b2", None), ("\u0664", None), ("9" * 400, None), ("-1", None), ("", None)],
)
def test_a_retry_after_is_a_number_of_seconds_or_ignored(
    header: str, seconds: float | None
) -> None:
    assert api_error(503, None, retry_after=header).retry_after_s == seconds


@pytest.mark.parametrize("pool", [None, "shop"])
async def test_heartbeats_name_the_pool(server: Server, pool: str | None) -> None:
    sent: list[Any] = []

    async def record(path: str, body: Any) -> None:
        if path.endswith("heartbeat"):
            sent.append(body.get("pool"))

    async def scenario(client: Client) -> None:
        options = {} if pool is None else {"pool": pool}
        async with serving_jobs(new_worker(client, transport=Watched(before=record), **options)):
            await until(lambda: sent)

    await server.run(scenario)
    assert set(sent) == {pool}
