"""Decide when a loop works on which shard: one task per led shard sleeps until there is work.

A step (see ``scheduler``) returns the time of the shard's next work, by the clock of Redis. The
shard's task sleeps until that time, or until another process publishes an earlier deadline, but at
most ``max_sleep_s``. So an idle shard costs one small script every ten seconds, and a job is
handled when it is due. (Rejected: one round over all shards. It costs 64 scripts per round, and a
job would be late by half a round on average.)

The clocks of Redis and of this process may differ. So the task takes the Redis time in a step's
result as equal to the local time at which it sent the request. The step ran a little later than
that. So a task wakes too early, by at most one network delay, and never too late. A step that runs
too early returns the remaining time.

When a step fails, its shard is called *failing*. The loop pauses on this shard, longer after each
failure, while it continues on all other shards.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

import trio

from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_scheduler.stats import LoopStats

log = logging.getLogger("ojs.scheduler")

_MAX_IDLE_STEPS = 50
"""Maximum number of steps in a row that report more work and change nothing. After that the shard
is paused as if a step had failed."""
_MAX_FAILING_STEPS = 2
"""Maximum number of concurrent steps of failing shards. They have their own limiter, because steps
that wait for a dead node must not delay steps of healthy shards."""
_MIN_SLEEP_S = 0.001
"""Minimum sleep in seconds. A task that has woken too early would otherwise run many steps."""


Step = Callable[[int], Awaitable[SweepResult]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often one loop checks its shards.

    Args:
        max_sleep_s: longest sleep of an idle shard, in seconds.
        call_timeout_s: a step that takes longer has failed, in seconds.
        backoff_min_s: first pause of a failing shard, in seconds.
        backoff_max_s: longest pause of a failing shard, in seconds.
    """

    max_sleep_s: float = 10.0
    call_timeout_s: float = 5.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0


class _Waiter:
    """A task that waits for its turn.

    Attributes:
        granted: set when the task may run its step.
        wait_scope: cancel scope of the wait. Its deadline is the time to look for late steps.
    """

    __slots__ = ("granted", "wait_scope")

    def __init__(self) -> None:
        self.granted = trio.Event()
        self.wait_scope = trio.CancelScope()


