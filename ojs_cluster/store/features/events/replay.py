"""Read the events between the position of a client and the present (spec: ojs-realtime 5.5)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import trio

from ojs_cluster.keys import Meta, Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.entries import (
    DAMAGE,
    Position,
    events_of,
    position_of,
    range_start,
    start_position,
    text_of,
)
from ojs_cluster.store.features.events.new_event import Gap, new_event
from ojs_cluster.store.features.events.positions import EventId, Start
from ojs_cluster.store.features.events.readers import Readers
from ojs_cluster.store.features.events.shard_reader import BEGIN, BUSY_S, CHUNK, ShardReader
from ojs_cluster.store.features.events.subscriber import Item, Subscription

Found = tuple[Subscription, Item]
Deliver = Callable[[list[Found]], Awaitable[None]]

_ROUNDS: Final = 5
"""Maximum number of rounds over all streams before the last round."""
_FEW: Final = 100
"""A round with fewer events than this is followed by the last round. During the last round, new
events wait in the feed, so it must be short."""
_CATCH_UP_S: Final = 2.0
"""Maximum time in seconds to wait for a reader that is behind the client."""


async def replay(
    store: Store,
    readers: Readers,
    subscriptions: Sequence[Subscription],
    starts: Mapping[int, Start],
    deliver: Deliver,
    follow: Callable[[], None],
) -> None:
    """Deliver the events after ``starts``, and let the client follow the following ones.

    No event is left out and none comes twice: the last round ends at the positions at which the
    readers were when ``follow`` was called. The order of events is that of each stream.

    Args:
        store: the store.
        readers: the readers of all shards of the channels.
        subscriptions: what to deliver.
        starts: the position of the client in each stream.
        deliver: takes the next events.
        follow: makes the client follow its feed. It is called before the last round.

    Raises:
        BackendUnavailable: Redis did not answer in time.
    """
    begin = dict(starts)
    found = 0
    for number in range(_ROUNDS + 1):
        if not number:
            for index, start in starts.items():
                if not start.approximate:  # the stream may have no event at that time
                    await _catch_up(readers.reader(index), start.position)
        last = number == _ROUNDS or (number > 0 and found < _FEW)
        if last:
            follow()
        # Without a pause after ``follow``: readers offer the events after these positions.
        ends = {shard.index: readers.reader(shard.index).position for shard in readers.shards}
        # Another client of the feed may have found a new partition.
        begin = EventId(begin).starts_of(ends) or begin
        found = 0
        for shard in readers.shards:
            start, end = begin[shard.index], ends[shard.index]
            found += await _between(store, shard, start, end, subscriptions, deliver)
            begin[shard.index] = Start(end)
        if last:
            return


async def _catch_up(reader: ShardReader, position: Position) -> None:
    """Wait until a reader has reached a position that another process has reached already.

    Without this wait, the client would get events a second time. After a failover the stream may
    lack the position, so the wait is bounded.
    """
    with trio.move_on_after(_CATCH_UP_S):
        while _order(reader.position) < _order(position):  # noqa: ASYNC110 - the reader polls
            await trio.sleep(BUSY_S)


def _order(position: Position) -> tuple[int, int, float]:
    ms, sequence, number = position
    return ms, sequence, float("inf") if number is None else number


async def _between(
    store: Store,
    shard: Shard | Meta,
    start: Start,
    end: Position,
    subscriptions: Sequence[Subscription],
    deliver: Deliver,
) -> int:
    """Deliver the events of one stream after ``start`` and up to ``end``; return their number."""
    position = start.position
    if _order(position) > _order(end) and not start.approximate:
        # The stream has lost its last entries in a failover.
        gap = Gap(shard.index, end, end[0], max(end[0], position[0]))
        await deliver([(subscription, gap) for subscription in subscriptions])
    if _order(position) >= _order(end):
        return 0
    if not start.approximate:
        text, dropped = await start_position(store, shard, text_of(position))
        if dropped:
            position = position_of(text) or BEGIN
            end_ms = max(start.position[0], position[0])
            gap = Gap(shard.index, position, start.position[0] or end_ms, end_ms)
            await deliver([(subscription, gap) for subscription in subscriptions])
            start = Start(position)
    half, count = start.half, 0
    while True:
        entries: Any = await store.redis.call(
            shard.slot,
            *("XRANGE", shard.events, range_start(position), f"{end[0]}-{end[1]}"),
            *("COUNT", CHUNK),
            idempotent=True,
        )
        items: list[Found] = []
        for raw_id, flat in entries:
            found, position = _events(raw_id, flat, position, end, shard.index, subscriptions)
            items += found
        if half and items:
            items = [_without_state(item, start.position) for item in items]
            half = False
        count += len(items)
        await deliver(items)
        if len(entries) < CHUNK:
            return count


def _events(
    raw_id: bytes,
    flat: Any,
    reached: Position,
    end: Position,
    shard: int,
    subscriptions: Sequence[Subscription],
) -> tuple[list[Found], Position]:
    """Return the wanted events of an entry, and the position after the entry or at ``end``."""
    items: list[Found] = []
    pairs = iter(flat)
    try:
        fields = dict(zip(pairs, pairs, strict=True))
        for position in events_of(raw_id, fields, reached):
            if _order(position) > _order(end):
                break
            before = (position[0], position[1], _number_before(position, reached))
            reached = position
            wanted = [one for one in subscriptions if _concerns(one, fields)]
            if wanted:
                event = new_event(shard, before, position, fields)
                items += [(subscription, event) for subscription in wanted]
    except DAMAGE:
        pass  # a damaged entry, which its shard reader logs
    ms, _, sequence = raw_id.decode().partition("-")
    whole = int(ms), int(sequence), None
    return items, min(whole, end, key=_order)


def _number_before(position: Position, reached: Position) -> int:
    """Return how many events of the entry precede the one at ``position``."""
    if position[2] is not None:
        return position[2] - 1
    return (reached[2] or 0) if reached[:2] == position[:2] else 0


def _concerns(subscription: Subscription, fields: Mapping[bytes, bytes]) -> bool:
    queue, channel = fields[b"q"].decode(), subscription.channel
    if channel.kind == "job" and fields.get(b"j", b"").decode() != channel.value:
        return False
    if channel.kind == "queue" and queue != channel.value:
        return False
    return subscription.admits(queue, fields.get(b"tn", b"").decode())


def _without_state(found: Found, start: Position) -> Found:
    """Return the event at ``start`` without its change of state, which the client has read."""
    subscription, item = found
    if isinstance(item, Gap) or _order(item.before) != _order(start):
        return found
    return subscription, replace(item, changes_state=False)
