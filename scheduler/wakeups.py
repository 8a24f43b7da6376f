"""Deadlines and freed leases that other processes announce, brought to who waits for them.

A transition that plans something earlier than all its shard had planned publishes the time on the
shard's ``sched`` channel; a leader that frees the shard's lease publishes "free". One subscription
per shard lives as long as the process, a follower's too: a new leader then hears everything from
its first moment, and stepping down needs no call to a Redis that may be the reason for it. A
message costs a follower one look-up.
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


class Listener(Protocol):
    """A loop that wants to know."""

    def hear(self, shard: int, due_ms: int) -> None:
        """A deadline in `shard` was announced, in ms of Redis time."""
        ...

    def ring(self, shard: int) -> None:
        """Announcements of `shard` may have been missed."""
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
        """Call `on_message` for each message until unsubscribed, `on_gap` after each loss."""
        ...

    async def unsubscribe(self, channel: bytes) -> None:
        """End a subscription."""
        ...


class Channel(Protocol):
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
    """All shards' announcements, for whoever listens now."""

    def __init__(self, redis: Subscriber, shards: Sequence[Channel], *, random: Random) -> None:
        self._redis = redis
        self._shards = shards
        self._random = random
        self._listeners: tuple[Listener, ...] = ()
        self._lease_listener: Callable[[int], None] | None = None

    def on_free_lease(self, listener: Callable[[int], None]) -> None:
        """Call `listener` with each shard whose lease a leader has freed."""
        self._lease_listener = listener

    @contextmanager
    def heard_by(self, *listeners: Listener) -> Iterator[None]:
        """Pass announcements to these for the time of the body."""
        self._listeners = listeners
        try:
            yield
        finally:
            self._listeners = ()

    async def run(self) -> None:
        """Hold the subscriptions until cancelled.

        Without one, its shard's work is found by the loops' longest sleep, so nobody waits for
        them, and one that cannot be had is asked for again.
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

    async def _subscribe(self, shard: Channel) -> None:
        on_message = partial(self._on_message, shard.index)
        on_gap = partial(self._on_gap, shard.index)
        failed = False
        while True:
            try:
                await self._redis.subscribe(shard.schedule_channel, shard.slot, on_message, on_gap)
            except Exception as error:
                # Whatever it was: a deaf shard still works, only later.
                if not failed:
                    failed = True
                    log.warning("cannot listen", extra={"shard": shard.index, "error": repr(error)})
                await trio.sleep(_RETRY_S * self._random.uniform(0.5, 1.0))
            else:
                break
        if failed:
            log.info("listening again", extra={"shard": shard.index})
        # What was announced before the subscription stood is only in the shard.
        self._on_gap(shard.index)

    async def _unsubscribe(self, shard: Channel) -> None:
        try:
            await self._redis.unsubscribe(shard.schedule_channel)
        except Exception as error:
            log.debug("unsubscribe", extra={"shard": shard.index, "error": repr(error)})

    def _on_message(self, shard: int, message: bytes) -> None:
        if message == b"free":
            if self._lease_listener is not None:
                self._lease_listener(shard)
            return
        try:
            due_ms = int(message)
        except ValueError:
            # A newer version's message, perhaps: look, it cannot be wrong.
            self._on_gap(shard)
            return
        for listener in self._listeners:
            listener.hear(shard, due_ms)

    def _on_gap(self, shard: int) -> None:
        for listener in self._listeners:
            listener.ring(shard)
