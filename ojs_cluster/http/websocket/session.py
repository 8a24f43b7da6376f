"""One WebSocket connection: its channels, and the events that it gets (spec: ojs-realtime 3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from math import inf
from typing import Any, Final

import orjson
import trio

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.http.app import App
from ojs_cluster.http.push.access import ReplayStopped, StreamAccess
from ojs_cluster.http.push.announcements import (
    DROPPED,
    GRACE_S,
    SHUTDOWN,
    Announcement,
    announce,
    dropped_data,
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
from ojs_cluster.http.push.sse import (
    CHECK_S,
    GATHER_S,
    PIECE_BYTES,
    REPLAY_CHUNK,
    initial_positions,
)
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
    warning,
)
from ojs_cluster.store.engine.jobs import read_jobs as store_jobs
from ojs_cluster.store.features.events.hub import Readers
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
        self._subscriber = self._app.push.hub.add_subscriber()
        self._readers = Readers(self._app.push.hub)
        self._subscriptions: dict[str, Subscription] = {}
        self._messages = EventMessages(self._subscriber)
        self._announcing = trio.Lock()
        self._has_announced = False
        self._sending = trio.Lock()
        """Held while a channel is added, so that its first event follows the confirmation."""

    def close(self) -> None:
        """Release the readers, and stop counting this connection. May be called repeatedly."""
        client, self._client = self._client, None
        if client is not None:
            self._readers.release()
            self._app.push.hub.remove_subscriber(self._subscriber)
            self._app.push.close(client)

    async def run(self, receive: Receive, send: SendText) -> int:
        """Serve until the client disconnects, the process stops or the API key is no longer valid.

        Returns:
            The status code with which the server closes the connection.
        """
        code = GOING_AWAY

        async def send_events() -> None:
            nonlocal code
            code = await self._send_events(send)
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
            self._unsubscribe(message.channel)
            await send(confirmation("unsubscribed", message.channel, None))
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
        subscription = await self._set_subscription(message.channel, types)
        self._readers.register(subscription)
        await send(confirmation("subscribed", message.channel, types))
        channel = subscription.channel
        if channel.kind == "job":
            # Read after the subscription is registered: an end that happens later is an event.
            job = await store_jobs.get(self._app.store, channel.value)
            if job.state in TERMINAL and subscription.wants_states:
                data = orjson.dumps(ended_data(job, self._app.store.clock.now_ms()))
                await send(
                    self._messages.event(
                        channel.name,
                        Announcement(STATE_CHANGED, data, self._app.store.clock.now_ms()),
                    )
                )

    async def _set_subscription(self, name: str, types: frozenset[str]) -> Subscription:
        """Create the subscription of a channel, or change its types. The caller registers it."""
        subscription = self._subscriptions.get(name)
        self._check_number_of_types(name, types)
        if subscription is None:
            channel = parse_channel(name)
            await self._check_channel(channel)
            if len(self._subscriptions) >= MAX_CHANNELS:
                raise InvalidRequest(
                    f"a connection may have {MAX_CHANNELS} channels", field="channel"
                )
            await self._read_shards(channel)
            request = self._access.request
            subscription = Subscription(
                self._subscriber, channel, types, within=request.queues, tenant=request.tenant
            )
            self._subscriptions[name] = subscription
        subscription.types = types
        self._messages.name_channels(self._subscriptions)
        return subscription

    def _check_number_of_types(self, name: str, types: frozenset[str]) -> None:
        """Check that all channels together have at most ``MAX_TYPES`` types.

        Raises:
            InvalidRequest: they would have more, if the channel ``name`` had ``types``.
        """
        others = (held for other, held in self._subscriptions.items() if other != name)
        if types and len(types) + sum(len(held.types) for held in others) > MAX_TYPES:
            raise InvalidRequest(
                f"a connection may have {MAX_TYPES} event types in all its channels",
                field="event_types",
            )

    async def _check_channel(self, channel: Channel) -> None:
        await check_access(self._app, self._access.request, channel)
        if channel.kind == "queue":
            await check_queue_exists(self._app, channel.value)

    async def _read_shards(self, channel: Channel) -> None:
        store = self._app.store
        if await self._readers.extend(store, await shards_of(store, channel)):
            reached = self._subscriber.reached
            for index, part in self._readers.parts.items():
                reached.setdefault(index, part)

    def _unsubscribe(self, name: str) -> None:
        subscription = self._subscriptions.pop(name, None)
        if subscription is not None:
            self._readers.unregister(subscription)
            self._messages.name_channels(self._subscriptions)

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
        for name, types in channels:
            try:
                await self._set_subscription(name, check_types(types, field="event_types"))
            except OJSError as error:
                await send(error_message(error, name))
        starts = event_id.starts_of([shard.index for shard in self._readers.shards])
        if starts is None:
            await send(unknown_event_id())
            return None
        subscriptions = list(self._subscriptions.values())
        for subscription in subscriptions:
            self._readers.unregister(subscription)
            await send(confirmation("subscribed", subscription.channel.name, subscription.types))
        self._subscriber.clear()
        self._subscriber.reached = initial_positions(self._readers, starts)
        return await self._replay(subscriptions, starts, send)

    async def _replay(
        self, subscriptions: list[Subscription], starts: Mapping[int, Start], send: SendText
    ) -> int | None:
        """Send the events after ``starts``. Return as ``_resume``."""

        async def deliver(found: list[Found]) -> None:
            self._access.check_replay()  # also while no event is of these channels
            for first in range(0, len(found), REPLAY_CHUNK):
                self._access.check_replay()
                await self._send_items(found[first : first + REPLAY_CHUNK], send)

        try:
            await replay(self._app.store, self._readers, subscriptions, starts, deliver)
        except ReplayStopped:
            if not self._access.is_valid():
                return POLICY_VIOLATION
            await self._send_shutdown(send)
            return GOING_AWAY
        except OJSError:
            return TRY_AGAIN_LATER  # the channels get no events, so the client must connect again
        return None

    async def _send_events(self, send: SendText) -> int:
        """Send events until the process stops or the API key is no longer valid.

        Returns:
            The status code with which the server closes the connection.
        """
        subscriber, app = self._subscriber, self._app
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
            if subscriber.is_empty:
                await subscriber.wait(min(check_at, end_at) - now)
                continue
            async with self._sending:
                await self._send_buffer(send)
            if subscriber.is_empty:
                await trio.sleep(GATHER_S)

    async def _send_shutdown(self, send: SendText) -> None:
        """Announce the shutdown once: a replay and the task that sends events both do it."""
        async with self._announcing:
            if not self._has_announced:
                data = orjson.dumps(shutdown_data())
                await send(
                    self._messages.event(
                        None, Announcement(SHUTDOWN, data, self._app.store.clock.now_ms())
                    )
                )
                self._has_announced = True

    async def _send_buffer(self, send: SendText) -> None:
        dropped, items = self._subscriber.take(PIECE_BYTES)
        for lost in dropped:
            await send(warning(lost))
            data = orjson.dumps(dropped_data(lost, self._app.store.clock.now_ms()))
            await send(
                self._messages.event(
                    lost.channel, Announcement(DROPPED, data, self._app.store.clock.now_ms())
                )
            )
        await self._send_items(items, send)

    async def _send_items(self, items: list[Found], send: SendText) -> None:
        for subscription, item in items:
            name = subscription.channel.name
            if self._subscriptions.get(name) is subscription:  # otherwise the client unsubscribed
                for announcement in announce(subscription, item):
                    await send(self._messages.event(name, announcement))

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
            for subscription in self._subscriptions.values():
                if subscription.channel.kind == "queue":
                    try:
                        await self._read_shards(subscription.channel)
                    except OJSError:
                        return TRY_AGAIN_LATER
        return None
