"""Encode events as server-sent events (spec: ojs-realtime 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, starmap
from typing import Final

import orjson

from ojs_cluster.http.push.announcements import DROPPED, announce, dropped_data
from ojs_cluster.store.features.events.feed import Dropped
from ojs_cluster.store.features.events.new_event import NewEvent
from ojs_cluster.store.features.events.positions import id_of
from ojs_cluster.store.features.events.subscriber import Item, Subscription

RETRY: Final = b"retry: 3000\n"
"""Tells the client to reconnect 3000 ms after the end of a connection."""
HEARTBEAT: Final = b":heartbeat\n"


class FrameEncoder:
    """Encodes events, with the ids of their positions.

    Attributes:
        reached: see ``feed.Encoder``.
        ended: see ``feed.Encoder``.
    """

    def __init__(self, _subscriptions: Sequence[Subscription] = ()) -> None:
        """Begin without a position."""
        self.reached: dict[int, bytes] = {}
        self.ended = False

    @property
    def position(self) -> bytes:
        """The id of the position after the last event."""
        return id_of(self.reached.values(), ended=self.ended)

    def items(self, items: Iterable[tuple[Subscription, Item]]) -> bytes:
        """Encode events. Events after the last one of the job are left out."""
        return b"".join(chain.from_iterable(starmap(self.messages, items)))

    def messages(self, subscription: Subscription, item: Item) -> list[bytes]:
        """Encode an event. Events after the last one of the job are left out."""
        frames: list[bytes] = []
        if self.ended:
            return frames
        ends_job = isinstance(item, NewEvent) and item.ends_job
        ends_stream = ends_job and subscription.channel.kind == "job"
        for kind, data, _, last in announce(self.reached, subscription, item):
            self.ended = ends_stream and last  # before the frame, whose id contains it
            frames.append(_frame(self.position, kind, data))
        self.ended = ends_stream  # also without an announcement
        return frames

    def dropped(self, position: bytes, dropped: Iterable[Dropped], at_ms: int) -> list[bytes]:
        """Encode how many events the client has lost, because it read too slowly."""
        frames = []
        for lost in dropped:
            frames.append(b":events-dropped %d\n" % lost.count)
            frames.append(event_block(position, DROPPED, dropped_data(lost, at_ms)))
        return frames

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return messages as a chunk of an HTTP/1.1 body (RFC 9112 7.1)."""
        size = sum(map(len, messages))
        return b"%x\r\n%b\r\n" % (size, b"".join(messages)) if size else b""


def position_block(position: bytes) -> bytes:
    """Return a block that tells the client its position, without an event."""
    return b"id: %b\n\n" % position


def event_block(position: bytes, kind: str, data: object) -> bytes:
    """Encode an event that the server itself makes."""
    return _frame(position, kind, orjson.dumps(data))


def _frame(position: bytes, kind: str, data: bytes) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (position, kind.encode(), data)
