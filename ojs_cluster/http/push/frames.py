"""Encode events as server-sent events (spec: ojs-realtime 2.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from ojs_cluster.http.push.announcements import DROPPED, announce, dropped_data
from ojs_cluster.store.features.events.new_event import NewEvent
from ojs_cluster.store.features.events.positions import id_of
from ojs_cluster.store.features.events.subscriber import Dropped, Item, Subscriber, Subscription

RETRY: Final = b"retry: 3000\n"
"""Tells the client to reconnect 3000 ms after the end of a connection."""
HEARTBEAT: Final = b":heartbeat\n"


class FrameEncoder:
    """Encodes the events of one subscriber, with the ids of its positions.

    Attributes:
        ended: whether the job of the channel has ended, and its last event is encoded.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        """Encode the events of ``subscriber``."""
        self._subscriber = subscriber
        self.ended = False

    def position(self) -> bytes:
        """Return a block that tells the client its position, without an event."""
        return b"id: %b\n\n" % self._id()

    def items(self, items: Iterable[tuple[Subscription, Item]]) -> bytes:
        """Encode events. Events after the last one of the job are left out."""
        pieces: list[bytes] = []
        for subscription, item in items:
            if self.ended:
                break
            ends_job = isinstance(item, NewEvent) and item.ends_job
            ends_stream = ends_job and subscription.channel.kind == "job"
            for kind, data, _, last in announce(subscription, item):
                self.ended = ends_stream and last  # before the frame, whose id contains it
                pieces.append(self._frame(kind.encode(), data))
            self.ended = ends_stream  # also without an announcement
        return b"".join(pieces)

    def event(self, kind: str, data: object) -> bytes:
        """Encode an event that the server itself makes. Its id is the present position."""
        return self._frame(kind.encode(), orjson.dumps(data))

    def dropped(self, dropped: Iterable[Dropped], at_ms: int) -> bytes:
        """Encode how many events the client has lost, because it read too slowly."""
        pieces = []
        for lost in dropped:
            pieces.append(b":events-dropped %d\n" % lost.count)
            pieces.append(self.event(DROPPED, dropped_data(lost, at_ms)))
        return b"".join(pieces)

    def _id(self) -> bytes:
        return id_of(self._subscriber.reached.values(), ended=self.ended)

    def _frame(self, kind: bytes, data: bytes) -> bytes:
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (self._id(), kind, data)
