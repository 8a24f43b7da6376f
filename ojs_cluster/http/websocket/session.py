"""One WebSocket connection: its channels, and the events that it gets (spec: ojs-realtime 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.http.app import App
from ojs_cluster.http.messages import DirectOutput
from ojs_cluster.http.push.access import ReplayStopped, StreamAccess
from ojs_cluster.http.push.announcements import (
    GRACE_S,
    SHUTDOWN,
    Announcement,
    ended_data,
    shutdown_data,
)
from ojs_cluster.http.push.channels import (
    check_access,
    check_queue_exists,
    check_types,
    parse_channel,
    shards_of,
)
from ojs_cluster.http.push.sse import CHECK_S, REPLAY_CHUNK, initial_positions
from ojs_cluster.http.websocket.messages import (
    MAX_CHANNELS,
    MAX_TYPES,
    ClientMessage,
    EventMessages,
    confirmation,
    decode_resumed,
    error_message,
    read_message,
    unknown_event_id,
)
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.features.events.feed import Feed
from ojs_cluster.store.features.events.new_event import STATE_CHANGED
from ojs_cluster.store.features.events.positions import Start
from ojs_cluster.store.features.events.replay import Found, replay
from ojs_cluster.store.features.events.subscriber import Channel, Subscription

SendText = Callable[[str], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]

# WebSocket status codes with which the server closes a connection.
GOING_AWAY: Final = 1001
POLICY_VIOLATION: Final = 1008
TRY_AGAIN_LATER: Final = 1013


class WebSocketSession:
    """The state of one connection. Two tasks use it: one reads messages, one sends events."""

    def __init__(
        self, access: StreamAccess, client: str, count_message: Callable[[], None]
    ) -> None:
        """Begin without channels.

        Args:
            access: the access of the client.
            client: the name under which the connection is counted until ``close``.
            count_message: counts a message against the request rate of the API key, and raises
                ``RateLimited``.
        """
        self._app: App = access.app
        self._access = access
        self._client: str | None = client
        self._count_message = count_message
        self._follower = self._app.push.hub.add_client()
        self._feed: Feed | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._shards: dict[str, list[Shard | Meta]] = {}
        """The shards that have events of each channel."""
        self._messages = EventMessages()
        """Writes the events of a replay, and those that the server itself makes."""
        self._announcing = trio.Lock()
        self._has_announced = False
        self._sending = trio.Lock()
        """Held while a message is handled or events are sent, so that they keep their order."""

    def close(self) -> None:
        """Close the feed, and stop counting this connection. May be called repeatedly."""
        client, self._client = self._client, None
        if client is not None:
            self._app.push.hub.remove_client(self._follower)
            self._close_feed()
            self._app.push.close(client)

    def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            self._app.push.hub.close_feed(feed)

    async def run(
        self, receive: Receive, send: SendText, direct: DirectOutput | None = None
    ) -> int:
        """Serve until the client disconnects, the process stops or the API key is no longer valid.

        Args:
            receive: returns the next ASGI message.
            send: sends a text message.
            direct: takes frames; None if there is none.

        Returns:
            The status code with which the server closes the connection.
        """
        code = GOING_AWAY
        self._follower.output = direct

        async def send_events() -> None:
            nonlocal code
            code = await self._send_events(send, direct)
            nursery.cancel_scope.cancel()

        async def read_messages() -> None:
            nonlocal code
            code = await self._read_messages(receive, send)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_events)
            nursery.start_soon(read_messages)
        return code

    async def _read_messages(self, receive: Receive, send: SendText) -> int:
        """Handle messages until the client disconnects or the server must close the connection.

        Returns:
            The status code with which the server closes the connection.
        """
        while True:
            received = await receive()
            if received["type"] == "websocket.disconnect":
                return GOING_AWAY
            channel = ""
            try:
                self._count_message()
                message = read_message(received.get("text"))
                channel = message.channel
                async with self._sending:
                    code = await self._handle(message, send)
                if code is not None:
                    return code
            except OJSError as error:
                await send(error_message(error, channel))

    async def _handle(self, message: ClientMessage, send: SendText) -> int | None:
        """Handle one message.

        Returns:
            The status code with which the server closes the connection; None to continue.
        """
        action = message.action or message.type
        if action == "subscribe":
            await self._subscribe(message, send)
        elif action == "unsubscribe":
            kept = {n: one for n, one in self._subscriptions.items() if n != message.channel}
            await self._change(kept, send, confirmation("unsubscribed", message.channel, None))
        elif action == "resume":
            return await self._resume(message.last_event_id, send)
        elif action == "ping":
            await send('{"type":"pong"}')
        else:
            raise InvalidRequest(
                "action must be subscribe, unsubscribe, resume or ping", field="action"
            )
        return None

    async def _subscribe(self, message: ClientMessage, send: SendText) -> None:
        types = check_types(message.event_types or (), field="event_types")
        subscriptions = await self._with(self._subscriptions, message.channel, types)
        confirmed = confirmation("subscribed", message.channel, types)
        await self._change(subscriptions, send, confirmed)
        subscription = subscriptions[message.channel]
        channel = subscription.channel
        if channel.kind == "job":
            # Read after the feed is followed: an end that happens later is an event.
            job = await store_jobs.get(self._app.store, channel.value)
            if job.state in TERMINAL and subscription.wants_states:
                now_ms = self._app.store.clock.now_ms()
                data = orjson.dumps(ended_data(job, now_ms))
                announcement = Announcement(STATE_CHANGED, data, now_ms)
                await send(self._own_event(channel.name, announcement))

    async def _with(
        self, subscriptions: Mapping[str, Subscription], name: str, types: frozenset[str]
    ) -> dict[str, Subscription]:
        """Return subscriptions with one more channel, or with other types of a channel."""
        self._check_number_of_types(subscriptions, name, types)
        old = subscriptions.get(name)
        if old is not None:
            return {**subscriptions, name: replace(old, types=types)}
        channel = parse_channel(name)
        await self._check_channel(channel)
        if len(subscriptions) >= MAX_CHANNELS:
            raise InvalidRequest(f"a connection may have {MAX_CHANNELS} channels", field="channel")
        self._shards[name] = await shards_of(self._app.store, channel)
        request = self._access.request
        added = Subscription(channel, types, within=request.queues, tenant=request.tenant)
        return {**subscriptions, name: added}

    async def _open_feed(self, subscriptions: Mapping[str, Subscription]) -> Feed | None:
        if not subscriptions:
            return None
        shards = {shard.index: shard for name in subscriptions for shard in self._shards[name]}
        return await self._app.push.hub.open_feed(
            *(self._app.store, list(shards.values()), list(subscriptions.values())), EventMessages
        )

    async def _change(
        self, subscriptions: dict[str, Subscription], send: SendText, confirmed: str
    ) -> None:
        """Follow the feed of other subscriptions, and confirm it between the events of both."""
        feed = await self._open_feed(subscriptions)
        with self._follower.hold():
            texts = self._take_all()
            self._use(feed, subscriptions)
            if feed is not None:
                self._follower.follow(feed)
            for text in (*texts, confirmed):
                await send(text)

    def _use(self, feed: Feed | None, subscriptions: dict[str, Subscription]) -> None:
        """Leave the present feed. The caller follows ``feed``."""
        self._follower.leave()
        self._close_feed()
        self._feed = feed
        self._subscriptions = subscriptions
        self._shards = {name: self._shards[name] for name in subscriptions}
        self._messages.name_channels(subscriptions.values())

    def _check_number_of_types(
        self, subscriptions: Mapping[str, Subscription], name: str, types: frozenset[str]
    ) -> None:
        """Check that all channels together have at most ``MAX_TYPES`` types.

        Raises:
            InvalidRequest: they would have more, if the channel ``name`` had ``types``.
        """
        others = (held for other, held in subscriptions.items() if other != name)
        if types and len(types) + sum(len(held.types) for held in others) > MAX_TYPES:
            raise InvalidRequest(
                f"a connection may have {MAX_TYPES} event types in all its channels",
                field="event_types",
            )

    async def _check_channel(self, channel: Channel) -> None:
        await check_access(self._app, self._access.request, channel)
        if channel.kind == "queue":
            await check_queue_exists(self._app, channel.value)

    async def _resume(self, last_event_id: str, send: SendText) -> int | None:
        """Subscribe to the channels of an earlier connection, and send the events after the id.

        Returns:
            The status code with which the server closes the connection; None to continue.
        """
        resumed = decode_resumed(last_event_id, len(self._app.store.keys))
        if resumed is None:
            await send(unknown_event_id())
            return None
        event_id, channels = resumed
        subscriptions = self._subscriptions
        for name, types in channels:
            try:
                checked = check_types(types, field="event_types")
                subscriptions = await self._with(subscriptions, name, checked)
            except OJSError as error:
                await send(error_message(error, name))
        feed = await self._open_feed(subscriptions)
        shards = [] if feed is None else [shard.index for shard in feed.readers.shards]
        starts = event_id.starts_of(shards)
        if feed is None or starts is None:
            if feed is not None:
                self._app.push.hub.close_feed(feed)
            await send(unknown_event_id())
            return None
        self._use(feed, dict(subscriptions))
        self._messages.reached = initial_positions(starts)
        with self._follower.hold():
            for subscription in subscriptions.values():
                name = subscription.channel.name
                await send(confirmation("subscribed", name, subscription.types))
            return await self._replay(feed, starts, send)

    async def _replay(self, feed: Feed, starts: Mapping[int, Start], send: SendText) -> int | None:
        """Send the events after ``starts``, then follow ``feed``. Return as ``_resume``."""
        subscriptions = list(self._subscriptions.values())

        async def deliver(found: list[Found]) -> None:
            self._access.check_replay()  # also while no event is of these channels
            for first in range(0, len(found), REPLAY_CHUNK):
                self._access.check_replay()
                await self._send_items(found[first : first + REPLAY_CHUNK], send)

        try:
            await replay(
                *(self._app.store, feed.readers, subscriptions, starts, deliver),
                lambda: self._follower.follow(feed),
            )
        except ReplayStopped:
            if not self._access.is_valid():
                return POLICY_VIOLATION
            await self._send_shutdown(send)
            return GOING_AWAY
        except OJSError:
            return TRY_AGAIN_LATER  # the channels get no events, so the client must connect again
        return None

    async def _send_events(self, send: SendText, direct: DirectOutput | None) -> int:
        """Send events until the process stops or the API key is no longer valid.

        Returns:
            The status code with which the server closes the connection.
        """
        follower, app = self._follower, self._app
        check_at, end_at = trio.current_time() + CHECK_S, inf
        while True:
            now = trio.current_time()
            if app.draining.is_set() and end_at == inf:
                end_at = now + GRACE_S
                await self._send_shutdown(send)
            if now >= end_at:
                return GOING_AWAY
            if now >= check_at:
                check_at = now + CHECK_S
                code = await self._check_again()
                if code is not None:
                    return code
            if await follower.wait(min(check_at, end_at) - now):
                async with self._sending:
                    if follower.is_behind:  # the client may have unsubscribed
                        for text in self._take():
                            await send(text)
            if direct is not None:
                await direct.flush()

    async def _send_shutdown(self, send: SendText) -> None:
        """Announce the shutdown once: a replay and the task that sends events both do it."""
        async with self._announcing:
            if not self._has_announced:
                data = orjson.dumps(shutdown_data())
                now_ms = self._app.store.clock.now_ms()
                await send(self._own_event(None, Announcement(SHUTDOWN, data, now_ms)))
                self._has_announced = True

    def _own_event(self, channel: str | None, announcement: Announcement) -> str:
        """Return the message of an event that the server itself makes."""
        return self._messages.event(channel, announcement, self._follower.position or None)

    def _take(self) -> list[str]:
        """Take the next events, and return their messages."""
        return [message.decode() for message in self._follower.next_piece().messages]

    def _take_all(self) -> list[str]:
        texts: list[str] = []
        while self._follower.is_behind:
            texts += self._take()
        return texts

    async def _send_items(self, items: list[Found], send: SendText) -> None:
        for subscription, item in items:
            for message in self._messages.messages(subscription, item):
                await send(message.decode())

    async def _check_again(self) -> int | None:
        """Check the API key, and read new partitions of the queues, too.

        If a partition cannot be read, the client must connect again. Its last id then makes the
        server send the events that happened in between.

        Returns:
            The status code with which the server closes the connection; None to continue.
        """
        if not self._access.is_valid():
            return POLICY_VIOLATION
        async with self._sending:
            for name, subscription in self._subscriptions.items():
                if subscription.channel.kind == "queue" and self._feed is not None:
                    store = self._app.store
                    try:
                        self._shards[name] = await shards_of(store, subscription.channel)
                        await self._feed.extend(store, self._shards[name])
                    except OJSError:
                        return TRY_AGAIN_LATER
        return None
