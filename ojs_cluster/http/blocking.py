"""Wait for room in full queues whose strategy is ``block`` (spec: ojs-backpressure 5.2).

A client that is willing to wait sends ``OJS-Block-Timeout`` in seconds. The process repeats the
enqueue after growing pauses. Nothing of the request is in Redis while it waits, so a process that
dies leaves nothing behind, and each attempt compares and stores in one step. A wait list in Redis
was refused: it would need an end for clients that have gone.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from ojs_cluster.core.errors import InvalidRequest, QueueFull
from ojs_cluster.http.messages import Request
from ojs_cluster.redis.deadline import extend_deadline
from ojs_cluster.redis.driven_coroutines import ensure_task

T = TypeVar("T")

MAX_BLOCK_S: Final = 60
"""Maximum time in seconds that a request waits; a longer timeout is shortened to it."""
MAX_BLOCKED: Final = 500
"""Maximum number of requests of a process that wait at the same time. Others are refused."""
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5


class BlockedRequests:
    """Counts the requests of a process that wait for room."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    async def until_stored(
        self, request: Request, draining: trio.Event, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        """Return the result of ``attempt``, repeated while a queue is full.

        Args:
            request: the request; its header ``ojs-block-timeout`` is the time to wait in seconds.
            draining: ends all waits when it is set.
            attempt: enqueues the jobs; stores nothing when it raises ``QueueFull``.

        Raises:
            QueueFull: the queue does not block, or it is still full after the timeout.
            InvalidRequest: the header is no whole number of seconds.
        """
        text = request.headers.get("ojs-block-timeout")
        if text is None:
            return await attempt()
        timeout_s = _seconds(text)
        try:
            return await attempt()
        except QueueFull as full:
            if not timeout_s or not self._may_wait(full):
                raise
        await ensure_task()
        extend_deadline(timeout_s)
        self.count += 1
        try:
            return await self._repeat(timeout_s, draining, attempt)
        finally:
            self.count -= 1

    def _may_wait(self, full: QueueFull) -> bool:
        return full.details.get("strategy") == "block" and self.count < MAX_BLOCKED

    async def _repeat(
        self, timeout_s: float, draining: trio.Event, attempt: Callable[[], Awaitable[T]]
    ) -> T:
        deadline, pause_s = trio.current_time() + timeout_s, _FIRST_PAUSE_S
        while True:
            remaining_s = deadline - trio.current_time()
            wait_s = min(remaining_s, pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
            with trio.move_on_after(max(0, wait_s)):
                await draining.wait()
            is_last = draining.is_set() or trio.current_time() >= deadline
            try:
                return await attempt()
            except QueueFull as full:
                if is_last or full.details.get("strategy") != "block":
                    raise
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidRequest(
            "OJS-Block-Timeout must be a whole number of seconds",
            field="headers.ojs-block-timeout",
        )
    return min(int(text), MAX_BLOCK_S)
