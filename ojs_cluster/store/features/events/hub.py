"""The subscribers of this process, and the shard readers that they need.

A reader starts with the first subscriber of its shard and ends after the last one. So a process
without subscribers reads no events.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.positions import part_of
from ojs_cluster.store.features.events.shard_reader import ShardReader
from ojs_cluster.store.features.events.subscriber import BufferBudget, Subscriber, Subscription

_READY_S: Final = 5.0
"""Longest time in seconds to wait for the positions of new readers."""


class EventHub:
    """Connects subscriptions with shard readers."""

    def __init__(self, budget: BufferBudget) -> None:
        """Begin without subscribers."""
        self.budget = budget
        self._readers: dict[int, ShardReader] = {}
        self._subscribers: set[Subscriber] = set()

    def add_subscriber(self) -> Subscriber:
        """Return a new subscriber. The caller must remove it."""
        subscriber = Subscriber(self.budget)
        self._subscribers.add(subscriber)
        self.budget.subscribers = len(self._subscribers)
        return subscriber

    def remove_subscriber(self, subscriber: Subscriber) -> None:
        """Forget a subscriber. May be called repeatedly."""
        self._subscribers.discard(subscriber)
        self.budget.subscribers = len(self._subscribers)

    def wake(self) -> None:
        """Wake all subscribers, because the process shuts down."""
        for subscriber in self._subscribers:
            subscriber.wake()

    @property
    def reading(self) -> int:
        """The number of shards that are read."""
        return len(self._readers)

    async def acquire(self, store: Store, shards: Collection[Shard | Meta]) -> Readers:
        """Return the readers of some shards; start those that do not run. The caller releases them.

        Raises:
            BackendUnavailable: the position in one of the streams could not be read in time.
        """
        readers = Readers(self)
        try:
            await readers.extend(store, shards)
        except BaseException:
            readers.release()
            raise
        return readers

    def use(self, store: Store, shard: Shard | Meta) -> ShardReader:
        """Return the reader of a shard, and add a user to it."""
        reader = self._readers.get(shard.index)
        if reader is None:
            reader = self._readers[shard.index] = ShardReader(store, shard)
            store.background.start(("events", shard.index), reader.run)
        reader.users += 1
        return reader

    def leave(self, reader: ShardReader) -> None:
        """Remove a user from a reader; end the reader if it was the last user."""
        reader.users -= 1
        if not reader.users:
            reader.ending.cancel()
            del self._readers[reader.shard.index]


class Readers:
    """The readers that one subscriber uses, and the subscriptions that it registered with them."""

    def __init__(self, hub: EventHub) -> None:
        """Begin without readers."""
        self._hub = hub
        self._readers: dict[int, ShardReader] = {}
        self._subscriptions: dict[Subscription, None] = {}

    @property
    def shards(self) -> list[Shard | Meta]:
        """The shards that are read."""
        return [reader.shard for reader in self._readers.values()]

    @property
    def parts(self) -> dict[int, bytes]:
        """The present position of each reader, as a part of an event id, by index of the shard."""
        return {index: part_of(index, reader.position) for index, reader in self._readers.items()}

    def reader(self, index: int) -> ShardReader:
        """Return the reader of the shard with this index."""
        return self._readers[index]

    async def extend(self, store: Store, shards: Collection[Shard | Meta]) -> bool:
        """Add the readers of those shards that are not read yet; return whether there were any.

        Raises:
            BackendUnavailable: the position in one of the streams could not be read in time. No
                reader is added.
        """
        added = {
            shard.index: self._hub.use(store, shard)
            for shard in shards
            if shard.index not in self._readers
        }
        ready = False
        try:
            until = min(trio.current_time() + _READY_S, current_deadline().at)
            with trio.move_on_at(until):
                for reader in added.values():
                    await reader.ready.wait()
            ready = all(reader.ready.is_set() for reader in added.values())
        finally:
            if not ready:
                for reader in added.values():
                    self._hub.leave(reader)
        if not ready:
            raise BackendUnavailable(
                "the events of a shard cannot be read now", outcome="not_applied"
            )
        self._readers |= added
        for reader in added.values():
            for subscription in self._subscriptions:
                reader.register(subscription)
        return bool(added)

    def register(self, subscription: Subscription) -> None:
        """Offer new events of all these shards to a subscription from now on."""
        self._subscriptions[subscription] = None
        for reader in self._readers.values():
            reader.register(subscription)

    def unregister(self, subscription: Subscription) -> None:
        """Offer no further events to a subscription."""
        self._subscriptions.pop(subscription, None)
        for reader in self._readers.values():
            reader.unregister(subscription)

    def release(self) -> None:
        """Unregister all subscriptions and leave all readers. May be called repeatedly."""
        for subscription in list(self._subscriptions):
            self.unregister(subscription)
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            self._hub.leave(reader)
