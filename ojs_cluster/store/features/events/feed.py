"""Feeds: encoded events, and the clients that follow them.

All clients with the same subscriptions follow the same feed. So an event is encoded once for all of
them, and waits in memory once. A client that reads slowly loses its oldest events, and learns how
many (spec: ojs-realtime 5.4). So it costs bounded memory, and delays no other client.

The events of a feed are a linked list. Each follower holds the last entry that it has got, so the
entries that all followers have got are freed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.new_event import NewEvent
from ojs_cluster.store.features.events.positions import id_of
from ojs_cluster.store.features.events.readers import Readers
from ojs_cluster.store.features.events.subscriber import Item, Subscription

_MIN_BUFFER_BYTES: Final = 16 * 1024
_MAX_BUFFER_BYTES: Final = 1024 * 1024
_OVERHEAD: Final = 400
"""Bytes of the Python objects of an entry besides its messages."""
_PIECE_BYTES: Final = 64 * 1024
"""Maximum number of bytes of events that a client gets at once. A client that reads slowly keeps so
many bytes in memory."""


class BufferBudget:
    """The memory that the feeds of a process may use together for events that clients have not got.

    Each feed may use an equal part. A feed always has room for one event.
    """

    def __init__(self, max_bytes: int, max_events: int) -> None:
        """Begin without feeds.

        Args:
            max_bytes: maximum size in bytes of all feeds together.
            max_events: maximum number of events in each feed.
        """
        self._max_bytes = max_bytes
        self.max_events = max_events
        self.feeds = 0

    @property
    def bytes_per_feed(self) -> int:
        """Maximum size in bytes of each feed now."""
        share = self._max_bytes // max(1, self.feeds)
        return max(_MIN_BUFFER_BYTES, min(_MAX_BUFFER_BYTES, share))


class Encoder(Protocol):
    """Encodes the events of one feed.

    Attributes:
        reached: the position after the last encoded event in each stream, as a part of an event id
            (see ``positions``), by index of the shard. The feed may replace parts.
        ended: whether the job of the channel has ended, and its last event is encoded.
    """

    reached: dict[int, bytes]
    ended: bool

    def messages(self, subscription: Subscription, item: Item) -> list[bytes]:
        """Return the messages of an event."""
        ...

    def dropped(self, position: bytes, dropped: Iterable[Dropped], at_ms: int) -> list[bytes]:
        """Return the messages about dropped events.

        Args:
            position: the id of the position before them.
            dropped: the records of the dropped events.
            at_ms: the present time, in Unix milliseconds.
        """
        ...

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return messages as bytes of an HTTP/1.1 connection."""
        ...


@dataclass(slots=True)
class Dropped:
    """The events of a channel that a client has lost, because it read too slowly."""

    channel: str
    oldest: bytes
    newest: bytes
    count: int = 1


class Entry:
    """One event of a feed.

    Attributes:
        position: the id of the position after the event.
        messages: the encoded event; empty once all followers have got it.
        size: its size in bytes.
        channel: the name of its channel.
        event_id: its id in listings; empty for a gap.
        next: the next event that is kept; None if there is none yet.
        followers: the number of followers whose last event it is.
        lost: the dropped events between it and ``next``, by channel.
        piece: the piece after it, shared by its followers; None if none is made.
    """

    __slots__ = (
        *("channel", "event_id", "followers", "lost", "messages"),
        *("next", "piece", "position", "size"),
    )

    def __init__(
        self,
        position: bytes,
        messages: Sequence[bytes] = (),
        channel: str = "",
        event_id: bytes = b"",
    ) -> None:
        """Make an entry without a successor."""
        self.position = position
        self.messages = messages
        self.size = sum(map(len, messages)) + len(position) + _OVERHEAD
        self.channel = channel
        self.event_id = event_id
        self.next: Entry | None = None
        self.followers = 0
        self.lost: dict[str, Dropped] = {}
        self.piece: Piece | None = None

    def lose(self, entry: Entry) -> None:
        """Note that the followers of this entry lose the next one."""
        lost, name = self.lost.get(entry.channel), entry.channel
        if lost is None:
            self.lost[name] = Dropped(name, entry.event_id, entry.event_id)
        else:
            lost.count += 1
            lost.newest = entry.event_id or lost.newest
        self.next, self.piece = entry.next, None


