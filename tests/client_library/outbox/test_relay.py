"""A relay sends what is committed, in order, and is stopped by no job."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx2
import psycopg
import pytest

from ojs_client import App, BlockingJob, Client, NotFound, RunningJob, Unique, Worker, new_job_id
from ojs_client import outbox_command as command
from ojs_client.outbox import enqueue, once, relay
from ojs_client.outbox import relaying as relaying_module
from ojs_client.outbox.rows import OutboxRows
from tests.client_library.conftest import Server
from tests.client_library.outbox.conftest import waiting

PATIENCE_S = 90


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - another process sets no event
            await anyio.sleep(0.05)


async def until_sent(database: str) -> None:
    async def is_empty() -> bool:
        return await anyio.to_thread.run_sync(waiting, database) == []

    await until(is_empty)


@asynccontextmanager
async def relaying(
    database: str, client: Client, count: int = 1, **given: Any
) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(partial(relay, database, url=client.url, poll=0.05, **given))
        yield
        group.cancel_scope.cancel()


async def fetched(client: Client, queue: str, count: int) -> list[Any]:
    """Return the arguments of the waiting jobs in the order in which workers get them."""
    body = {"queues": [queue], "count": count, "worker_id": "reader"}
    reply = await client._transport.request("POST", "/workers/fetch", body)
    return [job["args"] for job in reply["jobs"]]


async def test_jobs_arrive_in_the_order_of_insertion_and_leave_the_table(
    server: Server, tables: str
) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            for number in range(25):
                enqueue(connection, "t.outbox", number, queue=f"order-{number % 2}")
        async with relaying(tables, client, portion=10):
            await until_sent(tables)
        for parity in (0, 1):
            expected = [[number] for number in range(25) if number % 2 == parity]
            assert await fetched(client, f"order-{parity}", 50) == expected

    await server.run(scenario)


async def test_an_uncommitted_job_is_not_sent_and_delays_no_other(
    server: Server, tables: str
) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as open_one, psycopg.connect(tables) as other:
            first = enqueue(open_one, "t.outbox")
            second = enqueue(other, "t.outbox")
            other.commit()
            async with relaying(tables, client):
                await until_sent(tables)
                assert (await client.get(second)).state == "available"
                with pytest.raises(NotFound):
                    await client.get(first)
                open_one.commit()
                await until_sent(tables)
            assert (await client.get(first)).state == "available"

    await server.run(scenario)


async def test_a_refused_job_is_kept_with_its_error_and_stops_no_other(
    server: Server, tables: str, rows: OutboxRows, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            before = enqueue(connection, "t.outbox", queue="q")
            wrong = enqueue(connection, "No Type", queue="q")
            after = enqueue(connection, "t.outbox", queue="q")
        status = partial(anyio.to_thread.run_sync, rows.status, 10)

        async def only_refused() -> bool:
            found = await status()
            return (found.waiting, found.refused) == (0, 1)

        async with relaying(tables, client):
            await until(only_refused)
            for job_id in (before, after):
                assert (await client.get(job_id)).state == "available"
            (refused,) = (await status()).examples
            assert (refused.job_id, refused.queue, refused.attempts) == (wrong, "q", 1)
            assert "400" in refused.error

            assert rows.retry([wrong]) == 1
            await until(only_refused)  # it is refused again
            assert rows.remove([before]) == 0

    await server.run(scenario)
    assert command.main(["status", "--database", tables]) == 0
    shown = capsys.readouterr().out
    assert "0 waiting\n1 refused\n" in shown
    assert "q  is refused after 1 attempts: 400" in shown
    assert command.main(["status", "--json", "--database", tables]) == 0
    assert json.loads(capsys.readouterr().out)["examples"][0]["queue"] == "q"
    assert command.main(["remove", "--database", tables]) == 1
    assert command.main(["remove", "--all", "--database", tables]) == 0
    assert waiting(tables) == []


def repeat(database: str, job: str, job_id: str, queue: str = "default") -> None:
    """Write a row again that a relay had sent when it died."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO ojs_outbox (job_id, queue, job) VALUES (%s, %s, %s)", (job_id, queue, job)
        )


