"""Forward deadlines and freed leases that other processes announce to the loops of this process.

A transition that plans something earlier than all earlier plans of its shard publishes the time on
the shard's schedule channel. A leader that releases the shard's lease publishes "free". Each
process, a follower too, subscribes to every shard for its whole life. So a new leader misses no
announcement, and ending a term needs no call to a Redis that may not answer. A message costs a
follower one look-up.
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
_UNSUBSCRIBE_S = 1.0


class DeadlineListener(Protocol):
    """A loop that reacts to announcements."""

    def on_deadline(self, shard: int, due_ms: int) -> None:
        """Handle a deadline announced in ``shard``, in milliseconds of Redis time."""
        ...

    def wake(self, shard: int) -> None:
        """Check ``shard`` now, because its announcements may have been missed."""
        ...


class Subscriber(Protocol):
    """The part of the Redis client that is needed here."""

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Call ``on_message`` for each message until unsubscribed, ``on_gap`` after each loss."""
        ...

    async def unsubscribe(self, channel: bytes) -> None:
        """End a subscription."""
        ...


class ScheduleChannel(Protocol):
    """The part of a shard that is needed here."""

    @property
    def index(self) -> int:
        """The shard's number."""
        ...

    @property
    def slot(self) -> int:
        """Its cluster slot."""
        ...

    @property
    def schedule_channel(self) -> bytes:
        """The channel's name."""
        ...


class Wakeups:
    """The announcements of all shards.

    Args:
        redis: the client.
        shards: all shards and the meta tag.
        random: source of jitter.
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
        """Call ``callback`` with each shard whose lease a leader has released."""
        self._on_free_lease = callback

    @contextmanager
    def forwarded_to(self, *listeners: DeadlineListener) -> Iterator[None]:
        """Forward deadlines to these listeners during the body."""
        self._listeners = listeners
        try:
            yield
        finally:
            self._listeners = ()

    async def run(self) -> None:
        """Hold the subscriptions until cancelled.

        Without a subscription the loops find a shard's work after their longest sleep. So callers
        do not wait for subscriptions, and one that fails is tried again.
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
                # Any error: without a subscription the shard's work is only late.
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
        # Deadlines that were announced before the subscription are only in the shard.
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
            # A newer version may have sent it. An extra check of the shard is never wrong.
            self._on_gap(shard)
            return
        for listener in self._listeners:
            listener.on_deadline(shard, due_ms)

    def _on_gap(self, shard: int) -> None:
        for listener in self._listeners:
            listener.wake(shard)
