"""Subscribers to new events, and their bounded buffers.

A subscriber that reads slowly loses its oldest events, and learns how many
(spec: ojs-realtime 5.4). So it costs bounded memory, and delays no other subscriber.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.store.features.events.new_event import STATE_CHANGED, Gap, NewEvent

_MIN_BUFFER_BYTES: Final = 16 * 1024
_MAX_BUFFER_BYTES: Final = 1024 * 1024

Item = NewEvent | Gap


class BufferBudget:
    """The memory that the buffers of all subscribers of a process may use together.

    Each subscriber may use an equal part. A buffer always has room for one event.
    """

    def __init__(self, max_bytes: int, max_events: int) -> None:
        """Begin without subscribers.

        Args:
            max_bytes: maximum size in bytes of all buffers together.
            max_events: maximum number of events in each buffer.
        """
        self._max_bytes = max_bytes
        self.max_events = max_events
        self.subscribers = 0

    @property
    def bytes_per_buffer(self) -> int:
        """Maximum size in bytes of each buffer now."""
        share = self._max_bytes // max(1, self.subscribers)
        return max(_MIN_BUFFER_BYTES, min(_MAX_BUFFER_BYTES, share))


@dataclass(frozen=True, slots=True)
class Channel:
    """What a subscription is about.

    Attributes:
        name: its name, such as ``queue:emails``.
        kind: the part of the name before the colon.
        value: the part after the colon: a job id or the name of a queue.
    """

    name: str
    kind: Literal["job", "queue", "all"]
    value: str = ""


@dataclass(slots=True, eq=False)
class Subscription:
    """The events of one channel that a subscriber wants.

    Attributes:
        subscriber: the subscriber that gets them.
        channel: the channel.
        types: types of events; ``job.*`` stands for all types that begin with ``job.``. An empty
            collection admits all.
        queues: names of queues; an empty collection admits all.
        within: the queues that the client may access, None for all.
        tenant: the tenant whose events the client may access, None for all.
    """

    subscriber: Subscriber
    channel: Channel
    types: Collection[str] = ()
    queues: Collection[str] = ()
    within: QueuePatterns | None = None
    tenant: str | None = None

    @property
    def wants_states(self) -> bool:
        """Whether it wants ``job.state_changed``."""
        return not self.types or STATE_CHANGED in self.types or "job.*" in self.types

    def wants_type(self, kind: str) -> bool:
        """Return whether it wants events of this type, apart from ``job.state_changed``."""
        types = self.types
        return not types or kind in types or f"{kind.partition('.')[0]}.*" in types

    def admits(self, queue: str, tenant: str) -> bool:
        """Return whether it wants events of this queue, and its client may access them.

        Args:
            queue: the queue of the event.
            tenant: the tenant of the event's jobs, '' for none.
        """
        return (
            (self.within is None or self.within.admits(queue))
            and (self.tenant is None or self.tenant == tenant)
            and (not self.queues or queue in self.queues)
        )

    def offer(self, item: Item) -> None:
        """Add an event to the buffer of the subscriber, if it wants events of this type.

        A channel of kind ``job`` always gets the last event of its job, because it ends the stream.
        """
        if isinstance(item, NewEvent) and not (
            self.wants_type(item.kind)
            or (item.changes_state and self.wants_states)
            or (item.ends_job and self.channel.kind == "job")
        ):
            return
        self.subscriber.add(self, item)


@dataclass(slots=True)
class Dropped:
    """The events of a channel that a subscriber has lost, because it read too slowly."""

    channel: str
    oldest: bytes
    newest: bytes
    count: int = 1


@dataclass(slots=True, eq=False)
class Subscriber:
    """One client that waits for events. Not thread-safe.

    Attributes:
        budget: bounds its buffer.
        reached: the position of the client in each stream, as a part of an event id (see
            ``positions``), by index of the shard.
    """

    budget: BufferBudget
    reached: dict[int, bytes] = field(default_factory=dict)
    _buffer: deque[tuple[Subscription, Item]] = field(default_factory=deque)
    _bytes: int = 0
    _dropped: dict[str, Dropped] = field(default_factory=dict)
    _added: trio.Event = field(default_factory=trio.Event)

    def add(self, subscription: Subscription, item: Item) -> None:
        """Add an event; drop the oldest ones if the buffer is full."""
        self._buffer.append((subscription, item))
        self._bytes += item.size
        while len(self._buffer) > self.budget.max_events or (
            self._bytes > self.budget.bytes_per_buffer and len(self._buffer) > 1
        ):
            self._drop_oldest()
        self._added.set()

    def _drop_oldest(self) -> None:
        subscription, item = self._buffer.popleft()
        self._bytes -= item.size
        event_id = item.event_id if isinstance(item, NewEvent) else b""
        dropped = self._dropped.get(subscription.channel.name)
        if dropped is None:
            name = subscription.channel.name
            self._dropped[name] = Dropped(name, event_id, event_id)
        else:
            dropped.count += 1
            dropped.newest = event_id or dropped.newest

    def take(self, max_bytes: int) -> tuple[list[Dropped], list[tuple[Subscription, Item]]]:
        """Take the records of dropped events, and the oldest events in the buffer.

        Args:
            max_bytes: maximum size of the events in bytes; the last one may exceed it.
        """
        dropped = list(self._dropped.values())
        self._dropped.clear()
        items: list[tuple[Subscription, Item]] = []
        while self._buffer and (not items or max_bytes > 0):
            taken = self._buffer.popleft()
            self._bytes -= taken[1].size
            max_bytes -= taken[1].size
            items.append(taken)
        return dropped, items

    def clear(self) -> None:
        """Forget everything in the buffer."""
        self._buffer.clear()
        self._dropped.clear()
        self._bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._buffer and not self._dropped

    def wake(self) -> None:
        """End the present ``wait``."""
        self._added.set()

    async def wait(self, seconds: float) -> None:
        """Wait until ``take`` would return something, ``wake`` is called or ``seconds`` pass."""
        if self.is_empty:
            self._added = trio.Event()
            with trio.move_on_after(seconds):
                await self._added.wait()
