"""Read events (spec: ojs-events).

Each shard has a stream of limited length to which its transitions append. A page merges the
streams, and leaves damaged entries out. Its cursor holds a position in every stream. (Rejected: one
point in time as the cursor. It would skip events, because the clocks of the masters differ.)
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from ojs_cluster.core.access.scopes import QueuePatterns
from ojs_cluster.core.errors import InvalidRequest
from ojs_cluster.core.timestamps import format_ms
from ojs_cluster.keys import META, Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.content import content_of
from ojs_cluster.store.features.events.entries import (
    DAMAGE,
    Position,
    events_of,
    is_position,
    position_of,
    range_start,
    start_position,
    text_of,
)
from ojs_cluster.store.ground import cursor as cursors
from ojs_cluster.store.ground.fanout import run_concurrently

log = logging.getLogger("ojs.store")

_SOURCE = b"ojs://ojs-cluster/api"
_CHUNK = 1000
_NEWEST_CHUNK = 200
"""Number of entries that one read for a page of ``read_newest`` returns. An entry has up to 16
events, which are decoded without a pause."""
MAX_NUMBERED = 10_000
"""Maximum number of events on all pages of ``read_newest`` together. Older events need a cursor."""
_AFTER_ALL = 1 << 30
"""Sorts the last event of an entry after the other events of this entry."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events a page contains; an empty collection admits every value.

    Args:
        types: event types; ``job.*`` stands for all types that begin with ``job.``.
        queues: names of queues.
        job_types: types of jobs.
        job_id: the id of one job.
        within: the queues that the caller may see, None for all.
        tenant: the tenant of the jobs, or that the event is about; None for any. Other events have
            no tenant.
        since_ms: the time of the oldest event in Unix milliseconds, None for any.
    """

    types: Collection[str] = ()
    queues: Collection[str] = ()
    job_types: Collection[str] = ()
    job_id: str | None = None
    within: QueuePatterns | None = None
    tenant: str | None = None
    since_ms: int | None = None

    def admits(self, fields: dict[bytes, bytes]) -> bool:
        """Return whether a page contains the event with these stream fields.

        Raises:
            KeyError, ValueError: the entry is damaged.
        """
        kind = fields[b"t"].decode()
        return (
            (not self.types or kind in self.types or f"{kind.partition('.')[0]}.*" in self.types)
            and (not self.queues or fields[b"q"].decode() in self.queues)
            and (not self.job_types or fields[b"y"].decode() in self.job_types)
            and (self.within is None or self.within.admits(fields[b"q"].decode()))
            and (self.tenant is None or fields.get(b"tn", b"").decode() == self.tenant)
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
    found: list[tuple[Position, int, bytes]] = []
    ends: dict[int, str] = {}
    more = gap = False

    async def read(shard: Shard | Meta) -> None:
        nonlocal more, gap
        after = positions.get(shard.index)
        if after is None and wanted.since_ms is not None:
            begin, dropped = await _position_at(store, shard, max(1, wanted.since_ms)), False
        else:
            begin, dropped = await start_position(store, shard, after)
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
            end = text_of(returned[-1]) if returned else positions[index]
        positions[index] = end
    return EventPage([event for _, _, event in page], _cursor(positions), bool(rest) or more, gap)


async def read_newest(
    store: Store, wanted: EventFilter, *, limit: int, offset: int = 0
) -> tuple[list[bytes], int]:
    """Return the events that ``wanted`` admits, newest first, and how many of them were found.

    The number is exact up to ``MAX_NUMBERED`` per stream, and a lower bound above it. It may
    include damaged events, which pages leave out.

    Args:
        store: the store.
        wanted: which events to return.
        limit: maximum number of events in the page.
        offset: how many newer events are skipped; with ``limit`` at most ``MAX_NUMBERED``.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    kept, oldest_id = offset + limit, f"{max(0, wanted.since_ms or 0)}-0"
    newest: list[tuple[tuple[int, int], int, int, dict[bytes, bytes]]] = []
    total = 0

    async def read(shard: Shard | Meta) -> None:
        nonlocal total
        found = 0
        end = "+"
        while found < MAX_NUMBERED:
            entries: Any = await store.redis.call(
                shard.slot,
                *("XREVRANGE", shard.events, end, oldest_id, "COUNT", _NEWEST_CHUNK),
                idempotent=True,
            )
            # Older events cannot be in the page. Other streams are not read while this loop runs.
            oldest = newest[kept - 1][:3] if len(newest) >= kept else None
            for raw_id, flat in entries:
                for (ms, sequence, number), fields in _wanted_events(raw_id, flat, None, wanted):
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
        event = _render_undamaged(position, index, fields)
        if event is not None:
            events.append(event)
    return events, total


