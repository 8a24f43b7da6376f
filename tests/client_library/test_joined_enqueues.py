"""Concurrent enqueues of one client, which share requests, against a real server."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from ojs_client import ApiError, Client, ConnectionFailed, Job, Unique, new_job_id
from tests.client_library.conftest import Server
from tests.client_library.faults import Watched

BATCH = "/ojs/v1/jobs/batch"


async def enqueue_all(client: Client, count: int, **options: Any) -> list[Job | Exception]:
    """Enqueue jobs at the same time; return the job or the error of each."""
    outcomes: dict[int, Job | Exception] = {}

    async def one(number: int) -> None:
        try:
            outcomes[number] = await client.enqueue("t.a", number, **options)
        except Exception as error:
            outcomes[number] = error

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
    return [outcomes[number] for number in range(count)]


async def waiting(client: Client, queue: str = "default") -> int:
    """Return how many jobs wait in the queue."""
    reply: Any = await client._transport.request("GET", f"/queues/{queue}/stats")
    return int(reply["stats"]["available"])


async def test_concurrent_enqueues_share_requests(server: Server) -> None:
    wire = Watched()

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            jobs = await enqueue_all(client, 250, meta={"a": 1})
            assert [job.args for job in jobs if isinstance(job, Job)] == [[n] for n in range(250)]
            assert {job.meta["a"] for job in jobs if isinstance(job, Job)} == {1}
            assert len({job.id for job in jobs if isinstance(job, Job)}) == 250
            assert client._joined._queues == {}

    await server.run(scenario)
    assert wire.counts["jobs/batch"] >= 3, "100 jobs a batch at most"
    assert wire.counts.total() < 100


async def test_an_enqueue_alone_is_sent_at_once(server: Server) -> None:
    wire = Watched()

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            for number in range(3):
                await client.enqueue("t.a", number)

    await server.run(scenario)
    assert wire.counts == {"jobs": 3}


async def test_jobs_that_a_batch_could_refuse_go_alone(server: Server) -> None:
    wire = Watched()

    async def scenario(_: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            found = await enqueue_all(client, 5, unique=Unique(keys=["type"], on_conflict="ignore"))
            assert len({job.id for job in found if isinstance(job, Job)}) == 1

            async def with_id() -> None:
                await client.enqueue("t.a", job_id=new_job_id())

            async with anyio.create_task_group() as group:
                for _number in range(5):
                    group.start_soon(with_id)

    await server.run(scenario)
    assert wire.counts == {"jobs": 10}


async def test_an_error_reaches_the_caller_that_it_belongs_to(server: Server) -> None:
    async def scenario(client: Client) -> None:
        outcomes: dict[int, str] = {}

        async def one(number: int) -> None:
            wrong: dict[int, Any] = {3: {"priority": 1000}, 7: {"meta": {"no": object()}}}
            try:
                await client.enqueue("t.a", number, **wrong.get(number, {}))
            except (ApiError, TypeError) as error:
                outcomes[number] = type(error).__name__

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)
        assert outcomes == {3: "ApiError", 7: "TypeError"}
        assert await waiting(client) == 18

    await server.run(scenario)


async def test_a_batch_of_unknown_outcome_is_not_repeated(server: Server) -> None:
    async def lose(path: str, body: Any) -> None:
        if path == BATCH:
            raise httpx2.ReadError("the response is lost")

    wire = Watched(after=lose)

    async def scenario(direct: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            outcomes = await enqueue_all(client, 10)
            failed = [each for each in outcomes if isinstance(each, ConnectionFailed)]
            assert len(failed) >= 8
            assert {each.applied for each in failed} == {None}
            assert len(set(map(id, failed))) == len(failed), (
                "each caller raises an error of its own"
            )
        assert await waiting(direct) == 10

    await server.run(scenario)


@pytest.mark.parametrize("status", [503, 404, 429])
async def test_jobs_of_a_batch_that_was_not_applied_are_sent_alone(
    server: Server, status: int
) -> None:
    def refuse(path: str, body: Any) -> httpx2.Response | None:
        if path != BATCH:
            return None
        error = {"code": "x", "message": "no", "details": {"outcome": "not_applied"}}
        return httpx2.Response(status, json={"error": error})

    wire = Watched(instead=refuse)

    async def scenario(direct: Client) -> None:
        async with Client(server.url, transport=wire) as client:
            assert all(isinstance(each, Job) for each in await enqueue_all(client, 10))
        assert await waiting(direct) == 10

    await server.run(scenario)
    assert wire.counts["jobs"] == 10


async def test_a_cancelled_caller_does_not_harm_the_others(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ojs_client.joined_enqueues._MAX_WAIT_S", 60)
    sent: list[int] = []

    async def scenario(direct: Client) -> None:
        first_goes, batch_arrives, batch_goes = (anyio.Event() for _ in range(3))

        async def hold(path: str, body: Any) -> None:
            if path != BATCH:
                await first_goes.wait()
                return
            sent.extend(job["args"][0] for job in body["jobs"])
            batch_arrives.set()
            await batch_goes.wait()

        async with Client(server.url, transport=Watched(before=hold)) as client:
            scopes = [anyio.CancelScope() for _ in range(6)]
            done: list[int] = []

            async def one(number: int) -> None:
                with scopes[number]:
                    await client.enqueue("t.a", number)
                    done.append(number)

            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(one, number)
                    await anyio.wait_all_tasks_blocked()
                scopes[1].cancel()  # the first of the batch, before it is sent
                await anyio.wait_all_tasks_blocked()
                first_goes.set()
                await batch_arrives.wait()
                scopes[2].cancel()
                batch_goes.set()
            assert sorted(done) == [0, 3, 4, 5]
        assert await waiting(direct) == 5

    await server.run(scenario)
    assert sent == [2, 3, 4, 5]


async def test_a_request_without_an_answer_delays_no_other_job(server: Server) -> None:
    async def scenario(_: Client) -> None:
        others_done = anyio.Event()

        async def hold(path: str, body: Any) -> None:
            if path != BATCH and body["args"] == [-1]:
                await others_done.wait()

        async with (
            Client(server.url, transport=Watched(before=hold)) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.enqueue, "t.a", -1)
            await anyio.wait_all_tasks_blocked()
            await client.enqueue("t.a", 1, queue="other")
            await enqueue_all(client, 5)
            await client.enqueue("t.a", 2)
            others_done.set()

    await server.run(scenario)


async def test_a_batch_without_an_answer_delays_no_later_job(server: Server) -> None:
    async def scenario(_: Client) -> None:
        batch_arrives, later_done = anyio.Event(), anyio.Event()

        async def hold(path: str, body: Any) -> None:
            if path == BATCH or body["args"] == [-1]:
                if path == BATCH:
                    batch_arrives.set()
                await later_done.wait()

        async with (
            Client(server.url, transport=Watched(before=hold)) as client,
            anyio.create_task_group() as group,
        ):
            group.start_soon(client.enqueue, "t.a", -1)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(enqueue_all, client, 5)
            await batch_arrives.wait()
            await client.enqueue("t.a", 9)
            later_done.set()

    await server.run(scenario)


async def test_a_client_closes_although_a_batch_gets_no_answer(server: Server) -> None:
    async def scenario(_: Client) -> None:
        under_way = anyio.Event()

        async def hold(path: str, body: Any) -> None:
            if path == BATCH:
                under_way.set()
                await anyio.sleep_forever()

        async with Client(server.url, transport=Watched(before=hold)) as client:
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(client.enqueue, "t.a", number)
                await under_way.wait()
                group.cancel_scope.cancel()
            assert len(client._joined._tasks) == 1
        assert client._joined._tasks == {}
        assert client._joined._queues == {}

    await server.run(scenario)
