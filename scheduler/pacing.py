"""When to look at which shard: one task per shard that is led, asleep until there is work.

A step (one script on one shard) answers when it next has work, in Redis time. Its shard's task
sleeps until then, or until somebody publishes an earlier deadline, at most ``max_sleep_s``. So an
idle shard costs one small script every ten seconds and a due job is met at its due time. (Refused:
one tick over all shards, which pays 64 scripts per tick and is late by half a tick on average.)

Redis time and local time are never compared, only mapped: a step's answer carries the time at which
it ran, and the task knows the monotonic time at which it sent the request. Taking the send time
for the run time wakes a task early by a network delay at most, never late; the script then answers
with the small rest.

A step that fails makes its shard *sick*: it pauses, longer each time, while all others go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Protocol

import trio

from scheduler.stats import LoopStats

log = logging.getLogger("ojs.scheduler")

# Steps in a row that may claim "more" and do nothing (they may have dropped stale entries) before
# the shard is paused as if it had failed.
_FRUITLESS_STEPS = 50
# Steps of sick shards in flight. They have slots of their own: what a dead node leaves unanswered
# must not take turns with the healthy.
_PROBES = 2
# A wake-up that came early by a network delay asks again after this long, in seconds.
_SHORTEST_SLEEP_S = 0.001


class StepResult(Protocol):
    """The result of a step."""

    @property
    def done(self) -> int:
        """Jobs or records changed."""
        ...

    @property
    def next_ms(self) -> int | None:
        """Redis time, in ms, of the shard's next work; None when nothing is planned."""
        ...

    @property
    def now_ms(self) -> int:
        """Redis time, in ms, at which the step ran."""
        ...

    @property
    def more(self) -> bool:
        """Whether work was left over because the batch was full."""
        ...

    @property
    def quarantined(self) -> int:
        """Of the changed jobs, those that were quarantined because they are malformed."""
        ...


