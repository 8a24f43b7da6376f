"""Parse large JSON without blocking the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""Size in bytes above which JSON is parsed in a thread: parsing takes milliseconds."""
_reading: Final = trio.CapacityLimiter(1)
"""One thread at a time: more would compete for the interpreter with the event loop."""


async def off_loop(read: Callable[[], T], size: int, *, large: int = LARGE) -> T:
    """Call ``read``, in a thread when the JSON is larger than ``large``.

    Args:
        read: parses the JSON (``core.json_scan``), or computes, in steps of a few milliseconds.
            Python cannot switch to the thread of the event loop during a step.
        size: size of the JSON in bytes, or of what is computed.
        large: the size above which a thread is worth its cost.

    Returns:
        The result of ``read``.

    Raises:
        Exception: what ``read`` raises.
    """
    if size <= large:
        return read()
    await ensure_task()
    return await trio.to_thread.run_sync(read, limiter=_reading)
