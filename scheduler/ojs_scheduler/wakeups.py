"""Forward announced deadlines and freed leases of other processes to the loops of this process.

A transition may create a deadline that comes before all other deadlines of its shard. It then
publishes the deadline on the shard's schedule channel. A leader that releases the shard's lease
publishes "free" on the same channel. Every scheduler process subscribes to the channels of all
shards as long as it runs, whether it leads a shard or not. So a new leader has missed no message,
and the end of a leadership needs no call to a Redis that may not answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Protocol

import trio

log = logging.getLogger("ojs.scheduler")

_RETRY_S = 1.0
"""Longest time in seconds between two attempts to subscribe."""
_UNSUBSCRIBE_S = 1.0
"""Longest time in seconds for which unsubscribing may delay the end of the process."""


class DeadlineListener(Protocol):
    """A loop that receives the announced deadlines."""

    def on_deadline(self, shard: int, due_ms: int) -> None:
        """Handle a deadline that another process has announced.

        Args:
            shard: index of the shard.
            due_ms: the deadline, as Unix time in ms of the shard's clock.
        """
        ...

    def wake(self, shard: int) -> None:
        """Check ``shard`` now, because its announcements may have been missed."""
        ...


class Subscriber(Protocol):
    """The methods of the Redis client that ``Wakeups`` calls."""

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Subscribe to a channel until ``unsubscribe`` is called.

        Args:
            channel: name of the channel.
            slot: slot of the channel.
            on_message: called with each message.
            on_gap: called when messages may have been lost, after each new connection.
        """
        ...

    async def unsubscribe(self, channel: bytes) -> None:
        """End a subscription."""
        ...


class ScheduleChannel(Protocol):
    """The properties of a shard that ``Wakeups`` reads."""

    @property
    def index(self) -> int:
        """The shard's index."""
        ...

    @property
    def slot(self) -> int:
        """The shard's cluster slot."""
        ...

    @property
    def schedule_channel(self) -> bytes:
        """The name of the shard's schedule channel."""
        ...


class Wakeups:
    """The subscriptions to the schedule channels of all shards.

    Args:
        redis: the Redis client.
        shards: all shards and the meta tag.
        random: source of jitter for retries.
    """

    def __init__(
        self, redis: Subscriber, shards: Sequence[ScheduleChannel], *, random: Random
    ) -> None:
        self._redis = redis
        self._shards = shards
        self._random = random
        self._listeners: tuple[DeadlineListener, ...] = ()
        self._on_free_lease: Callable[[int], None] | None = None

    def on_free_lease(self, callback: Callable[[int], None]) -> None:
        """Call ``callback`` with the index of each shard whose lease a leader has released."""
        self._on_free_lease = callback

    @contextmanager
    def forwarded_to(self, *listeners: DeadlineListener) -> Iterator[None]:
        """Forward deadlines to ``listeners`` while the context is open."""
        self._listeners = listeners
        try:
            yield
        finally:
            self._listeners = ()

    async def run(self) -> None:
        """Hold the subscriptions until cancelled.

        Without a subscription the loops still find a shard's work, but only after their longest
        sleep. So the caller need not wait for the subscriptions, and a failed one is tried again.
        """
        try:
            async with trio.open_nursery() as nursery:
                for shard in self._shards:
                    nursery.start_soon(self._subscribe, shard)
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(_UNSUBSCRIBE_S, shield=True):
                async with trio.open_nursery() as nursery:
                    for shard in self._shards:
                        nursery.start_soon(self._unsubscribe, shard)

    async def _subscribe(self, shard: ScheduleChannel) -> None:
        on_message = partial(self._on_message, shard.index)
        on_gap = partial(self._on_gap, shard.index)
        failed = False
        while True:
            try:
                await self._redis.subscribe(shard.schedule_channel, shard.slot, on_message, on_gap)
            except Exception as error:
                # Every kind of error is retried: without a subscription the shard's work is late,
                # but nothing is lost.
                if not failed:
                    failed = True
                    log.warning(
                        "cannot subscribe to the shard's deadlines, will retry",
                        extra={"shard": shard.index, "error": repr(error)},
                    )
                await trio.sleep(_RETRY_S * self._random.uniform(0.5, 1.0))
            else:
                break
        if failed:
            log.info("subscribed to the shard's deadlines again", extra={"shard": shard.index})
        # Deadlines that were announced before the subscription are unknown to this process. So the
        # loops check the shard now.
        self._on_gap(shard.index)

    async def _unsubscribe(self, shard: ScheduleChannel) -> None:
        try:
            await self._redis.unsubscribe(shard.schedule_channel)
        except Exception as error:
            log.debug("unsubscribe failed", extra={"shard": shard.index, "error": repr(error)})

    def _on_message(self, shard: int, message: bytes) -> None:
        if message == b"free":
            if self._on_free_lease is not None:
                self._on_free_lease(shard)
            return
        try:
            due_ms = int(message)
        except ValueError:
            # Perhaps a newer version sent this unknown message. An extra check of the shard is
            # harmless.
            self._on_gap(shard)
            return
        for listener in self._listeners:
            listener.on_deadline(shard, due_ms)

    def _on_gap(self, shard: int) -> None:
        for listener in self._listeners:
            listener.wake(shard)
