"""Sharded pub/sub: subscriptions that follow their slots.

``PubSub`` holds the subscriptions of a client. Each node that serves subscriptions has one
``PubSubConnection``. One task compares the node of each subscription with the master of its slot,
and moves subscriptions that are on the wrong node. The task does so after a change of the topology,
after a temporary refusal, and after a server has dropped a channel. A server drops a channel when
its slot moves to another node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.redis.acl_errors import explain_acl_error
from ojs_cluster.redis.errors import RETRYABLE_CODES, RedisReplyError
from ojs_cluster.redis.pubsub_connection import PubSubConnection, Subscription, SubscriptionState
from ojs_cluster.redis.router import SlotRouter
from ojs_cluster.redis.settings import Address
from ojs_cluster.redis.topology import parse_redirect

log = logging.getLogger("ojs.redis")

RETRY_S = 0.1
"""Pause before a subscription that is not active is checked again, in seconds."""
SPACING_S = 0.005
"""Minimum time between two checks of all subscriptions, in seconds.

Without it, two nodes that redirect to each other would keep the process busy.
"""


class PubSub:
    """The subscriptions of a client; ``run`` keeps them on the right nodes."""

    def __init__(self, router: SlotRouter, nursery: trio.Nursery) -> None:
        self._router = router
        self._nursery = nursery
        self._subscriptions: dict[bytes, Subscription] = {}
        self._connections: dict[Address, PubSubConnection] = {}
        self._check_wanted = trio.Event()
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
        subscribed = False
        try:
            with trio.move_on_after(timeout_s):
                await subscription.settled.wait()
            subscribed = subscription.settled.is_set() and subscription.refusal is None
        finally:
            # This block also runs when the caller is cancelled. If the subscription stayed, the
            # caller would not know about it and could not subscribe again.
            if not subscribed:
                self._remove(subscription)
        if subscription.refusal is not None:
            user = self._router.settings.username or "default"
            raise explain_acl_error(subscription.refusal, user, "the master of its slot")
        if not subscription.settled.is_set():
            raise BackendUnavailable(
                "Redis did not confirm a subscription in time", outcome="not_applied"
            ) from self._router.latest_error(None)

    async def unsubscribe(self, channel: bytes) -> None:
        """See ``Client.unsubscribe``."""
        subscription = self._subscriptions.get(channel)
        if subscription is not None:
            self._remove(subscription)
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Keep every subscription on the master of its slot."""
        while True:
            with trio.move_on_after(self._pause_s()):
                await self._check_wanted.wait()
            self._check_wanted = trio.Event()
            self._log_recovered()
            for subscription in list(self._subscriptions.values()):
                self._place(subscription)
            for address, connection in list(self._connections.items()):
                if not connection.subscriptions:
                    del self._connections[address]
                    connection.scope.cancel()
            await trio.sleep(SPACING_S)

    def _pause_s(self) -> float:
        """Return the time until the next check, in seconds, if nothing requests an earlier one."""
        now = trio.current_time()
        retry_times = [
            subscription.retry_at
            for subscription in self._subscriptions.values()
            if subscription.state is not SubscriptionState.ACTIVE
        ]
        # If all are active but some were refused, the next check logs that they have recovered.
        pause_if_all_active_s = RETRY_S if self._refused else float("inf")
        return min(
            (max(RETRY_S, time - now) for time in retry_times), default=pause_if_all_active_s
        )

    def _wake(self) -> None:
        self._check_wanted.set()

    def _reconnect(self, address: Address) -> None:
        connection = self._connections.get(address)
        if connection is not None:
            connection.reconnect()

    def _place(self, subscription: Subscription) -> None:
        link = self._router.routes[subscription.slot]
        if link is None:
            self._router.request_refresh()
            return
        connection = self._connection_to(link.address)
        if subscription.connection is not connection:
            if subscription.connection is not None:
                subscription.connection.remove(subscription)
            connection.add(subscription)
        elif (
            subscription.state is SubscriptionState.DROPPED
            and subscription.retry_at <= trio.current_time()
        ):
            connection.request(subscription)

    def _connection_to(self, address: Address) -> PubSubConnection:
        connection = self._connections.get(address)
        if connection is None:
            connection = PubSubConnection(
                address, self._router.settings, self._router.tls, self._on_drop
            )
            self._connections[address] = connection
            self._nursery.start_soon(connection.run)
        return connection

    def _remove(self, subscription: Subscription) -> None:
        if self._subscriptions.pop(subscription.channel, None) is not None:
            if subscription.connection is not None:
                subscription.connection.remove(subscription)
            self._wake()

    def _on_drop(self, subscription: Subscription | None, error: RedisReplyError | None) -> None:
        """Handle a lost connection, a dropped subscription or a refused subscription.

        Args:
            subscription: the subscription; None for a lost connection.
            error: the error of a refused subscription; otherwise None.
        """
        if subscription is None or error is None:
            self._router.request_refresh()
        elif error.code == "MOVED" and subscription.connection is not None:
            _, address = parse_redirect(error.message, subscription.connection.address)
            self._router.apply_moved(subscription.slot, address)
        elif error.code in RETRYABLE_CODES:
            self._router.request_refresh()
            return  # the next check is after RETRY_S, not at once
        elif not subscription.settled.is_set():
            subscription.refusal = error
            subscription.settled.set()
        else:
            self._log_refused(subscription, error)
            subscription.delay_retry()
            return
        self._wake()

    def _log_refused(self, subscription: Subscription, error: RedisReplyError) -> None:
        """Log the first refusal only, because a missing ACL rule affects many channels."""
        if not self._refused:
            log.warning(
                "Redis refuses channel %s and perhaps others, trying again: %s",
                subscription.channel.decode(errors="replace"),
                error,
            )
        self._refused.add(subscription.channel)

    def _log_recovered(self) -> None:
        if self._refused:
            known = self._subscriptions
            self._refused = {
                channel
                for channel in self._refused
                if channel in known and known[channel].state is not SubscriptionState.ACTIVE
            }
            if not self._refused:
                log.info("Redis accepts all channels again")
