"""Encode events as server-sent events (spec: ojs-realtime 2.3, 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.store.events.new_event import STATE_CHANGED, Gap
from ojs_cluster.store.events.positions import id_of, part_of
from ojs_cluster.store.events.subscriber import Dropped, Item, Subscriber, Subscription

RETRY: Final = b"retry: 3000\n"
HEARTBEAT: Final = b":heartbeat\n"
SHUTDOWN: Final = "server.shutdown"
_STATE_CHANGED: Final = STATE_CHANGED.encode()


class FrameEncoder:
    """Encodes the events of one subscriber, and keeps its position.

    Attributes:
        ended: whether the last event was the last one of the job that the channel is about.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        """Encode the events of ``subscriber``."""
        self._subscriber = subscriber
        self.ended = False

    def event_id(self) -> bytes:
        """Return the id of the present position."""
        return id_of(self._subscriber.reached.values(), ended=self.ended)

    def position(self) -> bytes:
        """Return a block that tells the client its position, without an event."""
        return b"id: %b\n\n" % self.event_id()

    def items(self, items: Iterable[tuple[Subscription, Item]]) -> bytes:
        """Encode events. Events after the last one of the job are left out."""
        pieces: list[bytes] = []
        for subscription, item in items:
            if not self.ended:
                pieces += self._encode(subscription, item)
        return b"".join(pieces)

    def _encode(self, subscription: Subscription, item: Item) -> list[bytes]:
        reached = self._subscriber.reached
        if isinstance(item, Gap):
            reached[item.shard] = part_of(item.shard, item.after)
            return [self.event("system.gap", gap_data(subscription.channel.name, item))]
        pieces = []
        own = subscription.wants_type(item.kind)
        states = item.changes_state and subscription.wants_states
        ends = item.ends_job and subscription.channel.kind == "job"
        if states and own:
            # The client may disconnect between the two. Its id then says that it lacks the second.
            reached[item.shard] = part_of(item.shard, item.before, half=True)
            pieces.append(self._frame(_STATE_CHANGED, item.data))
        reached[item.shard] = part_of(item.shard, item.after)
        self.ended = ends
        if own:
            pieces.append(self._frame(item.kind.encode(), item.data))
        elif states:
            pieces.append(self._frame(_STATE_CHANGED, item.data))
        return pieces

    def event(self, kind: str, data: object) -> bytes:
        """Encode an event that is in no stream, at the present position."""
        return self._frame(kind.encode(), orjson.dumps(data))

    def dropped(self, dropped: Iterable[Dropped], now_ms: int) -> bytes:
        """Encode what the client has lost, because it read too slowly."""
        pieces = []
        for one in dropped:
            pieces.append(b":events-dropped %d\n" % one.count)
            pieces.append(self.event("system.events_dropped", dropped_data(one, now_ms)))
        return b"".join(pieces)

    def _frame(self, kind: bytes, data: bytes) -> bytes:
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (self.event_id(), kind, data)


def gap_data(channel: str, gap: Gap) -> dict[str, object]:
    """Return the data of ``system.gap`` (spec: ojs-realtime 4.5)."""
    return {
        "channel": channel,
        "gap_start": format_ms(gap.start_ms).decode(),
        "gap_end": format_ms(gap.end_ms).decode(),
    }


def dropped_data(dropped: Dropped, now_ms: int) -> dict[str, object]:
    """Return the data of ``system.events_dropped`` (spec: ojs-realtime 4.4)."""
    return {
        "channel": dropped.channel,
        "dropped_count": dropped.count,
        "oldest_dropped_id": dropped.oldest.decode(),
        "newest_dropped_id": dropped.newest.decode(),
        "timestamp": format_ms(now_ms).decode(),
    }
