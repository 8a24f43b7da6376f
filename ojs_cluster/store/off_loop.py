"""Reading large JSON without holding up the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""Bytes of JSON from which on it is read in a thread: reading it takes milliseconds."""
_reading: Final = trio.CapacityLimiter(1)
"""One at a time: two would only take the interpreter from each other, and from the event loop."""


async def off_loop(read: Callable[[], T], size: int) -> T:
    """Call ``read``, which takes apart ``size`` bytes of JSON: in a thread when they are many.

    It must do its work in steps of a few milliseconds (``core.json_scan``), since Python hands over
    to the event loop only between such steps. Raises what it raises.
    """
    if size <= LARGE:
        return read()
    await ensure_task()
    return await trio.to_thread.run_sync(read, limiter=_reading)
