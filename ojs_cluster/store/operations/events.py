"""Read events (spec: ojs-events).

Each shard has a bounded stream that its transitions write. A page merges the shards; its cursor
holds the place in every stream, so nothing is skipped however the clocks of the masters differ,
which a cursor of one point in time could not promise.
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
from ojs_cluster.store.fanout import over_shards

_SOURCE = b"ojs://ojs-cluster/api"
_CHUNK = 1000
_EMPTY = "0-0"
"""The place in a stream that has no entry."""
_LAST = 1 << 30
# Nineteen digits fit into the 64 bits that Redis has for each number of an entry's id.
_is_place = re.compile(r"[0-9]{1,19}-[0-9]{1,19}(-[0-9]{1,6})?").fullmatch

_Place = tuple[int, int, int | None]
"""Of an event: both numbers of its entry, and how many of the entry's events it ends; None when it
is the last of them, as where there is only one."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What a page lets through; an empty set lets everything through. A type may end in ``.*``.

    ``within`` are the queues that the reader may reach, None for all.
    """

    types: Collection[str] = ()
    queues: Collection[str] = ()
    job_types: Collection[str] = ()
    job_id: str | None = None
    within: QueuePatterns | None = None

    def admits(self, fields: dict[bytes, bytes]) -> bool:
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
    """Events as JSON objects, oldest first; ``cursor`` goes on after the last one.

    ``gap``: since the cursor was given, a stream has dropped entries, so events may be missing.
    """

    events: list[bytes]
    cursor: str
    has_more: bool
    gap: bool


async def read_events(
    store: Store, wanted: EventFilter, *, after: str | None = None, limit: int = 100
) -> EventPage:
    """Events that ``wanted`` admits, after a cursor, merged over the shards by time.

    Args:
        limit: most events in the page. The work is bounded by the length of the streams.

    Raises:
        InvalidRequest: the cursor is not one of ours.
        BackendUnavailable: Redis did not answer in time.
    """
    places = _places(after, len(store.keys))
    only = {shard for queue in wanted.queues for shard in await store.partitions.held(store, queue)}
    if wanted.job_id is not None:
        only = set()  # a client's id does not name its queue's shard
    shards: list[Shard | Meta] = [
        *(sorted(only, key=lambda shard: shard.index) or store.keys),
        store.keys.meta,
    ]
    found: list[tuple[_Place, int, bytes]] = []
    ends: dict[int, str] = {}
    more = gap = False

    async def read(shard: Shard | Meta) -> None:
        nonlocal more, gap
        after = places.get(shard.index)
        begin, missed = await _beginning(store, shard, after)
        places[shard.index] = begin
        taken, end, rest = await _read_shard(store, shard, begin, wanted, limit)
        found.extend((at, shard.index, event) for at, event in taken)
        ends[shard.index] = end
        more, gap = more or rest, gap or missed

    await over_shards(shards, read)
    found.sort(key=lambda item: (item[0][:2], item[1], item[0][2] or _LAST))
    page, rest = found[:limit], found[limit:]
    # A shard whose last events did not fit goes on right after those that did.
    for index, end in ends.items():
        left = [at for at, shard, _ in rest if shard == index]
        if left:
            given = [at for at, shard, _ in page if shard == index]
            end = _text_of(given[-1]) if given else places[index]
        places[index] = end
    return EventPage([event for _, _, event in page], _cursor(places), bool(rest) or more, gap)


async def _beginning(store: Store, shard: Shard | Meta, after: str | None) -> tuple[str, bool]:
    """Where to read on in a stream, and whether entries that were not read are gone.

    A stream drops its oldest entries. While the entry is there that was read last, none after it
    is gone. Where nothing was read yet because the stream was empty, its length tells.
    """
    reached = _place_of(after or "")
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
) -> tuple[list[tuple[_Place, bytes]], str, bool]:
    """Up to ``limit`` admitted events, where they end, and whether the stream goes on."""
    taken: list[tuple[_Place, bytes]] = []
    end = after
    while len(taken) < limit:
        reached = _place_of(end)
        entries: Any = await store.redis.call(
            shard.slot,
            *("XRANGE", shard.events, _first(reached), "+", "COUNT", _CHUNK),
            idempotent=True,
        )
        for raw_id, flat in entries:
            items = iter(flat)
            fields = dict(zip(items, items, strict=True))
            for at in _events_of(raw_id, fields, reached):
                end = _text_of(at)
                if wanted.admits(fields):
                    taken.append((at, _render(at, shard.index, fields)))
                    if len(taken) >= limit:
                        return taken, end, True
        if len(entries) < _CHUNK:
            break
    return taken, end, False


def _first(reached: _Place | None) -> str:
    """Where to read on: an entry that may hold more is read again."""
    if reached is None:
        return "-"
    ms, sequence, position = reached
    return f"({ms}-{sequence}" if position is None else f"{ms}-{sequence}"


def _events_of(
    raw_id: bytes, fields: dict[bytes, bytes], reached: _Place | None
) -> Iterator[_Place]:
    """The places of an entry's events after ``reached``; ``fields`` are of each one in turn.

    Like events of one script share an entry, with their ids between blanks
    (``store/include/base/append_event.lua``).
    """
    ms, _, sequence = raw_id.decode().partition("-")
    ids = fields.get(b"j", b"").split(b" ")
    given = 0
    if reached is not None and reached[:2] == (int(ms), int(sequence)):
        given = reached[2] or 0
    for position, job_id in enumerate(ids[given:], given + 1):
        if len(ids) > 1:
            fields[b"j"] = job_id
        yield int(ms), int(sequence), position if position < len(ids) else None


def _text_of(place: _Place) -> str:
    return "-".join(str(part) for part in place if part is not None)


def _place_of(text: str) -> _Place | None:
    if not text:
        return None
    ms, sequence, *position = (int(part) for part in text.split("-"))
    return ms, sequence, position[0] if position else None


def _render(at: _Place, shard: int, fields: dict[bytes, bytes]) -> bytes:
    kind = fields[b"t"]
    queue = b'"queue":' + orjson.dumps(fields[b"q"].decode())
    if kind.startswith(b"queue."):
        subject, data = fields[b"q"], queue
    elif kind.startswith(b"cron."):
        subject, data = fields[b"c"], _cron_data(at[0], fields)
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
    when = format_ms(at[0])
    return (
        b'{"specversion":"1.0","id":"evt_%b-%d","type":"%b","event":"%b","source":"%b",'
        b'"time":"%b","timestamp":"%b","subject":"%b","datacontenttype":"application/json",'
        b'"data":{%b}}'
    ) % (_text_of(at).encode(), shard, kind, kind, _SOURCE, when, when, subject, data)


def _limit_data(fields: dict[bytes, bytes]) -> bytes:
    """Written in the shard of the key, which knows of a job nothing but its id."""
    members = [_text(b"key")(fields[b"k"])]
    if b"n" in fields:
        members += [_moment(b"until")(fields[b"n"]), b'"reason":"rate_limit_until"']
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


def _cron_data(at_ms: int, fields: dict[bytes, bytes]) -> bytes:
    named: list[tuple[bytes, bytes | None]] = [
        (b"cron_name", fields[b"c"]),
        (b"cron_expression", fields[b"x"]),
        (b"timezone", fields[b"z"]),
        (b"queue", fields[b"q"]),
        (b"job_type", fields[b"y"]),
        (b"reason", fields.get(b"w")),
        (b"active_job_id" if b"w" in fields else b"job_id", fields[b"j"] or None),
        (b"scheduled_time", format_ms(int(fields[b"s"]))),
        (b"actual_time", format_ms(at_ms)),
    ]
    text = b",".join(
        b'"%b":%b' % (label, orjson.dumps(value.decode()))
        for label, value in named
        if value is not None
    )
    return text + b',"run_count":' + fields[b"r"] if b"r" in fields else text


def _number(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, value)


def _moment(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":"%b"' % (label, format_ms(int(float(value))))


def _text(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b' % (label, orjson.dumps(value.decode()))


def _error(label: bytes) -> Callable[[bytes], bytes]:
    return lambda value: b'"%b":%b}' % (label, value)


_MEMBERS: dict[bytes, dict[bytes, Callable[[bytes], bytes]]] = {
    b"job.scheduled": {b"n": _moment(b"scheduled_at")},
    b"job.started": {b"w": _text(b"worker_id"), b"a": _number(b"attempt")},
    b"job.completed": {b"a": _number(b"attempt"), b"d": _number(b"duration_ms")},
    b"job.failed": {b"a": _number(b"attempt"), b"e": _error(b"error")},
    b"job.discarded": {b"a": _number(b"total_attempts"), b"e": _error(b"last_error")},
    b"job.retrying": {
        b"a": _number(b"attempt"),
        b"m": _number(b"max_attempts"),
        b"n": _moment(b"next_retry_at"),
        b"e": _error(b"error"),
    },
    b"job.heartbeat": {
        b"w": _text(b"worker_id"),
        b"a": _number(b"attempt"),
        b"n": _moment(b"visible_until"),
    },
    b"job.expired": {b"c": _moment(b"created_at"), b"x": _moment(b"expired_at")},
}
"""Per event type: stream field -> how it becomes a member of ``data``."""


def _places(after: str | None, shards: int) -> dict[int, str]:
    if not after:
        return {}
    decoded = cursors.decode(after, field="after")
    if isinstance(decoded, dict) and all(
        isinstance(end, str) and _is_place(end) for end in decoded.values()
    ):
        known = {str(index): index for index in (META, *range(shards))}
        if decoded.keys() <= known.keys():
            return {known[index]: end for index, end in decoded.items()}
    raise InvalidRequest("after is not a cursor that this server gave", field="after")


def _cursor(places: dict[int, str]) -> str:
    return cursors.encode({str(index): end for index, end in sorted(places.items())})
