"""The messages of WebSocket clients, and the replies (spec: ojs-realtime 3)."""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.push.announcements import DROPPED, Announcement, announce, dropped_data
from ojs_cluster.store.features.events.feed import Dropped
from ojs_cluster.store.features.events.positions import EventId, decode_id, id_of
from ojs_cluster.store.features.events.subscriber import Item, Subscription

MAX_CHANNELS: Final = 100
"""Maximum number of channels of one connection."""
MAX_TYPES: Final = 500
"""Maximum number of event types of all channels of one connection together. The connection keeps
them outside its buffer, so this bounds its memory: 50 types on each of 100 channels took 1 MB."""
_MAX_SUFFIX: Final = 2048
"""Maximum length of an id's list of channels, in characters."""
_TEXT: Final = 0x81
"""First byte of a frame that is a whole text message."""
_TWO_BYTES: Final = 126
"""Second byte of a frame whose length follows in two bytes. Shorter lengths are in this byte."""
_EIGHT_BYTES: Final = 65_536
"""Smallest length that is written in eight bytes."""


class ClientMessage(msgspec.Struct, frozen=True):
    """A message of a client. The admin UI sends ``type`` instead of ``action``."""

    action: str = ""
    type: str = ""
    channel: str = ""
    event_types: list[str] | None = None
    last_event_id: str = ""


_decoder = msgspec.json.Decoder(ClientMessage)


def read_message(text: str | None) -> ClientMessage:
    """Return the message in a text frame.

    Args:
        text: the text, None for a binary frame.

    Raises:
        InvalidRequest: the frame is not a message of the protocol.
    """
    if text is None:
        raise InvalidRequest("send messages as text")
    try:
        return _decoder.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise InvalidRequest("the message is not a JSON object of the protocol") from None


def confirmation(kind: str, channel: str, types: Iterable[str] | None) -> str:
    """Return the message of type ``kind``: ``subscribed`` or ``unsubscribed``."""
    message: dict[str, Any] = {"type": kind, "channel": channel}
    if types:
        message["event_types"] = sorted(types)
    return orjson.dumps(message).decode()


def error_message(error: OJSError, channel: str) -> str:
    """Return the message for an error. ``channel`` is its channel, '' for none."""
    message = {"type": "error", "code": entry_for(error).code, "message": error.message}
    if channel:
        message["channel"] = channel[:300]
    return orjson.dumps(message).decode()


def unknown_event_id() -> str:
    """Return the error for an id that the server does not know (spec: ojs-realtime 5.5.2)."""
    message = "Event ID not found in buffer. Perform a full state sync."
    return orjson.dumps({"type": "error", "code": "unknown_event_id", "message": message}).decode()


def _warning(dropped: Dropped) -> str:
    """Return the warning about dropped events (spec: ojs-realtime 5.4)."""
    return orjson.dumps(
        {
            "type": "warning",
            "code": "events_dropped",
            "count": dropped.count,
            "channel": dropped.channel,
            "oldest_dropped_id": dropped.oldest.decode(),
            "newest_dropped_id": dropped.newest.decode(),
        }
    ).decode()


class EventMessages:
    """Writes event messages, with ids that a later connection resumes from.

    An id also contains the list of channels, unless the list is too long. So ``resume`` needs no
    state on the server.

    Attributes:
        reached: see ``feed.Encoder``.
        ended: see ``feed.Encoder``. A connection goes on after the end of a job.
    """

    ended = False

    def __init__(self, subscriptions: Sequence[Subscription] = ()) -> None:
        """Begin without a position, and put the channels of ``subscriptions`` into the ids."""
        self.reached: dict[int, bytes] = {}
        self._suffix = ""
        self.name_channels(subscriptions)

    def name_channels(self, subscriptions: Iterable[Subscription]) -> None:
        """Put these channels into the ids of the following messages.

        It is called for every subscribe message. So it stops as soon as the list is too long.
        """
        channels, length = [], 0
        self._suffix = ""
        for subscription in subscriptions:
            name = subscription.channel.name
            length += len(name) + sum(map(len, subscription.types))
            if length > _MAX_SUFFIX:
                return
            channels.append([name, sorted(subscription.types)])
        text = base64.urlsafe_b64encode(orjson.dumps(channels)).rstrip(b"=").decode()
        self._suffix = f";{text}" if len(text) <= _MAX_SUFFIX else ""

    def messages(self, subscription: Subscription, item: Item) -> list[bytes]:
        """Return the messages of an event."""
        name = subscription.channel.name
        return [
            self.event(name, one).encode() for one in announce(self.reached, subscription, item)
        ]

    def dropped(self, position: bytes, dropped: Iterable[Dropped], at_ms: int) -> list[bytes]:
        """Return the messages about events that the client has lost."""
        texts = []
        for lost in dropped:
            announcement = Announcement(DROPPED, orjson.dumps(dropped_data(lost, at_ms)), at_ms)
            texts.append(_warning(lost))
            texts.append(self.event(lost.channel, announcement, position))
        return [text.encode() for text in texts]

    def frame(self, messages: Sequence[bytes]) -> bytes:
        """Return messages as frames of a WebSocket (RFC 6455 5.2)."""
        pieces = []
        for message in messages:
            size = len(message)
            if size < _TWO_BYTES:
                pieces.append(bytes((_TEXT, size)))
            elif size < _EIGHT_BYTES:
                pieces.append(struct.pack("!BBH", _TEXT, _TWO_BYTES, size))
            else:
                pieces.append(struct.pack("!BBQ", _TEXT, _TWO_BYTES + 1, size))
            pieces.append(message)
        return b"".join(pieces)

    def event(
        self, channel: str | None, announcement: Announcement, position: bytes | None = None
    ) -> str:
        """Return the message of an event (spec: ojs-realtime 3.4).

        Args:
            channel: its channel, None for none.
            announcement: the event.
            position: the position after it, by default ``reached``.
        """
        kind, data, at_ms, _ = announcement
        at = id_of(self.reached.values()) if position is None else position
        event_id = at + self._suffix.encode()
        parts = [
            b'{"type":"event"',
            b"" if channel is None else b'"channel":%b' % orjson.dumps(channel),
            b'"event":"%b","data":%b,"id":"%b"' % (kind.encode(), data, event_id),
            b'"timestamp":"%b"}' % format_ms(at_ms),
        ]
        return b",".join(part for part in parts if part).decode()


def decode_resumed(text: str, shards: int) -> tuple[EventId, list[tuple[str, list[str]]]] | None:
    """Return the position in an id, and its channels with their event types.

    Args:
        text: the id.
        shards: the number of shards of this cluster.

    Returns:
        None if this cluster has not created the id.
    """
    position, separator, suffix = text.partition(";")
    event_id = decode_id(position, shards)
    if event_id is None:
        return None
    if not separator:
        return event_id, []
    try:
        decoded = base64.urlsafe_b64decode(suffix + "=" * (-len(suffix) % 4))
        channels = msgspec.json.decode(decoded, type=list[tuple[str, list[str]]])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
    return (event_id, channels) if len(channels) <= MAX_CHANNELS else None
