"""Entries of the event streams, and the positions of events in them.

Events of one script that differ only in their job share an entry, with the job ids separated by
blanks (``store/include/base/append_event.lua``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store

DAMAGE = KeyError, ValueError, OverflowError
"""The exceptions that a damaged entry causes when its fields are read."""
EMPTY = "0-0"
"""The position before the first entry of a stream."""
# Nineteen digits fit into the 64 bits that Redis has for each number of an entry's id.
is_position = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(-[0-9]{1,6})?").fullmatch

Position = tuple[int, int, int | None]
"""Position of an event: both numbers of its entry's id, and the 1-based number of the event within
the entry. The last event of an entry has None as its number. 0 is the position before the first
event of the entry."""


async def start_position(store: Store, shard: Shard | Meta, after: str | None) -> tuple[str, bool]:
    """Return the position after which to read a stream, and whether unread entries were dropped.

    A stream drops its oldest entries first. So while it still has the entry at ``after``, no later
    entry was dropped. If the stream was empty at ``after``, it may have dropped entries only when
    it has reached its maximum length.
    """
    reached = position_of(after or "")
    first = "-" if reached is None else f"{reached[0]}-{reached[1]}"
    entries: Any = await store.redis.call(
        shard.slot, *("XRANGE", shard.events, first, "+", "COUNT", 1), idempotent=True
    )
    begin = f"{entries[0][0].decode()}-0" if entries else EMPTY
    if after is None:
        return begin, False
    if after == EMPTY:
        length: Any = await store.redis.call(shard.slot, "XLEN", shard.events, idempotent=True)
        return begin, bool(entries) and length >= store.settings.events_per_shard
    if begin.startswith(f"{first}-"):
        return after, False
    return begin, True


def range_start(reached: Position | None) -> str:
    """Return the start of the next XRANGE. It repeats an entry that may hold more events."""
    if reached is None:
        return "-"
    ms, sequence, number = reached
    return f"({ms}-{sequence}" if number is None else f"{ms}-{sequence}"


def events_of(
    raw_id: bytes, fields: dict[bytes, bytes], reached: Position | None
) -> Iterator[Position]:
    """Yield the positions of an entry's events after ``reached``; update ``fields`` for each.

    Args:
        raw_id: the id of the entry.
        fields: its fields; ``j`` becomes the id of the job of each event.
        reached: the position of the last event that was read, in this entry or before it; None if
            none was read.
    """
    ms, _, sequence = raw_id.decode().partition("-")
    ids = fields.get(b"j", b"").split(b" ")
    skipped = 0
    if reached is not None and reached[:2] == (int(ms), int(sequence)):
        skipped = reached[2] or 0
    for number, job_id in enumerate(ids[skipped:], skipped + 1):
        if len(ids) > 1:
            fields[b"j"] = job_id
        yield int(ms), int(sequence), number if number < len(ids) else None


def text_of(position: Position) -> str:
    """Return a position as text, which cursors contain."""
    return "-".join(str(part) for part in position if part is not None)


def position_of(text: str) -> Position | None:
    """Return the position that ``text_of`` has written; None for an empty text."""
    if not text:
        return None
    ms, sequence, *number = (int(part) for part in text.split("-"))
    return ms, sequence, number[0] if number else None
