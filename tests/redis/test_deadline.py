"""The deadline of a request whose tasks clean up at the same time."""

from __future__ import annotations

import trio

from ojs_cluster.redis.deadline import CLEANUP_S, cleaning_up, current_deadline, start_deadline


async def test_tasks_that_clean_up_at_once_leave_the_deadline_as_it_is() -> None:
    start_deadline().at = 10.0
    inside: list[float] = []
    entered, left = trio.Event(), trio.Event()

    async def first() -> None:
        with cleaning_up():
            inside.append(current_deadline().at)
            await entered.wait()
        left.set()

    async def second() -> None:
        with cleaning_up():
            inside.append(current_deadline().at)
            entered.set()
            await left.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
    assert inside == [10.0 + CLEANUP_S] * 2
    assert current_deadline().at == 10.0
