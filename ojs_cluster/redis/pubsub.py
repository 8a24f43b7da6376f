"""Sharded pub/sub: subscriptions that follow their slots.

Subscriptions live here, connections in ``Feed``: one per node that has any. One task compares
where each channel is subscribed with where its slot is served, and moves what is in the wrong
place. It runs when the topology changed, when a server dropped a channel (it does so itself when
the slot leaves), and when a subscription was refused for now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import explained
from ojs_cluster.redis.errors import BUSY_CODES, RedisReplyError
from ojs_cluster.redis.pubsub_connection import Feed, State, Subscription
from ojs_cluster.redis.router import Router
from ojs_cluster.redis.settings import Address
from ojs_cluster.redis.topology import parse_redirect

log = logging.getLogger("ojs.redis")

RETRY_S = 0.1
SPACING_S = 0.005


class PubSub:
    """All subscriptions of a client. ``run`` must be running."""

    def __init__(self, router: Router, nursery: trio.Nursery) -> None:
        self._router = router
        self._nursery = nursery
        self._subscriptions: dict[bytes, Subscription] = {}
        self._feeds: dict[Address, Feed] = {}
        self._look = trio.Event()
        self._refused: set[bytes] = set()
        router.listeners.append(self._wake)
        router.reconnect_listeners.append(self._reconnect)

    async def subscribe(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        """See ``Client.subscribe``."""
        if channel in self._subscriptions:
            raise ValueError(f"already subscribed to {channel!r}")
        subscription = Subscription(channel, slot, on_message, on_gap)
        self._subscriptions[channel] = subscription
        self._wake()
        timeout_s = self._router.settings.call_timeout_s
        stays = False
        try:
            with trio.move_on_after(timeout_s):
                await subscription.settled.wait()
            stays = subscription.settled.is_set() and subscription.refusal is None
        finally:
            # Also when the caller is cancelled in the moment of the confirmation: it will never
            # know that it is subscribed, and could not subscribe again.
            if not stays:
                self._remove(subscription)
        if subscription.refusal is not None:
            user = self._router.settings.username or "default"
            raise explained(subscription.refusal, user, "the master of its slot")
        if not subscription.settled.is_set():
            raise BackendUnavailable(
                "Redis did not confirm a subscription in time", outcome="not_applied"
            ) from self._router.why_down(None)

    async def unsubscribe(self, channel: bytes) -> None:
        """See ``Client.unsubscribe``."""
        subscription = self._subscriptions.get(channel)
        if subscription is not None:
            self._remove(subscription)
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Keep every subscription where its slot is served."""
        while True:
            with trio.move_on_after(self._pause_s()):
                await self._look.wait()
            self._look = trio.Event()
            self._note_heard_again()
            for subscription in list(self._subscriptions.values()):
                self._place(subscription)
            for address, feed in list(self._feeds.items()):
                if not feed.subscriptions:
                    del self._feeds[address]
                    feed.scope.cancel()
            await trio.sleep(SPACING_S)  # two nodes that each name the other must not spin us

    def _pause_s(self) -> float:
        """For how long nothing has to be done unless something happens."""
        now = trio.current_time()
        waiting = (s for s in self._subscriptions.values() if s.state is not State.ACTIVE)
        at_rest = RETRY_S if self._refused else float("inf")  # there is something to note
        return min((max(RETRY_S, s.ask_at - now) for s in waiting), default=at_rest)

    def _wake(self) -> None:
        self._look.set()

    def _reconnect(self, address: Address) -> None:
        feed = self._feeds.get(address)
        if feed is not None:
            feed.reconnect()

    def _place(self, subscription: Subscription) -> None:
        link = self._router.routes[subscription.slot]
        if link is None:
            self._router.want_refresh()
            return
        feed = self._feed(link.address)
        if subscription.feed is not feed:
            if subscription.feed is not None:
                subscription.feed.remove(subscription)
            feed.add(subscription)
        elif subscription.state is State.DROPPED and subscription.ask_at <= trio.current_time():
            feed.ask(subscription)

    def _feed(self, address: Address) -> Feed:
        feed = self._feeds.get(address)
        if feed is None:
            feed = Feed(address, self._router.settings, self._router.tls, self._dropped)
            self._feeds[address] = feed
            self._nursery.start_soon(feed.run)
        return feed

    def _remove(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.channel, None) is not None:
            if subscription.feed is not None:
                subscription.feed.remove(subscription)
            self._wake()

    def _dropped(self, subscription: Subscription | None, error: RedisReplyError | None) -> None:
        """A feed lost its connection (no subscription named), or one channel."""
        if subscription is None or error is None:
            self._router.want_refresh()
        elif error.code == "MOVED" and subscription.feed is not None:
            _, address = parse_redirect(error.message, subscription.feed.address)
            self._router.moved(subscription.slot, address)
        elif error.code in BUSY_CODES:
            self._router.want_refresh()
            return  # asked again after RETRY_S, not at once
        elif not subscription.settled.is_set():
            subscription.refusal = error
            subscription.settled.set()
        else:
            self._note_refused(subscription, error)
            subscription.put_off()
            return
        self._wake()

    def _note_refused(self, subscription: Subscription, error: RedisReplyError) -> None:
        """Log the first of a row: what takes the right to one channel takes that to many."""
        if not self._refused:
            log.warning(
                "Redis refuses channel %s and perhaps others, asking again: %s",
                subscription.channel.decode(errors="replace"),
                error,
            )
        self._refused.add(subscription.channel)

    def _note_heard_again(self) -> None:
        if self._refused:
            known = self._subscriptions
            self._refused = {
                channel
                for channel in self._refused
                if channel in known and known[channel].state is not State.ACTIVE
            }
            if not self._refused:
                log.info("Redis refuses no channel any more")
