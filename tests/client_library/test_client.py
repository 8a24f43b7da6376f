"""The client of producers, against a real server."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx2
import pytest

from ojs_client import (
    ApiError,
    Client,
    Conflict,
    ConnectionFailed,
    NotFound,
    ResultPending,
    RetryPolicy,
    Unique,
    batch,
    chain,
    group,
    new_job,
    new_job_id,
)
from ojs_client.options import NewJob
from ojs_client.transport import warnings_of
from ojs_cluster.core.jobs.ids import is_job_id
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched

ID = "019461a8-1a2b-7c3d-8e4f-5a6b7c8d9e0f"


async def test_every_option_reaches_the_job(server: Server) -> None:
    async def scenario(client: Client) -> Any:
        job = await client.enqueue(
            "mail.send",
            {"to": "a"},
            2**70,
            queue="mail",
            priority=7,
            delay=timedelta(hours=1),
            expires=datetime(2099, 1, 1, tzinfo=UTC),
            timeout=1.5,
            retry=RetryPolicy(
                max_attempts=5, initial_interval=0.25, non_retryable_errors=["bad.*"]
            ),
            unique=Unique(keys=["type", "args"], period=60),
            tags=["a", "b"],
            meta={"tenant": "x"},
            job_id=ID,
        )
        assert await client.get(job.id) == job
        return job

    job = await server.run(scenario)
    assert (job.id, job.type, job.queue, job.priority) == (ID, "mail.send", "mail", 7)
    assert (job.state, job.args, job.meta) == ("scheduled", [{"to": "a"}, 2**70], {"tenant": "x"})
    assert job.max_attempts == 5
    members = job.members
    assert members["timeout_ms"] == 1500
    assert members["tags"] == ["a", "b"]
    assert members["retry"]["initial_interval"] == "PT0.25S"
    assert members["retry"]["non_retryable_errors"] == ["bad.*"]
    assert members["unique"]["period"] == "PT1M"
    due = datetime.fromisoformat(members["scheduled_at"]) - job.created_at
    assert due == timedelta(hours=1)
    assert members["expires_at"].startswith("2099-01-01T00:00:00")


async def test_a_new_job_is_enqueued_alone(server: Server) -> None:
    made = new_job("mail.send", 1, queue="mail", job_id=ID)

    async def scenario(client: Client) -> Any:
        with pytest.raises(TypeError, match="new_job"):
            await client.enqueue(made, 2)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="new_job"):
            await client.enqueue(made, queue="x")  # type: ignore[call-overload]
        first = await client.enqueue(made)
        return first, await client.enqueue(made)

    first, second = await server.run(scenario)
    assert (first.id, first.queue, first.args) == (ID, "mail", [1])
    assert second.id == ID


async def test_a_batch_tells_which_jobs_existed(server: Server) -> None:
    async def scenario(client: Client) -> Any:
        await client.enqueue("t.once", unique=Unique(keys=["type"]))
        again = new_job("t.once", unique=Unique(keys=["type"], on_conflict="ignore"))
        return await client.enqueue_many([new_job("t.a"), again])

    assert [job.deduplicated for job in await server.run(scenario)] == [False, True]


async def test_a_batch_is_returned_in_its_order(server: Server) -> None:
    async def scenario(client: Client) -> Any:
        assert await client.enqueue_many([]) == []
        return await client.enqueue_many(new_job("t.n", n, queue=f"q{n}") for n in range(20))

    assert [job.args for job in await server.run(scenario)] == [[n] for n in range(20)]


async def test_errors_have_types_and_name_the_request(server: Server) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(NotFound):
            await client.get(ID)
        job = await client.enqueue("t.once", unique=Unique(keys=["type"]))
        with pytest.raises(Conflict):
            await client.enqueue("t.once", unique=Unique(keys=["type"]))
        with pytest.raises(Conflict):
            await client.enqueue("t.once", unique=Unique(keys=["type"]), job_id=ID)
        same = await client.enqueue("t.once", unique=Unique(keys=["type"], on_conflict="ignore"))
        assert (same.id, same.deduplicated, job.deduplicated) == (job.id, True, False)
        assert (await client.cancel(job.id)).state == "cancelled"
        with pytest.raises(Conflict):
            await client.cancel(job.id)
        with pytest.raises(ApiError, match="UPPER") as refused:
            await client.enqueue("UPPER")
        assert (refused.value.status, refused.value.retryable) == (400, False)
        assert refused.value.request_id
        waiting = await client.enqueue("t.waits")
        with pytest.raises(ResultPending):
            await client.result(waiting.id)

    await server.run(scenario)


async def test_workflows_start_nest_and_are_cancelled(server: Server) -> None:
    async def scenario(client: Client) -> None:
        nested = chain(new_job("t.a"), group(new_job("t.b"), new_job("t.c")), name="nested")
        started = await client.start(nested)
        assert (started.type, started.name, started.state) == ("chain", "nested", "running")
        assert not (await client.workflow(started.id)).finished
        assert (await client.cancel_workflow(started.id)).state == "cancelled"
        done = new_job("t.done")
        called = await client.start(batch(new_job("t.a"), new_job("t.b"), on_complete=done))
        assert [step.type for step in called.steps] == ["t.a", "t.b"]
        assert called.members["callbacks"]["on_complete"]["type"] == "t.done"

    await server.run(scenario)


async def test_cron_jobs_are_stored_changed_and_fired(server: Server) -> None:
    async def scenario(client: Client) -> None:
        job = new_job("t.report", 1, queue="reports")
        for _ in range(2):
            cron = await client.cron.register("daily", "0 9 * * *", job, timezone="Asia/Tokyo")
        assert (cron.name, cron.expression, cron.enabled) == ("daily", "0 9 * * *", True)
        assert cron.next_run_at is not None
        assert (await client.cron.change("daily", expression="@hourly")).expression == "@hourly"
        assert not (await client.cron.pause("daily")).enabled
        assert (await client.cron.resume("daily")).enabled
        fired = await client.cron.trigger("daily")
        assert (fired.type, fired.queue, fired.args) == ("t.report", "reports", [1])
        assert len(await client.cron.history("daily")) == 1
        assert [each.name for each in await client.cron.list_all()] == ["daily"]
        assert (await client.cron.get("daily")).timezone == "Asia/Tokyo"
        await client.cron.delete("daily")
        with pytest.raises(NotFound):
            await client.cron.get("daily")

    await server.run(scenario)


async def test_an_enqueue_with_an_id_survives_a_lost_response(server: Server) -> None:
    async def lose_the_first(path: str, body: Any) -> None:
        if wire.counts["jobs"] == 1:
            raise httpx2.ReadError("the response is lost")

    wire = Watched(after=lose_the_first)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            assert (await client.enqueue("t.a", (1, {2: 3}), job_id=ID)).id == ID
            with pytest.raises(Conflict):
                await client.enqueue("t.a", 2, job_id=ID)

    await server.run(scenario)
    assert wire.counts["jobs"] == 3


async def test_an_enqueue_whose_response_is_lost_is_not_repeated(server: Server) -> None:
    async def lose(path: str, body: Any) -> None:
        raise httpx2.ReadError("the response is lost")

    wire = Watched(after=lose)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            with pytest.raises(ConnectionFailed) as failed:
                await client.enqueue("t.a")
            assert failed.value.applied is None

    await server.run(scenario)
    assert wire.counts["jobs"] == 1


@pytest.mark.parametrize(
    ("status", "outcome", "requests"),
    [
        (503, "not_applied", 3),
        (503, "unknown", 1),
        (503, "stored_unconfirmed", 1),
        (503, None, 1),
        (500, None, 1),
    ],
)
async def test_an_unavailable_server_says_whether_a_request_is_repeated(
    server: Server, status: int, outcome: str | None, requests: int
) -> None:
    def refuse_twice(path: str, body: Any) -> httpx2.Response | None:
        if wire.counts["jobs"] > 2:
            return None
        error = {"code": "unavailable", "message": "", "retryable": True}
        details = {} if outcome is None else {"outcome": outcome}
        return httpx2.Response(status, json={"error": {**error, "details": details}})

    wire = Watched(instead=refuse_twice)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            if requests > 1:
                await client.enqueue("t.a")
                return
            with pytest.raises(ApiError) as refused:
                await client.enqueue("t.a")
            assert refused.value.applied is None

    await server.run(scenario)
    assert wire.counts["jobs"] == requests


async def test_a_refusal_does_not_hide_that_an_earlier_try_was_sent(server: Server) -> None:
    async def lose_then_refuse(path: str, body: Any) -> None:
        if wire.counts["jobs"] > 1:
            raise httpx2.ConnectError("refused")
        raise httpx2.ReadError("the response is lost")

    wire = Watched(before=lose_then_refuse)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire, retry_for_s=0.5) as client:
            with pytest.raises(ConnectionFailed, match="refused") as failed:
                await client.enqueue("t.a", job_id=ID)
            assert failed.value.applied is None

    await server.run(scenario)


@pytest.mark.parametrize("wait", [0.5, 1, 2.2])
async def test_a_result_is_waited_for_as_long_as_asked(server: Server, wait: float) -> None:
    wire = Watched()

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            job = await client.enqueue("t.a")
            began = anyio.current_time()
            with pytest.raises(ResultPending):
                await client.result(job.id, wait=wait)
            assert anyio.current_time() - began >= wait

    await server.run(scenario)
    assert sum(wire.counts.values()) - 1 <= 2  # the wait, which may be cut off, and a look


async def test_a_late_end_of_a_wait_for_a_result_is_one_more_request(server: Server) -> None:
    async def block_the_loop(path: str, _: Any) -> None:
        if "result" in path:
            time.sleep(0.7)  # noqa: ASYNC251 - a busy machine wakes the client late

    wire = Watched(before=block_the_loop)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            job = await client.enqueue("t.a")
            with pytest.raises(ResultPending):
                await client.result(job.id, wait=0.5)

    await server.run(scenario)
    assert sum(wire.counts.values()) - 1 == 2


async def test_a_wait_for_a_result_that_ends_early_is_not_repeated_at_once(server: Server) -> None:
    """A server that shuts down ends all waits, and still accepts connections for a while."""
    wire = Watched(instead=lambda path, _: httpx2.Response(408) if "result" in path else None)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            job = await client.enqueue("t.a")
            with pytest.raises(ResultPending):
                await client.result(job.id, wait=1.5)

    await server.run(scenario)
    assert 2 <= sum(wire.counts.values()) - 1 <= 10


async def test_a_request_that_was_not_sent_is_repeated(server: Server) -> None:
    async def refuse_twice(path: str, body: Any) -> None:
        if wire.counts["jobs"] < 3:
            raise httpx2.ConnectError("refused")

    wire = Watched(before=refuse_twice)

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            await client.enqueue("t.a")

    await server.run(scenario)
    assert wire.counts["jobs"] == 3


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_server_that_is_away_is_reported(loop: str) -> None:
    async def scenario() -> None:
        async with Client("http://127.0.0.1:1", retry_for_s=0) as client:
            with pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1") as failed:
                await client.get(ID)
            assert failed.value.applied is False

    anyio.run(scenario, backend=loop)


def test_contradicting_options_are_refused() -> None:
    with pytest.raises(ValueError, match="either"):
        new_job("t.a", delay=1, scheduled_at=datetime.now(UTC)).json()
    with pytest.raises(ValueError, match="time zone"):
        new_job("t.a", scheduled_at=datetime(2030, 1, 1)).json()
    with pytest.raises(ValueError, match="negative"):
        new_job("t.a", delay=-1).json()


def test_one_string_is_no_list_of_names() -> None:
    """Its letters would be the names."""
    given: Any = "ValueError"
    with pytest.raises(ValueError, match="non_retryable_errors must be a list"):
        RetryPolicy(non_retryable_errors=given)
    for argument in ("keys", "args_keys", "meta_keys", "states"):
        with pytest.raises(ValueError, match=f"{argument} must be a list"):
            Unique(**{argument: given})
    with pytest.raises(ValueError, match="tags must be a list"):
        new_job("t.a", tags=given).json()


def test_an_iterator_of_names_is_sent_each_time() -> None:
    given: Any = {"keys": iter(["type", "meta"]), "meta_keys": iter(["m"]), "states": iter(["s"])}
    errors: Any = iter(["bad.*"])
    tags: Any = iter(["a", "b"])
    job = new_job(
        "t.a",
        unique=Unique(**given),
        retry=RetryPolicy(non_retryable_errors=errors),
        tags=tags,
    )
    options = job.json()["options"]
    assert options == job.json()["options"]
    assert options["unique"]["keys"] == ["type", "meta"]
    assert options["unique"]["meta_keys"] == ["m"]
    assert options["unique"]["states"] == ["s"]
    assert options["retry"]["non_retryable_errors"] == ["bad.*"]
    assert list(options["tags"]) == ["a", "b"]


def test_an_unknown_option_is_refused() -> None:
    wrong: Any = {"prioritty": 1}
    with pytest.raises(TypeError, match="prioritty"):
        new_job("t.a", **wrong)
    with pytest.raises(TypeError, match="prioritty"):
        NewJob("t.a", options=wrong)


async def test_what_the_server_ignores_is_logged_with_the_job(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    limit = {"key": "k", "concurrency": 1, "burst": 2}
    ignored = "options.rate_limit.burst is not known, so it is ignored"

    async def scenario(client: Client) -> Any:
        job = await client.enqueue("t.a", rate_limit=limit)
        jobs = await client.enqueue_many([new_job("t.a"), new_job("t.a", rate_limit=limit)])
        cron = await client.cron.register("c", "@daily", new_job("t.a", rate_limit=limit))
        flow = await client.start(chain(new_job("t.a", rate_limit=limit)))
        return [job.id, jobs[1].id], cron.name, flow.id

    ids, cron, flow = await server.run(scenario)
    assert [each.message for each in caplog.records if each.name == "ojs_client"] == [
        *(f"job {each}: {ignored}" for each in ids),
        f"cron {cron}: {ignored}",
        f"workflow {flow}: steps[0]: {ignored}",
    ]


@pytest.mark.parametrize(
    "reply",
    [
        {"warnings": ["jobs[7]: a"], "jobs": [{"id": "1"}]},
        {"warnings": ["jobs[0]: a"], "jobs": [None]},
        {"warnings": "a", "jobs": 1},
        {"warnings": [7], "job": "x"},
    ],
)
def test_no_form_of_a_warning_is_an_error_after_the_job_exists(reply: Any) -> None:
    assert not any("job 1" in each for each in warnings_of(reply))


def test_a_list_is_no_step_of_a_workflow() -> None:
    steps: Any = [new_job("t.a"), new_job("t.b")]
    for build in (chain, group, batch):
        with pytest.raises(TypeError, match="each as an argument"):
            build(steps)


def test_a_new_id_is_one_that_the_server_accepts() -> None:
    ids = [new_job_id() for _ in range(1000)]
    assert all(is_job_id(job_id) for job_id in ids)
    assert len(set(ids)) == 1000
    starts_ms = [int(job_id.replace("-", "")[:12], 16) for job_id in ids]
    assert abs(starts_ms[0] / 1000 - time.time()) < 600
