"""Tasks run as they are declared, on a server and on the fake server."""

from __future__ import annotations

import asyncio
import math
import threading
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from unittest.mock import patch

import anyio
import anyio.to_thread
import pytest
import sniffio

from ojs_client import (
    App,
    BlockingJob,
    Depends,
    InvalidArguments,
    Job,
    JobFailed,
    NewJob,
    Next,
    RetryPolicy,
    RunningJob,
    TaskRouter,
    register_type,
)
from ojs_client.tasks.producer import NextEnqueue
from tests.client_library.fake.worlds import SOON, Play, World
from tests.client_library.tasks import shop
from tests.client_library.tasks.shop import CALLS, Address, Basket, Colour, Money, app
from tests.client_library.workers import QUEUE


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


@asynccontextmanager
async def running(world: World, app: App = app) -> AsyncIterator[None]:
    with app.using(world.client):
        async with world.running(app.worker(queues=[QUEUE])):
            yield


async def test_a_call_is_a_job_with_its_arguments_by_name(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.send.enqueue(3, copies=2)
            await world.passes(SOON)
            assert (job.type, job.queue) == ("mail.send", QUEUE)
            assert job.args == [{"user_id": 3, "copies": 2}], "not the default"
            assert await shop.send.result(job, wait=60) == "3 Hello 2"

    await play(scenario)


@pytest.mark.parametrize(
    "args",
    [[{"user_id": 3, "subject": "Hi"}], [{"subject": "Hi", "user_id": 3}], [3, "Hi"], [3, "Hi", 1]],
)
async def test_other_languages_send_arguments_by_name_or_by_position(
    play: Play, args: list[Any]
) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            once = RetryPolicy(max_attempts=1)
            job = await world.client.enqueue("mail.send", *args, queue=QUEUE, retry=once)
            await world.passes(SOON)
            if len(args) < 3:
                assert await world.client.result(job.id, wait=60) == "3 Hi 1"
            else:  # copies has no position
                with pytest.raises(JobFailed, match="too many positional"):
                    await world.client.result(job.id, wait=60)

    await play(scenario)


async def test_values_keep_their_types(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.everything.enqueue(
                at=datetime.now(UTC),
                key=uuid.uuid4(),
                price=Decimal("1.50"),
                colour=Colour.RED,
                address=Address("Main"),
                basket=Basket(items=[1, 2]),
                money=Money(99),
            )
            await world.passes(SOON)
            assert (job.priority, job.members["timeout_ms"]) == (3, 30_000)
            assert await shop.everything.result(job.id, wait=60) == Address("Main 1")
        expected = (4, Decimal("1.50"), Colour.RED, Address("Main"), [1, 2], 99)
        assert [("mail.everything", *expected)] == CALLS

    await play(scenario)


async def test_options_of_a_call_replace_those_of_the_task(play: Play) -> None:
    async def scenario(world: World) -> None:
        with app.using(world.client):
            other = shop.send.with_options(delay="1h", priority=9)
            job = await other.enqueue(user_id=1)
            assert (job.state, job.priority, job.queue) == ("scheduled", 9, QUEUE)
            assert (await shop.send.enqueue(1)).state == "available"

    await play(scenario)


async def test_dependencies_are_shared_and_end_with_the_task(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.uses.enqueue(1)
            await world.passes(SOON)
            result = await shop.uses.result(job, wait=60)
            assert result == "connection, session of connection"
            assert CALLS == ["connects", "disconnects"]
            failing = await shop.uses.enqueue(13)
            await world.passes(SOON)
            await world.ended(failing)
            assert CALLS[2:] == ["connects", "offline", "disconnects"]

    await play(scenario)


async def test_a_sync_task_enqueues_from_its_thread(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.in_thread.enqueue(4)
            await world.passes(SOON)
            assert await shop.in_thread.result(job, wait=60) == (
                "settings of mail.in_thread: mail.other"
            )
            assert CALLS == ["settings end"]

    await play(scenario)


@pytest.mark.parametrize(
    ("how", "failure"),
    [
        ("offline", "Offline"),
        ("grouped", "Offline"),
        ("throttled", "Throttled"),
        ("unknown", "Strange"),  # its delay is not known, so that of the policy holds
        ("snoozes", None),
        ("runs", None),
    ],
)
async def test_a_failed_attempt_is_repeated_when_the_task_says(
    play: Play, how: str, failure: str | None
) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.fails.enqueue(how)
            # The delay that the task declares for other errors is an hour.
            await world.passes(1)
            assert await shop.fails.result(job, wait=60) == (1 if failure is None else 2)
            errors = (await world.client.get(job.id)).errors
            assert [error.type for error in errors] == ([] if failure is None else [failure])
            for error in errors:  # as without a declared delay
                assert error.code == "handler_error"
                assert "shop.py" in error.members["backtrace"][-1]

    await play(scenario)


@pytest.mark.parametrize("given", [{"retry_for": {OSError: "10 sec"}}, {"timeout": "10 sec"}])
def test_a_malformed_duration_is_refused_where_it_is_declared(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="10 sec"):
        App().task(**given)(lambda: None)
    if "timeout" in given:
        with pytest.raises(ValueError, match="10 sec"):
            shop.send.with_options(**given)


def test_a_delay_is_declared_for_exceptions() -> None:
    wrong: Any = {"OSError": "10s"}
    with pytest.raises(TypeError, match="classes of exceptions"):
        App().task(retry_for=wrong)(lambda: None)


async def test_a_wrong_result_fails_the_job(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.lies.enqueue()
            await world.passes(SOON)
            with pytest.raises(JobFailed, match="Expected `int`, got `str`"):
                await shop.lies.result(job, wait=60)

    await play(scenario)


async def test_a_task_runs_in_a_process(play: Play) -> None:
    async def scenario(world: World) -> None:
        async with running(world):
            job = await shop.computes.enqueue(21)
            await world.passes(SOON)
            assert await shop.computes.result(job, wait=60) == {"mail.computes": 42}

    await play(scenario)


async def test_middleware_surrounds_producers_and_workers(play: Play) -> None:
    seen: list[str] = []

    async def stamp(job: NewJob, call_next: NextEnqueue) -> Job:
        seen.append("before")
        enqueued = await call_next(
            NewJob(job.type, job.args, {**job.options, "meta": {"by": "us"}})
        )
        seen.append("after")
        return enqueued

    async def measure(job: RunningJob, call_next: Next) -> Any:
        seen.append(str(job.meta["by"]))
        return await call_next()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("opens")
        yield
        seen.append("closes")

    shop_app = App(lifespan=lifespan, middleware=[measure], producer_middleware=[stamp])

    @shop_app.task(queue=QUEUE)
    def plain() -> int:
        return 1

    async def scenario(world: World) -> None:
        seen.clear()
        async with running(world, shop_app):
            job = await plain.enqueue()
            await world.passes(SOON)
            assert await plain.result(job, wait=60) == 1
        assert [each for each in seen if each in ("before", "after")] == ["before", "after"]
        assert [each for each in seen if each not in ("before", "after")] == [
            "opens",
            "us",
            "closes",
        ]

    await play(scenario)


async def test_delay_does_not_block_an_event_loop(play: Play) -> None:
    """A thread of an async program enqueues with the client of the loop that has started it."""

    async def scenario(world: World) -> None:
        with app.using(world.client):
            with pytest.raises(RuntimeError, match="await enqueue"):
                shop.send.delay(1)
            jobs = [await anyio.to_thread.run_sync(shop.send.delay, 2)]
            if sniffio.current_async_library() == "asyncio":
                jobs.append(await asyncio.to_thread(shop.send.delay, 3))
        for job in jobs:
            assert (await world.client.get(job.id)).state == "available"
        with pytest.raises(RuntimeError, match="await enqueue"):
            shop.send.delay(1)

    await play(scenario)


async def test_threads_of_a_sync_handler_use_its_job(play: Play) -> None:
    own = App()

    @own.task(queue=QUEUE)
    def many(job: BlockingJob) -> list[str]:
        def part(number: int) -> str:
            job.progress(number / 2)
            return job.client.enqueue("mail.other", number, queue=QUEUE).type

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(part, range(2)))

    async def scenario(world: World) -> None:
        async with running(world, own):
            job = await many.enqueue()
            await world.passes(SOON)
            assert await many.result(job, wait=60) == ["mail.other", "mail.other"]

    await play(scenario)


def test_a_local_call_checks_its_arguments_and_needs_no_server() -> None:
    assert anyio.run(partial(shop.send.local, 3)) == "3 Hello 1"
    assert anyio.run(shop.uses.local, 1) == "connection, session of connection"
    assert shop.computes.local(4) == {"mail.computes": 8}
    assert anyio.run(shop.send, 3) == "3 Hello 1"
    with pytest.raises(InvalidArguments, match="user_id"):
        anyio.run(partial(shop.send.local, "3"))  # type: ignore[arg-type]
    with patch.dict(app.overrides, {shop.connection: lambda: "another"}):
        assert anyio.run(shop.uses.local, 1) == "another, session of another"


@pytest.mark.parametrize(
    ("args", "options", "error", "text"),
    [
        (["3"], {}, InvalidArguments, "Expected `int`, got `str`"),
        ([], {}, TypeError, "missing a required argument: 'user_id'"),
        ([3], {"subjet": "x"}, TypeError, "unexpected keyword argument 'subjet'"),
        ([object()], {}, InvalidArguments, "no JSON form"),
        ([True], {}, InvalidArguments, "Expected `int`, got `bool`"),
    ],
)
def test_a_wrong_call_is_refused_before_it_is_sent(
    args: list[Any], options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        shop.send.new_job(*args, **options)


def test_a_mistake_in_a_declaration_is_an_error() -> None:
    wrong = App()
    with pytest.raises(TypeError, match="no option queu"):
        wrong.task(queu="x")(lambda: None)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="lower-case"):
        wrong.task(name="Send")(lambda: None)

    @wrong.task
    async def twice() -> None: ...

    with pytest.raises(ValueError, match="already"):
        wrong.task(name="twice")(lambda: None)

    @wrong.task
    async def blocking(job: BlockingJob) -> None: ...

    with pytest.raises(TypeError, match="gets a RunningJob, not a BlockingJob"):
        wrong.worker()
    del blocking

    other = App()

    @other.task
    def many(*numbers: int) -> None: ...

    with pytest.raises(TypeError, match="has no name"):
        other.worker()
    unsupported = App()

    @unsupported.task
    def takes(numbers: list[complex]) -> None: ...

    @unsupported.task
    def returns() -> dict[str, threading.Lock]:
        return {}

    with pytest.raises(TypeError, match="complex comes from JSON"):
        unsupported.worker()
    del unsupported._declared["takes"]
    with pytest.raises(TypeError, match="lock comes from JSON"):
        unsupported.worker()
    del takes, returns

    waits = App()

    def through(session: str = Depends(shop.session)) -> str:
        return session

    @waits.task
    def sync_task(session: str = Depends(through)) -> None: ...

    with pytest.raises(TypeError, match="sync task is async: session"):
        waits.worker()
    del sync_task
    router = TaskRouter()

    @router.task
    def alone() -> None: ...

    with pytest.raises(RuntimeError, match="no app includes"):
        alone.delay()
    other.include(router)
    with pytest.raises(ValueError, match="included once"):
        App().include(router)


async def test_an_app_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await shop.send.enqueue(1)


def test_a_worker_gets_the_queues_of_its_tasks_and_no_external_ones() -> None:
    assert app.worker().queues == (QUEUE,)
    assert "mail.elsewhere" not in app.worker()._runner.handlers
    assert "mail.elsewhere" in app.tasks


def test_the_schema_describes_the_arguments() -> None:
    schema = shop.everything.schema()
    [arguments] = schema["prefixItems"]
    assert arguments["required"] == ["at", "key", "price", "colour", "address", "basket", "money"]
    assert arguments["properties"]["money"] == {"type": "integer"}
    assert arguments["properties"]["wait"]["default"] is None
    assert schema["$defs"]["Address"]["required"] == ["street"]
    assert shop.lies.schema()["minItems"] == 0


def test_a_default_needs_no_json_form_and_none_is_allowed() -> None:
    @App().task
    def lists(number: int = None, limit: float = math.inf) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    none: Any = None
    assert lists.new_job(number=none).args == ({"number": None},)
    [arguments] = lists.schema()["prefixItems"]
    assert arguments["properties"]["number"]["default"] is None
    assert {"type": "null"} in arguments["properties"]["number"]["anyOf"]
    assert "default" not in arguments["properties"]["limit"]


class Plain:
    pass


def test_a_registered_type_needs_no_schema() -> None:
    register_type(Plain, to_json=lambda _: 1, from_json=lambda _: Plain())

    @App().task
    def takes(plain: Plain | None) -> None: ...

    [arguments] = takes.schema()["prefixItems"]
    assert {"title": "Plain"} in arguments["properties"]["plain"]["anyOf"]


class Pairs(dict[str, int]):
    pass


@pytest.mark.parametrize("cls", [Address, Colour, datetime, Pairs])
def test_a_type_with_a_json_form_cannot_be_registered(cls: type[Any]) -> None:
    """Its values would be converted without the functions."""
    with pytest.raises(TypeError, match="has a JSON form already"):
        register_type(cls, to_json=str, from_json=cls)