class StepLimiter:
    """Allow at most ``size`` concurrent steps; tasks wait in the order of their requests.

    A shard with a backlog requests a turn after each step, so it alternates with other shards. A
    step that is not answered within ``late_after_s`` seconds is *late*: probably its node is dead.
    If another task waits, a late step is no longer counted. Otherwise the shards of one dead node
    would block all other shards.

    The first task of the queue wakes when the oldest running step becomes late. If it still gets no
    turn, it keeps its place. (Rejected: trio.CapacityLimiter with a timeout. A task that stops
    waiting would have to queue again at the end, and among many slow shards some would never run.)

    Args:
        size: maximum number of concurrent steps.
        late_after_s: time in seconds after which an unanswered step is late.
    """

    def __init__(self, size: int, late_after_s: float = 0.1) -> None:
        self._size = size
        self._late_after_s = late_after_s
        self._queue: deque[_Waiter] = deque()
        # The tasks whose steps are counted, and the time at which each step becomes late. The
        # oldest step is the first.
        self._late_at: dict[_Waiter, float] = {}

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for a turn, and count as one running step while the context is open."""
        waiter = _Waiter()
        self._queue.append(waiter)
        self._grant()
        try:
            await trio.lowlevel.checkpoint()
            while not waiter.granted.is_set():
                with waiter.wait_scope:
                    await waiter.granted.wait()
                if waiter.wait_scope.cancelled_caught:
                    waiter.wait_scope = trio.CancelScope()
                    self._discount_late_steps()
            yield
        finally:
            self._late_at.pop(waiter, None)
            if not waiter.granted.is_set():
                self._queue.remove(waiter)
            self._grant()

    def _discount_late_steps(self) -> None:
        now = trio.current_time()
        for waiter in [waiter for waiter, late_at in self._late_at.items() if late_at <= now]:
            del self._late_at[waiter]
        self._grant()

    def _grant(self) -> None:
        """Let the first tasks of the queue run, as many as ``size`` allows.

        Then set the time at which the first waiting task checks for late steps.
        """
        while self._queue and len(self._late_at) < self._size:
            waiter = self._queue.popleft()
            self._late_at[waiter] = trio.current_time() + self._late_after_s
            waiter.granted.set()
        if self._queue:
            self._queue[0].wait_scope.deadline = next(iter(self._late_at.values()))


class ShardTimer:
    """The timer of one shard in one loop. Other tasks may shorten its sleep at any time."""

    __slots__ = ("_announced_ms", "_local_s", "_pausing", "_redis_ms", "_sleep", "_woken")

    def __init__(self) -> None:
        self._sleep: trio.CancelScope | None = None
        self._announced_ms: int | None = None
        self._woken = False
        self._pausing = False
        # The mapping of Redis time to local time: Redis time `_redis_ms` is local time `_local_s`.
        self._redis_ms: int | None = None
        self._local_s = 0.0

    def announce(self, due_ms: int) -> None:
        """Wake at an announced deadline, in milliseconds of Redis time."""
        if self._announced_ms is not None and self._announced_ms <= due_ms:
            return
        self._announced_ms = due_ms
        # A deadline does not end the pause of a failing shard: it does not show that the shard
        # answers.
        if self._sleep is not None and not self._pausing:
            self._sleep.deadline = min(self._sleep.deadline, self._to_local_s(due_ms))

    def wake(self) -> None:
        """Wake now, because announcements may have been missed."""
        self._woken = True
        if self._sleep is not None:
            self._sleep.deadline = trio.current_time()

    def begin_step(self) -> None:
        """Forget announced deadlines, because the next step handles their work.

        Must be called before the request is sent. Deadlines that are announced during the step are
        kept, because the script may have run before them.
        """
        self._announced_ms = None
        self._woken = False

    def synchronize(self, sent: float, now_ms: int) -> None:
        """Map Redis time to local time.

        Args:
            sent: local time in seconds at which the step was sent.
            now_ms: Redis time in milliseconds at which the step ran.
        """
        self._local_s = sent
        self._redis_ms = now_ms

    async def sleep(self, next_ms: int | None, max_sleep_s: float) -> None:
        """Sleep until the next deadline of the step, or an earlier announced deadline.

        Args:
            next_ms: the step's next deadline in milliseconds of Redis time; None if it has none.
            max_sleep_s: longest sleep in seconds.
        """
        now = trio.current_time()
        until = now + max_sleep_s
        for due_ms in (next_ms, self._announced_ms):
            if due_ms is not None:
                until = min(until, self._to_local_s(due_ms))
        await self._sleep_until(now if self._woken else max(until, now + _MIN_SLEEP_S))

    async def pause(self, seconds: float) -> None:
        """Pause after a failure.

        Only ``wake`` ends the pause early: it means that the node is reachable again.
        """
        self._pausing = True
        try:
            now = trio.current_time()
            await self._sleep_until(now if self._woken else now + seconds)
        finally:
            self._pausing = False

    async def _sleep_until(self, deadline: float) -> None:
        with trio.CancelScope(deadline=deadline) as self._sleep:
            await trio.sleep_forever()
        self._sleep = None

    def _to_local_s(self, due_ms: int) -> float:
        """Map Redis time in ms to local time in seconds; return now before the first result."""
        if self._redis_ms is None:
            return trio.current_time()
        return self._local_s + (due_ms - self._redis_ms) / 1000


class ShardLoop:
    """One kind of work on all shards that this process leads.

    Args:
        name: name of the loop in logs and metrics.
        step: function that does one bounded piece of work on the shard with the given index.
        pace: how often shards are checked.
        limiter: limits the number of concurrent steps; several loops may share it.
        stats: counters of the loop.
        random: source of jitter.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        *,
        pace: Pace,
        limiter: StepLimiter,
        stats: LoopStats,
        random: Random,
    ) -> None:
        self.name = name
        self._step = step
        self._timers: dict[int, ShardTimer] = {}
        self._pace = pace
        self._limiter = limiter
        self._failing_limiter = StepLimiter(_MAX_FAILING_STEPS)
        self._stats = stats
        self._random = random

    async def serve(self, shard: int) -> None:
        """Work on one shard until cancelled. A failed step is tried again."""
        timer = self._timers[shard] = ShardTimer()
        try:
            await self._serve(shard, timer)
        finally:
            del self._timers[shard]
            self._stats.failing.discard(shard)  # this process does not lead the shard any more

    def on_deadline(self, shard: int, due_ms: int) -> None:
        """Handle an announced deadline, which may belong to another loop.

        Args:
            shard: index of the shard.
            due_ms: the deadline in milliseconds of Redis time.
        """
        if (timer := self._timers.get(shard)) is not None:
            self._stats.wakeups += 1
            timer.announce(due_ms)

    def wake(self, shard: int) -> None:
        """Check ``shard`` now, if this process leads it."""
        if (timer := self._timers.get(shard)) is not None:
            timer.wake()

    async def _serve(self, shard: int, timer: ShardTimer) -> None:
        failures = 0
        idle_steps = 0
        while True:
            try:
                result = await self._run_step(shard, timer)
            except Exception as error:  # a failing shard must not stop the others
                failures += 1
                self._record_failure(shard, error)
                await timer.pause(self._backoff_s(failures))
                continue
            failures = 0
            self._record_success(shard, result)
            is_due = result.more or (result.next_ms is not None and result.next_ms <= result.now_ms)
            idle_steps = idle_steps + 1 if is_due and not result.done else 0
            # Work that stays due but cannot be done must not keep the loop busy. A full batch may
            # have removed stale entries, so it is repeated for a while.
            excess_steps = idle_steps - (_MAX_IDLE_STEPS if result.more else 0)
            if excess_steps > 0:
                self._stats.stalled += 1
                await timer.pause(self._backoff_s(excess_steps))
            elif not result.more:
                await timer.sleep(result.next_ms, self._pace.max_sleep_s)

    async def _run_step(self, shard: int, timer: ShardTimer) -> SweepResult:
        limiter = self._failing_limiter if shard in self._stats.failing else self._limiter
        async with limiter.hold():
            timer.begin_step()
            sent = trio.current_time()
            with trio.fail_after(self._pace.call_timeout_s):
                result = await self._step(shard)
        timer.synchronize(sent, result.now_ms)
        return result

    def _backoff_s(self, failures: int) -> float:
        max_s: float = min(
            self._pace.backoff_max_s, self._pace.backoff_min_s * 2.0 ** min(failures - 1, 30)
        )
        return max_s * self._random.uniform(0.5, 1.0)

    def _record_failure(self, shard: int, error: Exception) -> None:
        self._stats.failures += 1
        if shard not in self._stats.failing:
            self._stats.failing.add(shard)
            log.warning(
                "sweep of a shard fails, will retry",
                extra={"loop": self.name, "shard": shard, "error": repr(error)},
            )

    def _record_success(self, shard: int, result: SweepResult) -> None:
        self._stats.steps += 1
        self._stats.done += result.done
        self._stats.quarantined += result.quarantined
        if shard in self._stats.failing:
            self._stats.failing.discard(shard)
            log.info("sweep of a shard succeeds again", extra={"loop": self.name, "shard": shard})
