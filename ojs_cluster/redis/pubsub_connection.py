"""The connection to one node for sharded pub/sub.

Subscriptions have a connection of their own, because a RESP2 connection with a subscription accepts
no other commands. RESP3 would accept them, but was refused, because it has more types of replies: a
map instead of a list, for example.
"""

from __future__ import annotations

import contextlib
import enum
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
import trio

from ojs_cluster.redis.connection import pack
from ojs_cluster.redis.errors import (
    AuthenticationFailed,
    ConnectFailed,
    NoSuchDatabase,
    RedisReplyError,
)
from ojs_cluster.redis.node_link import (
    BACKOFF_FIRST_S,
    BACKOFF_MAX_S,
    STABLE_S,
    Backoff,
    check_handshake_error,
    dial,
    handshake_commands,
)
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.transport import Transport

_MORE = object()
# The first and the longest delay, in seconds, before a refused channel is requested again.
REFUSED_FIRST_S = 0.1
REFUSED_MAX_S = 10.0
# Exceptions that end a connection, which is then replaced.
CONNECTION_ERRORS = (
    ConnectFailed,
    AuthenticationFailed,
    NoSuchDatabase,
    OSError,
    hiredis.ProtocolError,
)


class SubscriptionState(enum.Enum):
    """The state of a subscription on the server."""

    DROPPED = "not subscribed"
    REQUESTED = "requested, not confirmed"
    ACTIVE = "confirmed"


