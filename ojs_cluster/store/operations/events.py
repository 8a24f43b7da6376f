"""Read events (spec: ojs-events).

Each shard has a stream of limited length to which its transitions append. A page merges the
streams. Its cursor holds a position in every stream. (Refused: one point in time as the cursor. It
would skip events, because the clocks of the masters differ.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.keys import META, Meta, Shard
from ojs_cluster.store import cursor as cursors
from ojs_cluster.store.context import Store
from ojs_cluster.store.fanout import run_concurrently

_SOURCE = b"ojs://ojs-cluster/api"
_CHUNK = 1000
_NEWEST_CHUNK = 200
"""Entries of one read of a numbered page. An entry may stand for 16 events, and the events of one
reply are decoded without a pause."""
MOST_NUMBERED = 10_000
"""How many of the newest events numbered pages cover."""
_EMPTY = "0-0"
"""The position before the first entry of a stream."""
_AFTER_ALL = 1 << 30
"""Orders the last event of an entry after the others of that entry."""
# Nineteen digits fit into the 64 bits that Redis has for each number of an entry's id.
_is_position = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(-[0-9]{1,6})?").fullmatch

_Position = tuple[int, int, int | None]
"""Position of an event: both numbers of its entry's id, and the 1-based number of the event within
the entry. The last event of an entry has None as its number."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a page contains; an empty collection admits every value.

    Args:
        types: event types; ``job.*`` stands for all types that begin with ``job.``.
        queues: names of queues.
        job_types: types of jobs.
        job_id: the id of one job.
        within: the queues that the caller may see, None for all.
    """

    types: Collection[str] = ()
    queues: Collection[str] = ()
    job_types: Collection[str] = ()
    job_id: str | None = None
    within: QueuePatterns | None = None

    def admits(self, fields: dict[bytes, bytes]) -> bool:
        """Return whether a page contains the event with these stream fields."""
        kind = fields[b"t"].decode()
        return (
            (not self.types or kind in self.types or f"{kind.partition('.')[0]}.*" in self.types)
            and (not self.queues or fields[b"q"].decode() in self.queues)
            and (not self.job_types or fields[b"y"].decode() in self.job_types)
            and (self.within is None or self.within.admits(fields[b"q"].decode()))
            and (self.job_id is None or fields[b"j"].decode() == self.job_id)
        )


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of events.

    Args:
        events: JSON objects, oldest first.
        cursor: where the next page starts.
        has_more: whether events after this page exist already.
        gap: whether a stream has dropped entries after the cursor, so that events may be missing.
    """

    events: list[bytes]
    cursor: str
    has_more: bool
    gap: bool


async def read_events(
    store: Store, wanted: EventFilter, *, after: str | None = None, limit: int = 100
) -> EventPage:
    """Return the events after a cursor that ``wanted`` admits, merged over the shards by time.

    Args:
        store: the store.
        wanted: which events to return.
        after: the cursor of an earlier page; None for the oldest events.
        limit: maximum number of events in the page.

    Raises:
        InvalidRequest: this server did not create the cursor.
        BackendUnavailable: Redis did not answer in time.
    """
    positions = _positions(after, len(store.keys))
    shards = await _streams(store, wanted)
    found: list[tuple[_Position, int, bytes]] = []
    ends: dict[int, str] = {}
    more = gap = False

    async def read(shard: Shard | Meta) -> None:
        nonlocal more, gap
        after = positions.get(shard.index)
        begin, dropped = await _start_position(store, shard, after)
        positions[shard.index] = begin
        admitted, end, more_here = await _read_shard(store, shard, begin, wanted, limit)
        found.extend((position, shard.index, event) for position, event in admitted)
        ends[shard.index] = end
        more, gap = more or more_here, gap or dropped

    await run_concurrently(shards, read)
    found.sort(key=lambda item: (item[0][:2], item[1], item[0][2] or _AFTER_ALL))
    page, rest = found[:limit], found[limit:]
    # If events of a shard did not fit, its next page starts after the last one that did.
    for index, end in ends.items():
        if any(shard == index for _, shard, _ in rest):
            returned = [position for position, shard, _ in page if shard == index]
            end = _text_of(returned[-1]) if returned else positions[index]
        positions[index] = end
    return EventPage([event for _, _, event in page], _cursor(positions), bool(rest) or more, gap)


