"""The clients of this process, and the feeds that they follow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

import trio

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.fan_out import FanOut
from ojs_cluster.store.features.events.feed import BufferBudget, Encoder, Feed, Follower
from ojs_cluster.store.features.events.readers import ReaderPool, Readers
from ojs_cluster.store.features.events.shard_reader import Source
from ojs_cluster.store.features.events.subscriber import Subscription

_DRAIN_S: Final = 1.5
"""Time in seconds after which a client that reads slowly is disconnected in a drain. The streams of
others end half a second earlier."""
MakeEncoder = Callable[[Sequence[Subscription]], Encoder]
_Key = tuple[MakeEncoder, tuple[Subscription, ...]]


class EventHub:
    """Connects clients with feeds, and feeds with shard readers."""

    def __init__(self, budget: BufferBudget) -> None:
        """Begin without clients."""
        self.budget = budget
        self._pool = ReaderPool()
        self._feeds: dict[object, Feed] = {}
        self._fan_out = FanOut()
        self._clients: set[Follower] = set()

    def add_client(self) -> Follower:
        """Return a new client, which ``drain`` wakes. The caller must remove it."""
        client = Follower()
        self._clients.add(client)
        return client

    def remove_client(self, client: Follower) -> None:
        """Forget a client. May be called repeatedly."""
        client.leave()
        self._clients.discard(client)

    def drain(self) -> None:
        """Wake all clients, because the process shuts down; disconnect slow ones soon."""
        deadline = trio.current_time() + _DRAIN_S
        for client in self._clients:
            client.wake()
            if client.output is not None:
                client.output.end_sends(deadline)

    async def open_feed(
        self,
        store: Store,
        shards: Collection[Shard | Meta],
        subscriptions: Sequence[Subscription],
        make_encoder: MakeEncoder,
    ) -> Feed:
        """Return the feed of some subscriptions. The caller must close it.

        Args:
            store: the store.
            shards: the shards that have events of the channels.
            subscriptions: the subscriptions.
            make_encoder: makes the encoder of a new feed. Feeds are shared by the clients that give
                the same function.

        Raises:
            BackendUnavailable: the position in one of the streams could not be read in time.
        """
        key: _Key = (make_encoder, tuple(subscriptions))
        feed = self._feeds.get(key)
        if feed is None or feed.encoder.ended:
            feed = self._feeds[key] = self._new_feed(store, key)
        feed.users += 1
        try:
            await feed.extend(store, shards)
        except BaseException:
            self.close_feed(feed)
            raise
        return feed

    def _new_feed(self, store: Store, key: _Key) -> Feed:
        if not self.budget.feeds:
            self._fan_out = FanOut()
            store.background.start("fan-out of events", self._fan_out.run)
        self.budget.feeds += 1
        make_encoder, subscriptions = key
        encoder, readers = make_encoder(subscriptions), Readers(self._pool)
        feed = Feed(key, encoder, readers, self.budget, self._fan_out.add, store.clock.now_ms)
        for subscription in subscriptions:
            readers.register(Source(subscription, feed.add))
        return feed

    def close_feed(self, feed: Feed) -> None:
        """End a feed, unless other clients need it."""
        feed.users -= 1
        if feed.users:
            return
        feed.readers.release()
        if self._feeds.get(feed.key) is feed:
            del self._feeds[feed.key]
        self.budget.feeds -= 1
        if not self.budget.feeds:
            self._fan_out.ending.cancel()