class Piece:
    """Some consecutive events of a feed, which many followers get.

    Attributes:
        messages: their messages, after those about events that were dropped before them.
        last: the last of them.
    """

    __slots__ = ("_frame", "_framed", "last", "messages")

    def __init__(
        self,
        dropped: list[bytes],
        first: Entry,
        frame: Callable[[Sequence[bytes]], bytes],
    ) -> None:
        """Contain ``first`` and the events after it, but at most ``_PIECE_BYTES`` of them."""
        self.messages = [*dropped, *first.messages]
        self.last = first
        self._frame = frame
        self._framed: bytes | None = None
        size = first.size
        while (entry := self.last.next) is not None and (size := size + entry.size) < _PIECE_BYTES:
            self.messages += entry.messages
            self.last = entry

    @property
    def framed(self) -> bytes:
        """The messages as bytes of an HTTP/1.1 connection."""
        if self._framed is None:
            self._framed = self._frame(self.messages)
        return self._framed


class Feed:
    """The events of some subscriptions.

    Attributes:
        key: names the feed.
        encoder: encodes the events.
        readers: the readers of the shards of the channels.
        users: the number of clients that need the feed.
        followers: the clients that follow it.
        newest: the last event, or the entry before the first one.
        notify: see ``__init__``.
    """

    def __init__(
        self,
        key: object,
        encoder: Encoder,
        readers: Readers,
        budget: BufferBudget,
        notify: Callable[[Feed], None],
        now_ms: Callable[[], int],
    ) -> None:
        """Begin without events.

        Args:
            key: names the feed.
            encoder: encodes the events.
            readers: the readers of the shards of the channels.
            budget: the bound of the memory.
            notify: called when followers are behind.
            now_ms: returns the present time, in Unix milliseconds.
        """
        self.key = key
        self.encoder = encoder
        self.readers = readers
        self.users = 0
        self.followers: dict[Follower, None] = {}
        self.newest = self._base = Entry(b"")
        self.notify = notify
        self._budget = budget
        self._now_ms = now_ms
        self._waiting: deque[Entry] = deque()
        """The events after ``_base``, which some followers have not got."""
        self._bytes = 0
        self._losers: dict[Entry, None] = {}
        """Entries whose followers have lost events."""

    async def extend(self, store: Store, shards: Collection[Shard | Meta]) -> None:
        """Read those shards, too.

        Raises:
            BackendUnavailable: the position in one of the streams could not be read in time.
        """
        if await self.readers.extend(store, shards):
            self.encoder.reached = {**self.readers.parts, **self.encoder.reached}

    def add(self, subscription: Subscription, item: Item) -> None:
        """Add an event; drop the oldest ones if the feed is full."""
        messages = self.encoder.messages(subscription, item)
        event_id = item.event_id if isinstance(item, NewEvent) else b""
        position = id_of(self.encoder.reached.values(), ended=self.encoder.ended)
        entry = Entry(position, messages, subscription.channel.name, event_id)
        self.newest.next = entry
        self.newest = entry
        self._waiting.append(entry)
        self._bytes += entry.size
        self.free()
        waiting, budget = self._waiting, self._budget
        while len(waiting) > budget.max_events or (
            self._bytes > budget.bytes_per_feed and len(waiting) > 1
        ):
            if self._base.followers:
                self._losers[self._base] = None
            for loser in self._losers:
                loser.lose(waiting[0])
            self._pop()
        if waiting:
            self.notify(self)

    def piece_after(self, entry: Entry, first: Entry) -> Piece:
        """Return the next events of the followers of ``entry``, which begin with ``first``."""
        dropped: list[bytes] = []
        if entry.lost:
            at_ms = self._now_ms()
            dropped = self.encoder.dropped(entry.position, entry.lost.values(), at_ms)
        return Piece(dropped, first, self.encoder.frame)

    def free(self) -> None:
        """Free the events that all followers have got."""
        while self._waiting and not self._base.followers and not self._losers:
            self._pop()

    def _pop(self) -> None:
        self._base = self._waiting.popleft()
        self._bytes -= self._base.size
        self._base.messages = ()

    def forget_loser(self, entry: Entry) -> None:
        """Note that no follower is at an entry any more."""
        entry.piece = None
        self._losers.pop(entry, None)
        self.free()

    def refresh(self) -> None:
        """Move the position of ``newest`` to that of the readers.

        So it passes events that no client of the feed wants.
        """
        self.encoder.reached.update(self.readers.parts)
        self.newest.position = id_of(self.encoder.reached.values(), ended=self.encoder.ended)