class Subscription:
    """The subscription to one channel.

    Attributes:
        connection: the connection to the node that serves the subscription; None if none does.
        gap: whether messages may have been missed since the last confirmation.
        settled: set at the first confirmation, or when the server has refused the subscription.
        refusal: the error if the server has refused the first request; otherwise None.
        retry_at: when to request the channel again, in seconds of trio's clock.
    """

    __slots__ = (
        "_backoff",
        "channel",
        "connection",
        "gap",
        "on_gap",
        "on_message",
        "refusal",
        "retry_at",
        "settled",
        "slot",
        "state",
    )  # fmt: skip

    def __init__(
        self,
        channel: bytes,
        slot: int,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self.channel = channel
        self.slot = slot
        self.on_message = on_message
        self.on_gap = on_gap
        self.state = SubscriptionState.DROPPED
        self.connection: PubSubConnection | None = None
        self.gap = False
        self.settled = trio.Event()
        self.refusal: RedisReplyError | None = None
        self.retry_at = 0.0
        self._backoff = Backoff(REFUSED_FIRST_S, REFUSED_MAX_S)

    def delay_retry(self) -> None:
        """Request the channel again after a delay that grows with each refusal."""
        self.retry_at = trio.current_time() + self._backoff.next_s()

    def confirm(self) -> None:
        """Note that the server has confirmed the subscription, and sends messages from now on."""
        self.state = SubscriptionState.ACTIVE
        self.settled.set()
        self.retry_at = 0.0
        self._backoff.reset()
        if self.gap:
            self.gap = False
            self.on_gap()

    def drop(self) -> None:
        """Note that the server sends no messages now, so the client may miss some."""
        self.state = SubscriptionState.DROPPED
        self.gap = self.settled.is_set()


class PubSubConnection:
    """Keeps one connection to ``address`` open, with the subscriptions that were added.

    It calls ``on_drop`` with None when the connection is lost. When the server drops or refuses a
    subscription, it calls ``on_drop`` with that subscription and the error.
    """

    def __init__(
        self,
        address: Address,
        settings: ClientSettings,
        tls: ssl.SSLContext | None,
        on_drop: Callable[[Subscription | None, RedisReplyError | None], None],
    ) -> None:
        self.address = address
        self.subscriptions: dict[bytes, Subscription] = {}
        self.scope = trio.CancelScope()
        self._settings = settings
        self._tls = tls
        self._on_drop = on_drop
        self._connected = False
        self._outgoing = bytearray()
        self._outgoing_ready = trio.Event()
        # The channels of unanswered SSUBSCRIBE commands, in order. An error reply does not name its
        # channel, so it is that of the oldest command.
        self._requested: deque[bytes] = deque()
        self._pinged = False
        self._session_scope = trio.CancelScope()

    def reconnect(self) -> None:
        """Replace the connection, because the address may lead to another server now."""
        self._session_scope.cancel()

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, and subscribe when the connection is open."""
        self.subscriptions[subscription.channel] = subscription
        subscription.connection = self
        self.request(subscription)

    def request(self, subscription: Subscription) -> None:
        """Send SSUBSCRIBE if the connection is open."""
        if self._connected:
            subscription.state = SubscriptionState.REQUESTED
            self._requested.append(subscription.channel)
            # Each channel has its own command, because all channels of a command must share a slot.
            self._push(pack((b"SSUBSCRIBE", subscription.channel)))

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription, and unsubscribe if the connection is open."""
        self.subscriptions.pop(subscription.channel, None)
        subscription.connection = None
        subscription.drop()
        if self._connected:
            self._push(pack((b"SUNSUBSCRIBE", subscription.channel)))

    async def run(self) -> None:
        """Keep a connection open until cancelled."""
        backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        with self.scope:
            while True:
                started = trio.current_time()
                # The errors are not logged: the ``NodeLink`` to the same node logs them.
                with (
                    contextlib.suppress(*CONNECTION_ERRORS),
                    trio.CancelScope() as self._session_scope,
                ):
                    await self._session()
                for subscription in self.subscriptions.values():
                    subscription.drop()
                self._on_drop(None, None)
                if trio.current_time() - started > STABLE_S:
                    backoff.reset()
                await trio.sleep(backoff.next_s())

    async def _session(self) -> None:
        deadline = trio.current_time() + self._settings.connect_timeout_s
        transport = await dial(self.address, self._settings, self._tls, deadline)
        parser = hiredis.Reader(replyError=RedisReplyError, notEnoughData=_MORE)
        try:
            with trio.move_on_at(deadline) as scope:
                await self._perform_handshake(transport, parser)
            if scope.cancelled_caught:
                return
            self._outgoing.clear()
            self._requested.clear()
            self._pinged = False
            self._connected = True
            for subscription in self.subscriptions.values():
                self.request(subscription)
            async with trio.open_nursery() as nursery:
                stop = nursery.cancel_scope
                nursery.start_soon(_until_broken, self._read, transport, parser, stop)
                nursery.start_soon(_until_broken, self._write, transport, parser, stop)
        finally:
            self._connected = False
            transport.close()

    async def _perform_handshake(self, transport: Transport, parser: hiredis.Reader) -> None:
        for command in handshake_commands(self._settings):
            await transport.send(pack(command))
            while (reply := parser.gets()) is _MORE:
                parser.feed(await _receive(transport))
            if isinstance(reply, RedisReplyError):
                check_handshake_error(str(self.address), command, reply)

    async def _read(self, transport: Transport, parser: hiredis.Reader) -> None:
        """Dispatch messages. Send PING to a silent server; raise OSError if it stays silent."""
        while True:
            while (message := parser.gets()) is not _MORE:
                self._dispatch(message)
            with trio.move_on_after(self._settings.reply_timeout_s / 2) as scope:
                parser.feed(await _receive(transport))
                self._pinged = False
            if scope.cancelled_caught:
                if self._pinged:
                    raise ConnectionError("no answer to PING")
                self._pinged = True
                self._push(pack((b"PING",)))

    async def _write(self, transport: Transport, _parser: hiredis.Reader) -> None:
        while True:
            await self._outgoing_ready.wait()
            self._outgoing_ready = trio.Event()
            data = bytes(self._outgoing)
            self._outgoing.clear()
            await transport.send(data)

    def _push(self, data: bytes) -> None:
        self._outgoing += data
        self._outgoing_ready.set()

    def _dispatch(self, message: Any) -> None:
        if isinstance(message, RedisReplyError):
            if self._requested:
                self._drop(self._requested.popleft(), message)
        elif isinstance(message, list) and len(message) == 3:
            kind, channel, content = message
            if kind == b"smessage":
                subscription = self.subscriptions.get(channel)
                if subscription is not None:
                    subscription.on_message(content)
            elif kind == b"ssubscribe":
                if self._requested:
                    self._requested.popleft()
                subscription = self.subscriptions.get(channel)
                if subscription is not None and subscription.state is SubscriptionState.REQUESTED:
                    subscription.confirm()
            elif kind == b"sunsubscribe" and channel is not None:
                # The server has dropped the channel. The message may also be the reply to a
                # SUNSUBSCRIBE, whose channel is not in ``subscriptions`` any more.
                self._drop(channel, None)

    def _drop(self, channel: bytes, error: RedisReplyError | None) -> None:
        subscription = self.subscriptions.get(channel)
        if subscription is not None:
            subscription.drop()
            self._on_drop(subscription, error)


async def _receive(transport: Transport) -> bytes:
    data = await transport.receive()
    if not data:
        raise ConnectionError("closed by the server")
    return data


async def _until_broken(
    loop: Callable[[Transport, hiredis.Reader], Awaitable[None]],
    transport: Transport,
    parser: hiredis.Reader,
    stop: trio.CancelScope,
) -> None:
    """Run ``_read`` or ``_write``; when the connection breaks, cancel the other one by ``stop``."""
    try:
        await loop(transport, parser)
    except (OSError, trio.ClosedResourceError, hiredis.ProtocolError):
        stop.cancel()