async def test_a_repeated_job_is_stored_once_also_when_it_has_completed(
    server: Server, tables: str, rows: OutboxRows
) -> None:
    async def scenario(client: Client) -> None:
        runs: list[str] = []
        worker = Worker(client.url, queues=["default"], poll=1)

        @worker.handler("t.outbox")
        async def run(job: RunningJob) -> None:
            runs.append(job.id)

        with psycopg.connect(tables) as connection:
            job_id = enqueue(connection, "t.outbox", (1, {"a": 2}))
            held = enqueue(connection, "t.held", queue="held", unique=Unique())
        body, held_body = waiting(tables)
        async with relaying(tables, client), anyio.create_task_group() as group:
            await until_sent(tables)
            group.start_soon(worker.serve)
            await client.result(job_id, wait=PATIENCE_S)
            for _ in range(2):
                repeat(tables, body, job_id)
                repeat(tables, held_body, held, "held")
            await until_sent(tables)
            last = await client.enqueue("t.outbox")
            await client.result(last.id, wait=PATIENCE_S)
            worker.stop()
        assert runs == [job_id, last.id]
        assert await fetched(client, "held", 5) == [[]]

    await server.run(scenario)


async def test_another_job_with_a_used_id_is_refused(
    server: Server, tables: str, rows: OutboxRows
) -> None:
    async def scenario(client: Client) -> None:
        job_id = new_job_id()
        await client.enqueue("t.outbox", 1, job_id=job_id)
        with psycopg.connect(tables) as connection:
            enqueue(connection, "t.outbox", 2, job_id=job_id)

        async def is_refused() -> bool:
            return (await anyio.to_thread.run_sync(rows.status, 1)).refused == 1

        async with relaying(tables, client):
            await until(is_refused)

    await server.run(scenario)


async def test_a_full_queue_keeps_its_order_and_stops_no_other(
    server: Server, tables: str, rows: OutboxRows
) -> None:
    async def scenario(client: Client) -> None:
        config = {"name": "full", "config": {"max_size": 2}}
        await client._transport.request("POST", "/queues", config)
        with psycopg.connect(tables) as connection:
            for number in range(5):
                enqueue(connection, "t.outbox", number, queue="full")
            other = enqueue(connection, "t.outbox", queue="free")

        async def is_there() -> bool:
            try:
                return (await client.get(other)).state == "available"
            except NotFound:
                return False

        async with relaying(tables, client):
            await until(is_there)

            async def is_shown() -> bool:
                (found,) = (await anyio.to_thread.run_sync(rows.status, 10)).examples
                return found.refused_at is None and "429" in found.error and found.attempts > 1

            await until(is_shown)
            taken = await fetched(client, "full", 2)
            while len(taken) < 5:
                taken += await fetched(client, "full", 2)
                await anyio.sleep(0.05)
            assert taken == [[number] for number in range(5)]
            await until_sent(tables)

    await server.run(scenario)