async def read_newest(
    store: Store, wanted: EventFilter, *, limit: int, offset: int = 0
) -> tuple[list[bytes], int]:
    """Return the events that ``wanted`` admits, newest first, and how many of them were found.

    The number is exact up to ``MOST_NUMBERED`` per stream, and a lower bound above it.

    Args:
        store: the store.
        wanted: which events to return.
        limit: most events in the page.
        offset: how many newer events are skipped; with ``limit`` at most ``MOST_NUMBERED``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    kept = offset + limit
    newest: list[tuple[tuple[int, int], int, int, dict[bytes, bytes]]] = []
    total = 0

    async def read(shard: Shard | Meta) -> None:
        nonlocal total
        found = 0
        end = "+"
        while found < MOST_NUMBERED:
            entries: Any = await store.redis.call(
                shard.slot,
                *("XREVRANGE", shard.events, end, "-", "COUNT", _NEWEST_CHUNK),
                idempotent=True,
            )
            # Older events cannot be in the page. Other streams are not read while this loop runs.
            oldest = newest[kept - 1][:3] if len(newest) >= kept else None
            for raw_id, flat in entries:
                items = iter(flat)
                fields = dict(zip(items, items, strict=True))
                for ms, sequence, number in _events_of(raw_id, fields, None):
                    if not wanted.admits(fields):
                        continue
                    found += 1
                    order = (ms, sequence), shard.index, number or _AFTER_ALL
                    if oldest is not None and order < oldest:
                        continue
                    newest.append((*order, dict(fields)))
            newest.sort(key=lambda item: item[:3], reverse=True)
            del newest[kept:]
            if len(entries) < _NEWEST_CHUNK:
                break
            end = f"({entries[-1][0].decode()}"
        total += found

    await run_concurrently(await _streams(store, wanted), read)
    events = []
    for (ms, sequence), index, number, fields in newest[offset:]:
        position = ms, sequence, None if number == _AFTER_ALL else number
        events.append(_render(position, index, fields))
    return events, total


async def _streams(store: Store, wanted: EventFilter) -> list[Shard | Meta]:
    """Return the shards that may have the events, and the meta tag."""
    selected = {
        shard
        for queue in wanted.queues
        for shard in await store.partitions.occupied_shards(store, queue)
    }
    if wanted.job_id is not None:
        selected = set()  # an id chosen by a client does not name the shard of its queue
    return [*(sorted(selected, key=lambda shard: shard.index) or store.keys), store.keys.meta]


async def _start_position(store: Store, shard: Shard | Meta, after: str | None) -> tuple[str, bool]:
    """Return the position after which to read a stream, and whether unread entries were dropped.

    A stream drops its oldest entries first. So while it still has the last read entry, no unread
    entry was dropped. If no entry was read because the stream was empty, a stream that has its full
    length by now may have dropped entries.
    """
    reached = _position_of(after or "")
    first = "-" if reached is None else f"{reached[0]}-{reached[1]}"
    entries: Any = await store.redis.call(
        shard.slot, *("XRANGE", shard.events, first, "+", "COUNT", 1), idempotent=True
    )
    begin = f"{entries[0][0].decode()}-0" if entries else _EMPTY
    if after is None:
        return begin, False
    if after == _EMPTY:
        length: Any = await store.redis.call(shard.slot, "XLEN", shard.events, idempotent=True)
        return begin, bool(entries) and length >= store.settings.events_per_shard
    if begin.startswith(f"{first}-"):
        return after, False
    return begin, True


async def _read_shard(
    store: Store, shard: Shard | Meta, after: str, wanted: EventFilter, limit: int
) -> tuple[list[tuple[_Position, bytes]], str, bool]:
    """Return admitted events, the position after them, and whether the stream has more."""
    admitted: list[tuple[_Position, bytes]] = []
    end = after
    while len(admitted) < limit:
        reached = _position_of(end)
        entries: Any = await store.redis.call(
            shard.slot,
            *("XRANGE", shard.events, _range_start(reached), "+", "COUNT", _CHUNK),
            idempotent=True,
        )
        for raw_id, flat in entries:
            items = iter(flat)
            fields = dict(zip(items, items, strict=True))
            for position in _events_of(raw_id, fields, reached):
                end = _text_of(position)
                if wanted.admits(fields):
                    admitted.append((position, _render(position, shard.index, fields)))
                    if len(admitted) >= limit:
                        return admitted, end, True
        if len(entries) < _CHUNK:
            break
    return admitted, end, False


def _range_start(reached: _Position | None) -> str:
    """Return the start of the next XRANGE. It repeats an entry that may hold more events."""
    if reached is None:
        return "-"
    ms, sequence, number = reached
    return f"({ms}-{sequence}" if number is None else f"{ms}-{sequence}"


def _events_of(
    raw_id: bytes, fields: dict[bytes, bytes], reached: _Position | None
) -> Iterator[_Position]:
    """Yield the positions of an entry's events after ``reached``; update ``fields`` for each.

    Events of one script that differ only in their job share an entry, with the job ids separated by
    blanks (``store/include/base/append_event.lua``).
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


def _text_of(position: _Position) -> str:
    return "-".join(str(part) for part in position if part is not None)


def _position_of(text: str) -> _Position | None:
    if not text:
        return None
    ms, sequence, *number = (int(part) for part in text.split("-"))
    return ms, sequence, number[0] if number else None


