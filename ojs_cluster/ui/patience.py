"""Wait for Redis as long as it is healthy.

A page that needs every shard would wait for the whole call timeout while a master is down. A fixed
shorter limit would cut reads of many queues, which take long on a healthy cluster. So a page waits
without a limit of its own while all masters answer, and ``PATIENCE_S`` longer when one does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from ojs_cluster.http.app import App

T = TypeVar("T")
PATIENCE_S: Final = 1.0
"""Time in seconds that a read may take after a master was found silent."""
_CHECK_S: Final = 0.5
"""Time in seconds between two checks of the masters."""


async def await_while_healthy(app: App, call: Callable[[], Awaitable[T]]) -> T | None:
    """Return what ``call`` returns; None if it was cancelled because a master does not answer.

    Raises:
        Exception: what ``call`` raises.
    """
    result: T | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_unhealthy, app, nursery.cancel_scope)
        try:
            result = await call()
        except Exception as error:  # raised to the caller without an exception group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result


async def _cancel_when_unhealthy(app: App, scope: trio.CancelScope) -> None:
    while True:
        health = await app.health.get()
        if health is None or not health.covered:
            await trio.sleep(PATIENCE_S)
            scope.cancel()
            return
        await trio.sleep(_CHECK_S)