class Broken(httpx2.AsyncBaseTransport):
    """A server that fails at each request with a job of one type, as one with a defect does."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        types = [job["type"] for job in body.get("jobs", [body])]
        if "t.broken" in types:
            return httpx2.Response(500, json={"error": {"code": "internal", "message": "a defect"}})
        self.stored += types
        return httpx2.Response(201, json={})


async def test_a_job_at_which_the_server_always_fails_stops_its_queue_for_some_attempts_only(
    tables: str, rows: OutboxRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying_module, "_MAX_PAUSE_S", 0.01)
    with psycopg.connect(tables) as connection:
        enqueue(connection, "t.broken")
        enqueue(connection, "t.after")
    broken = Broken()
    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(relay, tables, poll=0.01, transport=broken))
            while not broken.stored:  # noqa: ASYNC110 - the transport sets no event
                await anyio.sleep(0.01)
            await until_only_refused(rows)
            group.cancel_scope.cancel()
    (failed,) = rows.status(10).examples
    assert (failed.attempts, failed.error) == (10, "500 internal: a defect")
    assert broken.stored == ["t.after"]


async def until_only_refused(rows: OutboxRows) -> None:
    async def is_done() -> bool:
        return (await anyio.to_thread.run_sync(rows.status, 1)).waiting == 0

    await until(is_done)


async def test_refused_jobs_are_deleted_after_a_time(
    server: Server, tables: str, rows: OutboxRows, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            for age in (1, 3):
                job_id = enqueue(connection, "No Type")
                connection.execute(
                    "UPDATE ojs_outbox SET error = '400', refused_at = now() - %s * interval '1 d'"
                    " WHERE job_id = %s",
                    (age, job_id),
                )
            enqueue(connection, "t.outbox")
        async with relaying(tables, client, keep_refused="48h"):
            await until_only_refused(rows)
        assert len(waiting(tables)) == 1

    await server.run(scenario)
    assert "1 jobs are deleted" in caplog.text


async def test_several_relays_share_the_rows(server: Server, tables: str) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            for number in range(60):
                enqueue(connection, "t.outbox", number, queue="shared")
        async with relaying(tables, client, count=3, portion=5):
            await until_sent(tables)
        found = await fetched(client, "shared", 100)
        assert sorted(found) == [[number] for number in range(60)]

    await server.run(scenario)


async def test_a_worker_runs_a_relay_as_its_lifespan(server: Server, tables: str) -> None:
    async def scenario(client: Client) -> None:
        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            async with relaying(tables, client):
                yield

        app = App(client.url, lifespan=lifespan)

        @app.task
        async def double(number: int) -> int:
            return 2 * number

        with psycopg.connect(tables) as connection:
            job_id = enqueue(connection, double.new_job(4))
        worker = app.worker(poll=1)
        async with anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await until_sent(tables)
            assert await client.result(job_id, wait=PATIENCE_S) == 8
            worker.stop()

    await server.run(scenario)


async def test_a_relay_waits_for_the_server_and_for_the_database(
    server: Server, tables: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            job_id = enqueue(connection, "t.outbox")

        async def both_wait() -> bool:
            return "127.0.0.1:9" in caplog.text and "port 9" in caplog.text

        async with anyio.create_task_group() as group:
            group.start_soon(partial(relay, tables, url="http://127.0.0.1:9"))
            group.start_soon(partial(relay, "postgresql://postgres@127.0.0.1:9/x", url=client.url))
            await until(both_wait)
            assert len(waiting(tables)) == 1
            group.start_soon(partial(relay, tables, url=client.url))
            await until_sent(tables)
            group.cancel_scope.cancel()
        assert (await client.get(job_id)).state == "available"

    await server.run(scenario)


async def test_a_relay_without_tables_ends(server: Server, database: str) -> None:
    async def scenario(client: Client) -> None:
        with anyio.fail_after(PATIENCE_S), pytest.raises(psycopg.errors.UndefinedTable):
            await relay(database, url=client.url)

    await server.run(scenario)


async def test_a_relay_forgets_old_rows_of_once(server: Server, tables: str) -> None:
    async def scenario(client: Client) -> None:
        with psycopg.connect(tables) as connection:
            once(connection, "new")
            once(connection, "old")
            connection.execute(
                "UPDATE ojs_once SET done_at = now() - interval '2 days' WHERE job_id = 'old'"
            )
        async with relaying(tables, client, keep_once="24h"):

            async def only_new() -> bool:
                return await anyio.to_thread.run_sync(once_rows, tables) == ["new"]

            await until(only_new)

    await server.run(scenario)


def once_rows(database: str) -> list[str]:
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT job_id FROM ojs_once ORDER BY job_id").fetchall()
    return [job_id for (job_id,) in found]


async def test_a_repeated_handler_has_its_effects_once(server: Server, tables: str) -> None:
    async def scenario(client: Client) -> None:
        worker = Worker(client.url, queues=["default"], poll=1)
        found: list[bool] = []

        @worker.handler("t.once")
        def charge(job: BlockingJob) -> None:
            with psycopg.connect(tables) as connection:
                is_first = job.once(connection)
                found.append(is_first)
                if is_first:
                    connection.execute("INSERT INTO orders VALUES (1)")
            if job.attempt == 1:
                raise ConnectionError("the worker dies after its commit")

        async with anyio.create_task_group() as group:
            job = await client.enqueue("t.once")
            group.start_soon(worker.serve)
            await client.result(job.id, wait=PATIENCE_S)
            worker.stop()
        assert found == [True, False]
        with psycopg.connect(tables) as connection:
            assert connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)

    await server.run(scenario)
