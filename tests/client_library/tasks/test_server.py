"""What tasks do with a server: schemas, and programs without an event loop."""

from __future__ import annotations

import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import anyio
import anyio.to_thread
import pytest

from ojs_client import App, Client, Conflict, ResultPending
from ojs_client.testing import Clock, FakeServer
from tests.client_library.conftest import LIMIT_S, Server, server
from tests.client_library.tasks import shop

__all__ = ["server"]


async def test_the_schemas_of_the_tasks_are_registered(server: Server) -> None:
    async def scenario(client: Client) -> None:
        with shop.app.using(client):
            for _ in range(2):  # a deployment may repeat it
                await shop.app.register_schemas("1.0.0")
        wrong = {"options": {"queue": "q"}, "type": "mail.send", "args": [{"user_id": "3"}]}
        reply = await client._transport.request("POST", "/jobs", wrong)
        assert "/args/0/user_id" in str(reply["warnings"])

        other = App()

        @other.task(name="mail.send")
        async def send(user_id: str) -> None: ...

        with other.using(client), pytest.raises(Conflict):
            await other.register_schemas("1.0.0")

    await server.run(scenario)


async def test_jobs_match_the_schemas_of_their_tasks(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Except for those that the guide names."""
    own = App()

    @own.task
    async def at(
        moment: datetime | None = None,
        clock: time | None = None,
        day: date = date(2030, 1, 1),
        data: bytes = b"",
        numbers: tuple[int, ...] = (),
        names: frozenset[str] = frozenset(),
    ) -> None: ...

    def warnings() -> list[str]:
        return [each.message for each in caplog.records if each.name == "ojs_client"]

    async def scenario(client: Client) -> None:
        with shop.app.using(client), own.using(client):
            await shop.app.register_schemas("1.0.0")
            await own.register_schemas("1.0.0")
            await shop.send.enqueue(3)
            await shop.everything.enqueue(
                at=datetime.now(UTC),
                key=uuid.uuid4(),
                price=Decimal("1.50"),
                colour=shop.Colour.RED,
                address=shop.Address("Main"),
                basket=shop.Basket(items=[1, 2]),
                money=shop.Money(99),
                wait=timedelta(hours=1),
            )
            clock, day = time(9, tzinfo=UTC), date(2031, 1, 1)
            await at.enqueue(datetime.now(UTC), clock, day, b"x", (1, 2), frozenset({"a"}))
            await at.enqueue()
            assert warnings() == []
            await at.enqueue(datetime(2030, 1, 1), time(9))
            await client.enqueue("at", {"moment": "no time"})
            assert warnings() == []
            await client.enqueue("at", {"day": "no day"})
            await client.enqueue("mail.send", 3)
            assert len(warnings()) == 2

    await server.run(scenario)


async def test_an_app_enqueues_in_its_block(server: Server) -> None:
    app = App(server.url)

    @app.task
    def plain(number: int) -> None: ...

    async def scenario(client: Client) -> None:
        async with app:
            job = await plain.enqueue(1)
            with pytest.raises(RuntimeError, match="open already"):
                await app.__aenter__()
        assert (await client.get(job.id)).args == [{"number": 1}]
        with pytest.raises(RuntimeError, match="not open"):
            await plain.enqueue(1)

    await server.run(scenario)


async def test_a_program_without_an_event_loop_enqueues_before_and_after_a_fork(
    server: Server,
) -> None:
    app = App(server.url)

    @app.task(queue="forked")
    def plain(number: int) -> None: ...

    def parent_and_child() -> Any:
        plain.delay(1)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                plain.delay(2)
                status = 0
            finally:
                os._exit(status)
        return os.waitpid(child, 0)[1]

    async def scenario(client: Client) -> None:
        assert await anyio.to_thread.run_sync(parent_and_child) == 0
        listed = await client._transport.request("GET", "/jobs", params={"queue": "forked"})
        assert sorted(job["args"][0]["number"] for job in listed["jobs"]) == [1, 2]

    if server.loop == "asyncio":
        await server.run(scenario)


def test_a_program_without_an_event_loop_gets_results() -> None:
    fake = FakeServer()
    app = App(fake.url, client={"transport": fake.transport})

    @app.task
    def born(number: int) -> date:
        return date(2030, 1, number)

    async def in_loop() -> None:
        with pytest.raises(RuntimeError, match=r"await enqueue\(\) or result\(\)"):
            born.get(job)

    job = born.delay(7)
    with pytest.raises(ResultPending):
        born.get(job, wait=0.1)
    Clock(fake).advance(0, app.worker())
    assert born.get(job) == born.get(job.id, wait="1m") == date(2030, 1, 7)
    anyio.run(in_loop)
    app._producer.close()


def test_a_client_is_closed_after_the_calls_that_use_it() -> None:
    fake = FakeServer()
    app = App(fake.url, client={"transport": fake.transport})
    producer = app._producer
    started = threading.Event()

    async def enqueue(client: Client) -> str:
        started.set()
        while producer._blocking is not None:  # noqa: ASYNC110 - the other thread has no event loop
            await anyio.sleep(0.01)
        await anyio.sleep(0.2)  # a close that does not wait has closed it then
        return (await client.enqueue("t.late")).id

    def close() -> None:
        started.wait(LIMIT_S)
        producer.close()

    with ThreadPoolExecutor(2) as pool:
        closed = pool.submit(close)
        opened = pool.submit(producer.run_blocking, enqueue)
        job_id = opened.result(LIMIT_S)
        closed.result(LIMIT_S)
    assert [job.id for job in fake.jobs()] == [job_id]
    producer.run_blocking(lambda client: client.get(job_id))  # it opens another one
    producer.close()
