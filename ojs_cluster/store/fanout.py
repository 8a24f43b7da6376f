"""The same question to many shards, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")

WIDTH = 16
"""Calls under way at once: enough to hide the round trip, few enough to leave room for others."""


async def over_shards(items: Iterable[T], call: Callable[[T], Awaitable[None]]) -> None:
    """Await ``call(item)`` for every item, up to ``WIDTH`` at a time.

    Raises:
        Exception: the first failure, as it was raised; the other calls are cancelled.
    """
    calls = list(items)
    if len(calls) < 2:
        # Every enqueue comes here, nearly always with nothing to ask: tasks that find no work would
        # cost it more than all else that it does.
        for item in calls:
            await call(item)
        return
    await ensure_task()
    pending = iter(calls)
    failure: Exception | None = None

    async def work(nursery: trio.Nursery) -> None:
        nonlocal failure
        for item in pending:
            try:
                await call(item)
            except Exception as error:  # handed to the caller, unwrapped
                failure = failure or error
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(WIDTH, len(calls))):
            nursery.start_soon(work, nursery)
    if failure is not None:
        raise failure