Step = Callable[[int], Awaitable[StepResult]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How one loop treats its shards; times in seconds.

    :param max_sleep_s: longest sleep of an idle shard.
    :param call_timeout_s: a step that takes longer has failed.
    :param backoff_min_s: first pause of a sick shard. :param backoff_max_s: its longest.
    """

    max_sleep_s: float = 10.0
    call_timeout_s: float = 5.0
    backoff_min_s: float = 0.1
    backoff_max_s: float = 5.0


class _Turn:
    """One who asks for a slot: set `granted`, and `watch` is how it sleeps until then."""

    __slots__ = ("granted", "watch")

    def __init__(self) -> None:
        self.granted = trio.Event()
        self.watch = trio.CancelScope()


class Slots:
    """At most `size` steps in flight, granted in order of asking.

    A shard with a backlog asks again after each step and so takes turns with the others. A step
    that is not answered within `patience_s` is no load on a server, it is waiting: it stops
    counting as soon as somebody wants its slot, or the shards of one dead node would take every
    slot from the healthy ones.

    Nobody leaves the queue to look for such steps: whoever did would come back as the last of all,
    and among many slow shards some would never have a turn. (trio's CapacityLimiter forgets the
    place of one who stops waiting, hence a queue of our own.) The first in the queue looks, for
    all: it wakes when the oldest step in flight has had its time, and stays where it is.
    """

    def __init__(self, size: int, patience_s: float = 0.1) -> None:
        self._size = size
        self._patience_s = patience_s
        self._queue: deque[_Turn] = deque()
        # Those whose steps count, by the time at which they stop counting; the oldest first.
        self._patient_until: dict[_Turn, float] = {}

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold one slot for the body."""
        turn = _Turn()
        self._queue.append(turn)
        self._grant()
        try:
            await trio.lowlevel.checkpoint()
            while not turn.granted.is_set():
                with turn.watch:
                    await turn.granted.wait()
                if turn.watch.cancelled_caught:
                    turn.watch = trio.CancelScope()
                    self._drop_silent()
            yield
        finally:
            self._patient_until.pop(turn, None)
            if not turn.granted.is_set():
                self._queue.remove(turn)
            self._grant()

    def _drop_silent(self) -> None:
        now = trio.current_time()
        for turn in [turn for turn, until in self._patient_until.items() if until <= now]:
            del self._patient_until[turn]
        self._grant()

    def _grant(self) -> None:
        """Give free slots to the first in the queue, and tell who is first then when to look."""
        while self._queue and len(self._patient_until) < self._size:
            turn = self._queue.popleft()
            self._patient_until[turn] = trio.current_time() + self._patience_s
            turn.granted.set()
        if self._queue:
            self._queue[0].watch.deadline = next(iter(self._patient_until.values()))


class ShardAlarm:
    """The alarm clock of one shard in one loop; set from outside at any moment."""

    __slots__ = ("_at", "_heard_ms", "_redis_ms", "_rung", "_sick", "_sleep")

    def __init__(self) -> None:
        self._sleep: trio.CancelScope | None = None
        self._heard_ms: int | None = None
        self._rung = False
        self._sick = False
        # The mapping of Redis time to local time: `_redis_ms` was now at local `_at`.
        self._redis_ms: int | None = None
        self._at = 0.0

    def hear(self, due_ms: int) -> None:
        """Somebody announced work at this Redis time, in ms."""
        if self._heard_ms is not None and self._heard_ms <= due_ms:
            return
        self._heard_ms = due_ms
        # A sick shard's pause stands: news of work says nothing about its health.
        if self._sleep is not None and not self._sick:
            self._sleep.deadline = min(self._sleep.deadline, self._local(due_ms))

    def ring(self) -> None:
        """Look now, whatever was planned: announcements may have been missed."""
        self._rung = True
        if self._sleep is not None:
            self._sleep.deadline = trio.current_time()

    def begin_step(self) -> None:
        """Forget what was heard: the step about to be sent will see all of it.

        Must come before the request is sent. What is heard while it is under way may concern work
        that the script did not see yet, and is kept.
        """
        self._heard_ms = None
        self._rung = False

    def learn(self, sent: float, now_ms: int) -> None:
        """Take the step's clock reading: it was sent at local time `sent` (s), ran at `now_ms`."""
        self._at = sent
        self._redis_ms = now_ms

    async def sleep(self, next_ms: int | None, max_sleep_s: float) -> None:
        """Sleep until the step's own next deadline or an earlier one that was heard."""
        now = trio.current_time()
        until = now + max_sleep_s
        for due_ms in (next_ms, self._heard_ms):
            if due_ms is not None:
                until = min(until, self._local(due_ms))
        await self._sleep_until(now if self._rung else max(until, now + _SHORTEST_SLEEP_S))

    async def pause(self, seconds: float) -> None:
        """Sit out a failure. Only :meth:`ring` ends it early: the node can be reached again."""
        self._sick = True
        try:
            now = trio.current_time()
            await self._sleep_until(now if self._rung else now + seconds)
        finally:
            self._sick = False

    async def _sleep_until(self, deadline: float) -> None:
        with trio.CancelScope(deadline=deadline) as self._sleep:
            await trio.sleep_forever()
        self._sleep = None

    def _local(self, due_ms: int) -> float:
        """Map a Redis time in ms to local monotonic seconds; "now" before the first answer."""
        if self._redis_ms is None:
            return trio.current_time()
        return self._at + (due_ms - self._redis_ms) / 1000


class ShardLoop:
    """One kind of work, over the shards that this process leads."""

    def __init__(
        self,
        name: str,
        step: Step,
        *,
        pace: Pace,
        slots: Slots,
        stats: LoopStats,
        random: Random,
    ) -> None:
        """Prepare a loop.

        :param step: one bounded piece of work on the shard with this index.
        :param slots: bound on steps in flight; loops may share it.
        """
        self.name = name
        self._step = step
        self._alarms: dict[int, ShardAlarm] = {}
        self._pace = pace
        self._slots = slots
        self._probes = Slots(_PROBES)
        self._stats = stats
        self._random = random

    async def serve(self, shard: int) -> None:
        """Work on one shard until cancelled. No step's failure ends it."""
        alarm = self._alarms[shard] = ShardAlarm()
        try:
            await self._serve(shard, alarm)
        finally:
            del self._alarms[shard]
            self._stats.sick.discard(shard)  # another process's now, or nobody's

    def hear(self, shard: int, due_ms: int) -> None:
        """A deadline in `shard`, perhaps not one of this loop's, at Redis time `due_ms`."""
        if (alarm := self._alarms.get(shard)) is not None:
            self._stats.wakeups += 1
            alarm.hear(due_ms)

    def ring(self, shard: int) -> None:
        """Look at `shard` now, if it is one of this loop's."""
        if (alarm := self._alarms.get(shard)) is not None:
            alarm.ring()

    async def _serve(self, shard: int, alarm: ShardAlarm) -> None:
        failures = 0
        fruitless = 0
        while True:
            try:
                result = await self._run_step(shard, alarm)
            except Exception as error:  # a sick shard must not stop the others
                failures += 1
                self._failed(shard, error)
                await alarm.pause(self._backoff_s(failures))
                continue
            failures = 0
            self._worked(shard, result)
            behind = result.more or (result.next_ms is not None and result.next_ms <= result.now_ms)
            fruitless = fruitless + 1 if behind and not result.done else 0
            excess = fruitless - (_FRUITLESS_STEPS if result.more else 0)
            if excess > 0:
                self._stats.stalled += 1
                await alarm.pause(self._backoff_s(excess))
            elif not result.more:
                await alarm.sleep(result.next_ms, self._pace.max_sleep_s)

    async def _run_step(self, shard: int, alarm: ShardAlarm) -> StepResult:
        slots = self._probes if shard in self._stats.sick else self._slots
        async with slots.hold():
            alarm.begin_step()
            sent = trio.current_time()
            with trio.fail_after(self._pace.call_timeout_s):
                result = await self._step(shard)
        alarm.learn(sent, result.now_ms)
        return result

    def _backoff_s(self, failures: int) -> float:
        longest: float = min(
            self._pace.backoff_max_s, self._pace.backoff_min_s * 2.0 ** min(failures - 1, 30)
        )
        return longest * self._random.uniform(0.5, 1.0)

    def _failed(self, shard: int, error: Exception) -> None:
        self._stats.failures += 1
        if shard not in self._stats.sick:
            self._stats.sick.add(shard)
            log.warning(
                "shard fails", extra={"loop": self.name, "shard": shard, "error": repr(error)}
            )

    def _worked(self, shard: int, result: StepResult) -> None:
        self._stats.steps += 1
        self._stats.done += result.done
        self._stats.quarantined += result.quarantined
        if shard in self._stats.sick:
            self._stats.sick.discard(shard)
            log.info("shard works again", extra={"loop": self.name, "shard": shard})
