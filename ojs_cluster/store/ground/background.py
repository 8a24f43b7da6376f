"""Tasks of the store that outlive the request that starts them.

Some calls prepare a request but do not belong to it: the renewal of a queue's name, a read of the
partition table, a subscription. The shard of such a call may be unreachable while the shard of the
request answers. So the call runs as a task of the store's nursery, one at a time for each purpose,
and every request that needs the result waits for a bounded time.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.deadline import current_deadline, start_deadline
from ojs_cluster.redis.driven_coroutines import driver_state, ensure_task
from ojs_cluster.redis.durability import Durability, require_durability
from ojs_cluster.redis.errors import RedisReplyError

log = logging.getLogger("ojs.store")

T = TypeVar("T")

_MAX_TASKS = 1000
"""Maximum number of concurrent tasks. Further calls run inside their callers."""
_INLINE_S = 1.0
"""Time in seconds that a call inside its caller may take, even if the caller waits for less."""


class _BackgroundTask:
    """One task.

    Attributes:
        result: the result of the call, None until the task has ended.
        ended: set when the task has ended.
    """

    __slots__ = ("ended", "result")

    def __init__(self) -> None:
        self.result: Any = None
        self.ended = trio.Event()


class Background:
    """The tasks of one store.

    Args:
        nursery: where tasks run; None runs each call inside its caller.
    """

    def __init__(self, nursery: trio.Nursery | None = None) -> None:
        self._nursery = nursery
        self._running: dict[Hashable, _BackgroundTask] = {}

    @property
    def has_room(self) -> bool:
        """Whether a further call gets a task of its own, and does not run inside its caller."""
        return self._nursery is not None and len(self._running) < _MAX_TASKS

    async def once(
        self, purpose: Hashable, work: Callable[[], Awaitable[T]], wait_s: float
    ) -> T | None:
        """Run ``work`` unless a task of the same purpose runs, and wait for its result.

        A failure is logged and not raised, because the task may end after all its callers.

        Args:
            purpose: key under which at most one task runs.
            work: the call.
            wait_s: maximum time in seconds to wait for the result; 0 only starts the task. The
                deadline of the caller's request ends the wait, too.

        Returns:
            The result; None when the task failed or has not ended in time.
        """
        # A caller that only starts a background task stays a driven coroutine. Otherwise each
        # request would need a trio task for work that is rarely due.
        if wait_s > 0 or self._nursery is None or len(self._running) >= _MAX_TASKS:
            await ensure_task()
        running = self._running.get(purpose)
        if running is None:
            if self._nursery is None or len(self._running) >= _MAX_TASKS:
                with trio.move_on_after(max(wait_s, _INLINE_S)):
                    return await _result_of(purpose, work)
                return None
            running = self._running[purpose] = _BackgroundTask()
            self._nursery.start_soon(self._run, purpose, work, running)
        if wait_s <= 0:
            if driver_state.driven is None:
                await trio.lowlevel.checkpoint()
        else:
            with trio.move_on_at(min(trio.current_time() + wait_s, current_deadline().at)):
                await running.ended.wait()
        result: T | None = running.result
        return result

    def start(self, purpose: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` until it returns or the store closes.

        Args:
            purpose: names the work in the log.
            work: must not raise exceptions; one that it raises is logged.
        """
        if self._nursery is None:
            raise RuntimeError("this store has no background tasks")
        self._nursery.start_soon(self._run_alone, purpose, work)

    async def _run_alone(self, purpose: Hashable, work: Callable[[], Awaitable[None]]) -> None:
        start_deadline()
        await _result_of(purpose, work)

    async def _run(
        self, purpose: Hashable, work: Callable[[], Awaitable[T]], running: _BackgroundTask
    ) -> None:
        start_deadline()  # the deadline of the request does not apply to the task
        try:
            # The durability that the request requires does not apply to the task either, because
            # the task does not write the jobs of the request.
            with require_durability(Durability.ASYNC):
                running.result = await _result_of(purpose, work)
        finally:
            del self._running[purpose]
            running.ended.set()


async def _result_of(purpose: Hashable, work: Callable[[], Awaitable[T]]) -> T | None:
    try:
        return await work()
    except (BackendUnavailable, RedisReplyError) as error:
        log.debug("background call %s failed: %r", purpose, error)
        return None
    except Exception:  # an exception in the nursery would end the process
        log.exception("background call %s failed", purpose)
        return None