def _render(position: _Position, shard: int, fields: dict[bytes, bytes]) -> bytes:
    kind = fields[b"t"]
    queue = b'"queue":' + orjson.dumps(fields[b"q"].decode())
    if kind.startswith(b"queue."):
        subject, data = fields[b"q"], queue
    elif kind.startswith(b"cron."):
        subject, data = fields[b"c"], _cron_data(position[0], fields)
    elif kind.startswith(b"rate_limit."):
        subject, data = fields[b"k"], _limit_data(fields)
    elif kind.startswith(b"workflow."):
        subject, data = fields[b"j"], fields[b"D"]
    else:
        subject = fields[b"j"]
        data = b'"job_id":"%b","job_type":%b,%b' % (
            subject,
            orjson.dumps(fields[b"y"].decode()),
            queue,
        )
        for name, member in _MEMBERS.get(kind, {}).items():
            value = fields.get(name)
            if value is not None:
                data += b"," + member(value)
    when = format_ms(position[0])
    return (
        b'{"specversion":"1.0","id":"evt_%b-%d","type":"%b","event":"%b","source":"%b",'
        b'"time":"%b","timestamp":"%b","subject":"%b","datacontenttype":"application/json",'
        b'"data":{%b}}'
    ) % (_text_of(position).encode(), shard, kind, kind, _SOURCE, when, when, subject, data)


def _limit_data(fields: dict[bytes, bytes]) -> bytes:
    """Return the data of a rate limit event. The shard of the key knows only the id of a job."""
    members = [_text(b"key")(fields[b"k"])]
    if b"n" in fields:
        members += [_time(b"until")(fields[b"n"]), b'"reason":"rate_limit_until"']
    for name, member in (
        (b"j", _text(b"job_id")),
        (b"y", _text(b"job_type")),
        (b"q", _text(b"queue")),
        (b"s", _text(b"strategy")),
        (b"l", _number(b"limit")),
        (b"u", _number(b"current")),
    ):
        if fields.get(name):
            members.append(member(fields[name]))
    return b",".join(members)


def _cron_data(fired_ms: int, fields: dict[bytes, bytes]) -> bytes:
    members: list[tuple[bytes, bytes | None]] = [
        (b"cron_name", fields[b"c"]),
        (b"cron_expression", fields[b"x"]),
        (b"timezone", fields[b"z"]),
        (b"queue", fields[b"q"]),
        (b"job_type", fields[b"y"]),
        (b"reason", fields.get(b"w")),
        (b"active_job_id" if b"w" in fields else b"job_id", fields[b"j"] or None),
        (b"scheduled_time", format_ms(int(fields[b"s"]))),
        (b"actual_time", format_ms(fired_ms)),
    ]
    text = b",".join(
        b'"%b":%b' % (label, orjson.dumps(value.decode()))
        for label, value in members
        if value is not None
    )
    return text + b',"run_count":' + fields[b"r"] if b"r" in fields else text


def _number(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, value)


def _time(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":"%b"' % (label, format_ms(int(float(value))))


def _text(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, orjson.dumps(value.decode()))


def _error(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b}' % (label, value)


_MEMBERS: dict[bytes, dict[bytes, Callable[[bytes], bytes]]] = {
    b"job.scheduled": {b"n": _time(b"scheduled_at")},
    b"job.started": {b"w": _text(b"worker_id"), b"a": _number(b"attempt")},
    b"job.completed": {b"a": _number(b"attempt"), b"d": _number(b"duration_ms")},
    b"job.failed": {b"a": _number(b"attempt"), b"e": _error(b"error")},
    b"job.discarded": {b"a": _number(b"total_attempts"), b"e": _error(b"last_error")},
    b"job.retrying": {
        b"a": _number(b"attempt"),
        b"m": _number(b"max_attempts"),
        b"n": _time(b"next_retry_at"),
        b"e": _error(b"error"),
    },
    b"job.heartbeat": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"n": _time(b"visible_until"),
    },
    b"job.progress": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"p": _number(b"progress_percent"),
        b"g": _text(b"progress_message"),
    },
    b"job.checkpointed": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"n": _number(b"sequence"),
    },
    b"job.expired": {b"c": _time(b"created_at"), b"x": _time(b"expired_at")},
}
"""Per event type: the stream fields that become members of ``data``, with their writers."""


def _positions(after: str | None, shards: int) -> dict[int, str]:
    if not after:
        return {}
    decoded = cursors.decode(after, field="after")
    if isinstance(decoded, dict) and all(
        isinstance(end, str) and _is_position(end) for end in decoded.values()
    ):
        known = {str(index): index for index in (META, *range(shards))}
        if decoded.keys() <= known.keys():
            return {known[index]: end for index, end in decoded.items()}
    raise InvalidRequest("after is not a cursor of this server", field="after")


def _cursor(positions: dict[int, str]) -> str:
    return cursors.encode({str(index): end for index, end in sorted(positions.items())})