class Output(Protocol):
    """The connection of a client.

    Attributes:
        can_send_now: whether ``send_now`` may be called.
    """

    can_send_now: bool

    def send_now(self, data: bytes) -> bool:
        """Send bytes of HTTP/1.1 without waiting; return whether all of them are sent.

        Otherwise the task of the client must send the rest.
        """
        ...

    def end_sends(self, deadline: float) -> None:
        """Close the connection if it still sends something at ``deadline``, in trio's seconds."""
        ...


class Follower:
    """One client of a feed. Not thread-safe.

    The task of the client waits in ``wait``. Meanwhile the fan-out (``fan_out``) calls ``push``.

    Attributes:
        output: the connection; None if the task of the client sends everything.
        sent_at: trio's time, in seconds, when ``push`` has last sent something.
    """

    def __init__(self) -> None:
        """Follow no feed yet."""
        self.output: Output | None = None
        self.sent_at = 0.0
        self._waits = False
        self._held = False
        self._feed: Feed | None = None
        self._entry = Entry(b"")
        self._has_turn = False
        self._woken = trio.Event()

    def follow(self, feed: Feed) -> None:
        """Get the events of ``feed`` from now on, instead of those of an earlier feed."""
        self.leave()
        self._feed = feed
        feed.followers[self] = None
        feed.refresh()
        self._entry = feed.newest
        self._entry.followers += 1

    def leave(self) -> None:
        """Get no further events. May be called repeatedly."""
        feed, self._feed = self._feed, None
        if feed is not None:
            del feed.followers[self]
            entry, self._entry = self._entry, Entry(b"")
            _leave(feed, entry)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Send nothing during the block except what its task sends."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self.wake()  # to wait again, and so get a turn

    @property
    def is_ready(self) -> bool:
        """Whether ``push`` may be called."""
        return self._waits and not self._held and self.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether there is something to take."""
        return self._entry.next is not None

    @property
    def has_ended(self) -> bool:
        """Whether the client has got the last event of its job."""
        feed = self._feed
        return feed is not None and feed.encoder.ended and not self.is_behind

    @property
    def position(self) -> bytes:
        """The id of the position after the last event that was taken."""
        feed = self._feed
        if feed is not None and self._entry is feed.newest:
            feed.refresh()
        return self._entry.position

    def next_piece(self) -> Piece:
        """Return the next events, and advance behind them."""
        feed, entry = self._feed, self._entry
        assert feed is not None and entry.next is not None  # noqa: S101,PT018 - ``is_behind``
        if entry.piece is None:
            entry.piece = feed.piece_after(entry, entry.next)
        piece = entry.piece
        self._entry = piece.last
        self._entry.followers += 1
        _leave(feed, entry)
        return piece

    def skip(self) -> None:
        """Take all events, and drop them."""
        while self.is_behind:
            self.next_piece()

    def push(self) -> bool:
        """Send the next events, or wake the task to do it; return whether the task was woken."""
        output = self.output
        if output is None or not output.can_send_now:
            self._has_turn = True
            self.wake()
            return True
        piece = self.next_piece()
        self.sent_at = trio.current_time()
        if not output.send_now(piece.framed) or self.has_ended:
            self.wake()
            return True
        return False

    def wake(self) -> None:
        """End the present ``wait``, or the next one."""
        self._woken.set()
        self._waits = False

    async def wait(self, seconds: float) -> bool:
        """Wait until the task must send something, ``wake`` is called or ``seconds`` pass.

        Returns:
            Whether the task may take the next events.
        """
        self._has_turn = False
        self._waits = True
        if self._feed is not None and self.is_behind:
            self._feed.notify(self._feed)
        try:
            with trio.move_on_after(seconds):
                await self._woken.wait()
        finally:
            self._waits = False
            self._woken = trio.Event()
        return self._has_turn


def _leave(feed: Feed, entry: Entry) -> None:
    entry.followers -= 1
    if not entry.followers:
        feed.forget_loser(entry)
