"""Positions in several event streams as one opaque id, which clients return to go on after it.

An id has a part for each stream that a subscription reads. So any process of the cluster can go on
at the same event. (Rejected: a number per process, which means nothing after a reconnect to another
process; and one point in time, because the clocks of the masters differ.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ojs_cluster.store.features.events.entries import Position

_MAX_LENGTH: Final = 32_768
"""Longest id that is read, in characters. An id of 1024 shards is shorter."""
_CLOCK_SKEW_MS: Final = 20_000
"""How far the clocks of masters may differ (docs/operations.md)."""
_ENDED: Final = "~"
_is_part: Final = re.compile(
    r"([0-9a-f]{1,3})\.([0-9a-f]{1,16})\.([0-9a-f]{1,16})(?:\.([0-9a-f]{1,5}))?(h?)"
).fullmatch


@dataclass(frozen=True, slots=True)
class Start:
    """Where a subscription goes on in one stream.

    Attributes:
        position: the last position that the client has read.
        half: whether the client has got the ``job.state_changed`` of the next event, but not the
            event itself.
        approximate: whether the position is only a time, because the client has not read the
            stream.
    """

    position: Position
    half: bool = False
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class EventId:
    """A decoded id.

    Attributes:
        starts: the position in each stream, by the index of its shard.
        ended: whether the event was the last one of its job.
    """

    starts: Mapping[int, Start]
    ended: bool = False

    def starts_of(self, shards: Iterable[int]) -> dict[int, Start] | None:
        """Return the position from which each stream is read; None if the id has none of them.

        If the queue has got a new partition since, the id lacks the stream of that partition. Such
        a stream is read from shortly before the newest position of the id. So events may come
        twice, but none is missed.
        """
        known = [self.starts[index] for index in shards if index in self.starts]
        if not known:
            return None
        newest_ms = max(start.position[0] for start in known)
        unread = Start((max(0, newest_ms - _CLOCK_SKEW_MS), 0, None), approximate=True)
        return {index: self.starts.get(index, unread) for index in shards}


def part_of(shard: int, position: Position, *, half: bool = False) -> bytes:
    """Return the part of an id for one stream; see ``Start`` for ``half``."""
    ms, sequence, number = position
    # The meta tag has the index -1.
    text = b"%x.%x.%x" % (shard + 1, ms, sequence)
    if number is not None:
        text += b".%x" % number
    return text + b"h" if half else text


def id_of(parts: Iterable[bytes], *, ended: bool = False) -> bytes:
    """Return the id with these parts; see ``EventId`` for ``ended``."""
    return b"_".join(parts) + (b"~" if ended else b"")


def decode_id(text: str, shards: int) -> EventId | None:
    """Return the id that ``id_of`` has written; None for any other text.

    Args:
        text: the id.
        shards: the number of shards of this cluster.
    """
    if not text or len(text) > _MAX_LENGTH:
        return None
    starts: dict[int, Start] = {}
    for part in text.removesuffix(_ENDED).split("_"):
        found = _is_part(part)
        if found is None:
            return None
        index, ms, sequence, number = (
            None if digits is None else int(digits, 16) for digits in found.groups()[:4]
        )
        if index is None or ms is None or sequence is None or index > shards:
            return None
        starts[index - 1] = Start((ms, sequence, number), bool(found[5]))
    return EventId(starts, text.endswith(_ENDED))
