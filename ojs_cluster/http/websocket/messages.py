"""The messages of WebSocket clients, and the replies (spec: ojs-realtime 3)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import orjson

from ojs_cluster.core.errors import InvalidRequest, OJSError
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.http.errors import entry_for
from ojs_cluster.http.push.announcements import Announcement
from ojs_cluster.store.features.events.positions import EventId, decode_id, id_of
from ojs_cluster.store.features.events.subscriber import Dropped, Subscriber, Subscription

MAX_CHANNELS: Final = 100
"""Maximum number of channels of one connection."""
MAX_TYPES: Final = 500
"""Maximum number of event types of all channels of one connection together. The connection keeps
them outside its buffer, so this bounds its memory: 50 types on each of 100 channels took 1 MB."""
_MAX_SUFFIX: Final = 2048
"""Maximum length of an id's list of channels, in characters."""


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


def warning(dropped: Dropped) -> str:
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
    """Writes event messages of one connection, with ids that a later connection resumes from.

    An id also contains the list of channels, unless the list is too long. So ``resume`` needs no
    state on the server.
    """

    def __init__(self, subscriber: Subscriber) -> None:
        """Write the events of ``subscriber``."""
        self._subscriber = subscriber
        self._suffix = ""

    def name_channels(self, subscriptions: Mapping[str, Subscription]) -> None:
        """Put these channels into the ids of the following messages.

        It is called for every subscribe message. So it stops as soon as the list is too long.
        """
        channels, length = [], 0
        self._suffix = ""
        for name, subscription in subscriptions.items():
            length += len(name) + sum(map(len, subscription.types))
            if length > _MAX_SUFFIX:
                return
            channels.append([name, sorted(subscription.types)])
        text = base64.urlsafe_b64encode(orjson.dumps(channels)).rstrip(b"=").decode()
        self._suffix = f";{text}" if len(text) <= _MAX_SUFFIX else ""

    def event(self, channel: str | None, announcement: Announcement) -> str:
        """Return the message of an event (spec: ojs-realtime 3.4)."""
        kind, data, at_ms, _ = announcement
        parts = [
            b'{"type":"event"',
            b"" if channel is None else b'"channel":%b' % orjson.dumps(channel),
            b'"event":"%b","data":%b,"id":"%b"' % (kind.encode(), data, self._id().encode()),
            b'"timestamp":"%b"}' % format_ms(at_ms),
        ]
        return b",".join(part for part in parts if part).decode()

    def _id(self) -> str:
        return id_of(self._subscriber.reached.values()).decode() + self._suffix


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
