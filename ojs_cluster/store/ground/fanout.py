"""Make the same call for many shards or jobs, with a bounded number of concurrent calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio

from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")

WIDTH = 16
"""Maximum number of concurrent calls. It is large enough to hide the round trip, and small enough
to leave capacity for other requests."""


async def run_concurrently(items: Iterable[T], call: Callable[[T], Awaitable[None]]) -> None:
    """Await ``call(item)`` for every item, up to ``WIDTH`` at a time.

    Args:
        items: the arguments of the calls.
        call: makes the call for one item.

    Raises:
        Exception: the first failure, as it was raised; the other calls are cancelled.
    """
    calls = list(items)
    if len(calls) < 2:
        # Nearly every enqueue calls this with no item, and a nursery would cost more than the rest
        # of the enqueue.
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
            except Exception as error:  # raised to the caller without an exception group
                failure = failure or error
                nursery.cancel_scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(WIDTH, len(calls))):
            nursery.start_soon(work, nursery)
    if failure is not None:
        raise failure