async def _streams(store: Store, wanted: EventFilter) -> list[Shard | Meta]:
    """Return the shards that may have the events, and the meta tag."""
    selected = {
        shard
        for queue in wanted.queues
        for shard in await store.partitions.occupied_shards(store, queue)
    }
    if wanted.job_id is not None:
        # A client-chosen id does not name the shard of its job, so all shards are read.
        selected = set()
    return [*(sorted(selected, key=lambda shard: shard.index) or store.keys), store.keys.meta]


async def _position_at(store: Store, shard: Shard | Meta, since_ms: int) -> str:
    """Return the position after the last event of a stream before ``since_ms``.

    It is the position of an entry, so that the next page can tell whether entries were dropped.
    """
    before: Any = await store.redis.call(
        shard.slot,
        *("XREVRANGE", shard.events, f"({since_ms}-0", "-", "COUNT", 1),
        idempotent=True,
    )
    if before:
        text: str = before[0][0].decode()
        return text
    begin, _ = await start_position(store, shard, None)
    return begin


async def _read_shard(
    store: Store, shard: Shard | Meta, after: str, wanted: EventFilter, limit: int
) -> tuple[list[tuple[Position, bytes]], str, bool]:
    """Return admitted events, the position after them, and whether the stream has more."""
    admitted: list[tuple[Position, bytes]] = []
    end = after
    while len(admitted) < limit:
        reached = position_of(end)
        entries: Any = await store.redis.call(
            shard.slot,
            *("XRANGE", shard.events, range_start(reached), "+", "COUNT", _CHUNK),
            idempotent=True,
        )
        for raw_id, flat in entries:
            for position, fields in _wanted_events(raw_id, flat, reached, wanted):
                event = _render_undamaged(position, shard.index, fields)
                if event is not None:
                    end = text_of(position)
                    admitted.append((position, event))
                    if len(admitted) >= limit:
                        return admitted, end, True
            end = raw_id.decode()
        if len(entries) < _CHUNK:
            break
    return admitted, end, False


def _wanted_events(
    raw_id: bytes, flat: Any, reached: Position | None, wanted: EventFilter
) -> Iterator[tuple[Position, dict[bytes, bytes]]]:
    """Yield the admitted events of an entry after ``reached``, up to the first damaged one.

    The yielded fields change with the next event.
    """
    items = iter(flat)
    try:
        fields = dict(zip(items, items, strict=True))
        for position in events_of(raw_id, fields, reached):
            if (wanted.since_ms or 0) <= position[0] and wanted.admits(fields):
                yield position, fields
    except DAMAGE as error:
        log.debug("the damaged event %r is left out: %r", raw_id, error)


def _render_undamaged(position: Position, shard: int, fields: dict[bytes, bytes]) -> bytes | None:
    """Return an event as JSON, None for a damaged one.

    Numbers and errors are copied as they are, so a damaged one would make the page unreadable.
    """
    try:
        event = render(position, shard, fields)
        orjson.loads(event)
    except DAMAGE as error:
        log.debug("a damaged event of shard %d is left out: %r", shard, error)
        return None
    return event


def render(position: Position, shard: int, fields: dict[bytes, bytes]) -> bytes:
    """Return an event as JSON.

    Args:
        position: the position of the event in its stream.
        shard: index of the shard of the stream.
        fields: the fields of the entry, with the id of the one job in ``j``.

    Raises:
        KeyError, ValueError, OverflowError: the entry is damaged.
    """
    kind = fields[b"t"]
    subject, data = content_of(position[0], fields)
    when = format_ms(position[0])
    return (
        b'{"specversion":"1.0","id":"evt_%b-%d","type":"%b","event":"%b","source":"%b",'
        b'"time":"%b","timestamp":"%b","subject":"%b","datacontenttype":"application/json",'
        b'"data":{%b}}'
    ) % (text_of(position).encode(), shard, kind, kind, _SOURCE, when, when, subject, data)


def _positions(after: str | None, shards: int) -> dict[int, str]:
    if not after:
        return {}
    decoded = cursors.decode(after, field="after")
    if isinstance(decoded, dict) and all(
        isinstance(end, str) and is_position(end) for end in decoded.values()
    ):
        known = {str(index): index for index in (META, *range(shards))}
        if decoded.keys() <= known.keys():
            return {known[index]: end for index, end in decoded.items()}
    raise InvalidRequest("after is not a cursor of this server", field="after")


def _cursor(positions: dict[int, str]) -> str:
    return cursors.encode({str(index): end for index, end in sorted(positions.items())})
