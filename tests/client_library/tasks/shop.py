"""The tasks of the tests, as an application declares them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import anyio
import pydantic

from ojs_client import (
    App,
    BlockingJob,
    Depends,
    ProcessJob,
    RetryPolicy,
    RunningJob,
    Snooze,
    TaskRouter,
    register_type,
)
from tests.client_library.fake.worlds import SOON
from tests.client_library.workers import QUEUE

CALLS: list[object] = []
"""What the tasks have seen, in this process."""


class Colour(Enum):
    RED = "red"


@dataclass
class Address:
    street: str


class Basket(pydantic.BaseModel):
    items: list[int]


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents


def _money(value: object) -> Money:
    if not isinstance(value, int):
        raise ValueError("money is a number of cents")  # noqa: TRY004 - as register_type says
    return Money(value)


register_type(Money, to_json=lambda m: m.cents, from_json=_money, schema={"type": "integer"})


class Throttled(Exception):
    def __init__(self, wait_s: float) -> None:
        super().__init__("too many requests")
        self.wait_s = wait_s


class Offline(ConnectionError):
    pass


class Strange(Exception):
    pass


async def disconnect() -> None:
    raise Offline("no network")


app = App()
mail = TaskRouter("mail", queue=QUEUE)


async def connection() -> AsyncIterator[str]:
    CALLS.append("connects")
    try:
        yield "connection"
    except Offline:
        CALLS.append("offline")
        raise
    finally:
        CALLS.append("disconnects")


def settings(job: BlockingJob) -> Iterator[str]:
    yield f"settings of {job.type}"
    CALLS.append("settings end")


async def session(opened: str = Depends(connection)) -> str:
    return f"session of {opened}"


@mail.task
async def send(user_id: int, subject: str = "Hello", *, copies: int = 1) -> str:
    return f"{user_id} {subject} {copies}"


@mail.task(timeout="30s", priority=3, tags=["typed"], retry=RetryPolicy(max_attempts=1))
async def everything(
    job: RunningJob,
    at: datetime,
    key: UUID,
    price: Decimal,
    colour: Colour,
    address: Address,
    basket: Basket,
    money: Money,
    wait: timedelta | None = None,
) -> Address:
    assert (at.tzinfo, wait) == (UTC, None)
    values = (key.version, price, colour, address, basket.items, money.cents)
    CALLS.append((job.type, *values))
    return Address(f"{address.street} 1")


@mail.task(retry=RetryPolicy(max_attempts=1))
async def uses(
    order: int,
    opened: str = Depends(connection),
    opened_session: str = Depends(session),
) -> str:
    if order == 13:
        raise Offline
    return f"{opened}, {opened_session}"


@mail.task
def in_thread(job: BlockingJob, number: int, given: str = Depends(settings)) -> str:
    assert threading.current_thread() is not threading.main_thread()
    send.delay(number)
    return f"{given}: {job.client.enqueue('mail.other', number, queue=QUEUE).type}"


@mail.task(
    retry=RetryPolicy(max_attempts=9, initial_interval=SOON),
    retry_for={
        ConnectionError: SOON,
        Throttled: lambda error: error.wait_s,
        Strange: lambda error: error.no_such_member,
        Exception: 3600,
    },
)
async def fails(job: RunningJob, how: str) -> int:
    match how, job.attempt:
        case "offline", 1:
            raise Offline("no network")
        case "throttled", 1:
            raise Throttled(SOON)
        case "grouped", 1:
            async with anyio.create_task_group() as group:
                group.start_soon(disconnect)
        case "unknown", 1:
            raise Strange
        case "snoozes", 1 if job.checkpoint is None:
            await job.save_checkpoint("slept")
            raise Snooze(SOON)
    return job.attempt


@mail.task(retry=RetryPolicy(max_attempts=1))
async def lies() -> int:
    return "no number"  # type: ignore[return-value]


@mail.task(process=True)
def computes(job: ProcessJob, number: int) -> dict[str, int]:
    job.progress(0.5)
    return {job.type: number * 2}


@mail.task(external=True)
async def elsewhere(width: int) -> None:
    """Another program runs it."""


app.include(mail)
