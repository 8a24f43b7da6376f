"""One node's connection for sharded pub/sub.

Separate from the command connection: a RESP2 connection with a subscription takes no other
commands, and RESP3, which would allow it, makes every reply's type depend on the command.
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
    check_refusal,
    dial,
    handshake,
)
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.redis.transport import Transport

_MORE = object()
# Between two askings for a channel that the server refuses.
REFUSED_FIRST_S = 0.1
REFUSED_MAX_S = 10.0
BROKEN = (
    ConnectFailed, AuthenticationFailed, NoSuchDatabase, OSError, hiredis.ProtocolError,
)  # fmt: skip


class State(enum.Enum):
    """Where a subscription stands with the server."""

    DROPPED = "not subscribed"
    ASKED = "asked, not yet confirmed"
    ACTIVE = "confirmed"


class Subscription:
    """One channel. ``settled`` is set at the first confirmation, or at a final refusal."""

    __slots__ = (
        "_backoff", "ask_at", "channel", "feed", "gap", "on_gap", "on_message", "refusal",
        "settled", "slot", "state",
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
        self.state = State.DROPPED
        self.feed: Feed | None = None
        self.gap = False
        self.settled = trio.Event()
        self.refusal: RedisReplyError | None = None
        self.ask_at = 0.0
        self._backoff = Backoff(REFUSED_FIRST_S, REFUSED_MAX_S)

    def put_off(self) -> None:
        """The server refused, though it once confirmed: ask again later, later each time."""
        self.ask_at = trio.current_time() + self._backoff.next_s()

    def confirm(self) -> None:
        """The server has confirmed: messages arrive from now on."""
        self.state = State.ACTIVE
        self.settled.set()
        self.ask_at = 0.0
        self._backoff.reset()
        if self.gap:
            self.gap = False
            self.on_gap()

    def drop(self) -> None:
        """No longer subscribed; if it ever was, messages may be missed from now on."""
        self.state = State.DROPPED
        self.gap = self.settled.is_set()


class Feed:
    """Keeps one connection to ``address``, with the subscriptions it was given.

    ``on_drop`` is called with None when the connection was lost, else with the subscription that
    the server dropped or refused, and its error.
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
        # Channels of SSUBSCRIBE commands that are unanswered, in order: an error names none.
        self._asked: deque[bytes] = deque()
        self._pinged = False
        self._session_scope = trio.CancelScope()

    def reconnect(self) -> None:
        """Replace the connection; the address may lead to another server by now."""
        self._session_scope.cancel()

    def add(self, subscription: Subscription) -> None:
        """Take a subscription over and subscribe, now or as soon as connected."""
        self.subscriptions[subscription.channel] = subscription
        subscription.feed = self
        self.ask(subscription)

    def ask(self, subscription: Subscription) -> None:
        """Send SSUBSCRIBE, if connected."""
        if self._connected:
            subscription.state = State.ASKED
            self._asked.append(subscription.channel)
            # One command per channel: several of one command would have to share a slot.
            self._push(pack((b"SSUBSCRIBE", subscription.channel)))

    def remove(self, subscription: Subscription) -> None:
        """Give a subscription up."""
        self.subscriptions.pop(subscription.channel, None)
        subscription.feed = None
        subscription.drop()
        if self._connected:
            self._push(pack((b"SUNSUBSCRIBE", subscription.channel)))

    async def run(self) -> None:
        """Stay connected until cancelled."""
        backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S)
        with self.scope:
            while True:
                started = trio.current_time()
                # Commands to the same node fail as well and tell why; here it is only a gap.
                with contextlib.suppress(*BROKEN), trio.CancelScope() as self._session_scope:
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
                await self._introduce(transport, parser)
            if scope.cancelled_caught:
                return
            self._outgoing.clear()
            self._asked.clear()
            self._pinged = False
            self._connected = True
            for subscription in self.subscriptions.values():
                self.ask(subscription)
            async with trio.open_nursery() as nursery:
                stop = nursery.cancel_scope
                nursery.start_soon(_until_broken, self._read, transport, parser, stop)
                nursery.start_soon(_until_broken, self._write, transport, parser, stop)
        finally:
            self._connected = False
            transport.close()

    async def _introduce(self, transport: Transport, parser: hiredis.Reader) -> None:
        for command in handshake(self._settings):
            await transport.send(pack(command))
            while (reply := parser.gets()) is _MORE:
                parser.feed(await _receive(transport))
            if isinstance(reply, RedisReplyError):
                check_refusal(str(self.address), command, reply)

    async def _read(self, transport: Transport, parser: hiredis.Reader) -> None:
        """Dispatch messages; PING a silent server, give it up when it stays silent."""
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
            if self._asked:
                self._drop(self._asked.popleft(), message)
        elif isinstance(message, list) and len(message) == 3:
            kind, channel, content = message
            if kind == b"smessage":
                subscription = self.subscriptions.get(channel)
                if subscription is not None:
                    subscription.on_message(content)
            elif kind == b"ssubscribe":
                if self._asked:
                    self._asked.popleft()
                subscription = self.subscriptions.get(channel)
                if subscription is not None and subscription.state is State.ASKED:
                    subscription.confirm()
            elif kind == b"sunsubscribe" and channel is not None:
                # Also the answer to our own SUNSUBSCRIBE, whose channel is no longer ours.
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
    """Run one of a session's two loops; when the connection breaks, stop the other."""
    try:
        await loop(transport, parser)
    except (OSError, trio.ClosedResourceError, hiredis.ProtocolError):
        stop.cancel()
