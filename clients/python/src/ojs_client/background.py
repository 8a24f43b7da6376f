"""Run a function beside the body of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio


@asynccontextmanager
async def running(*functions: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run functions until the block ends. An error of the block is raised as it is."""
    raised: Exception | None = None
    async with anyio.create_task_group() as group:
        for function in functions:
            group.start_soon(function)
        try:
            yield
        except Exception as error:
            raised = error  # the task group would wrap it
        finally:
            group.cancel_scope.cancel()
    if raised is not None:
        raise raised
