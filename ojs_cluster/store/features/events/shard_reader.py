"""Read the new events of one shard, for all subscribers of the process together.

The reader polls the shard's stream: every 50 ms while there are events, up to every 250 ms while
there are none. (Rejected: XREAD BLOCK, which takes a connection for each shard and process; and a
message by each transition, which costs time when there is no subscriber.) The server that replaces
a failed master may lack the last events. The reader then does not find the last entry that it has
read, and offers a ``Gap`` to the feeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.errors import RedisReplyError, ReplyTooLarge
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.entries import DAMAGE, Position
from ojs_cluster.store.features.events.loop_share import LoopShare
from ojs_cluster.store.features.events.new_event import Gap, new_event
from ojs_cluster.store.features.events.subscriber import Channel, Item, Subscription

log = logging.getLogger("ojs.store")

CHUNK: Final = 200
"""Maximum number of entries of one read. An entry has up to 16 events."""
BUSY_S: Final = 0.05
"""Pause in seconds after a read that found entries."""
IDLE_S: Final = 0.25
"""Maximum pause in seconds after a read that found no entry."""
_SLOWER: Final = 1.5
"""Factor by which the pause grows after each read that found no entry."""
_RETRY_S: Final = 0.5
"""Pause in seconds after a failed read."""
BEGIN: Final[Position] = (0, 0, None)
"""The position before the first entry of a stream."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A subscription, and the function that gets its events."""

    subscription: Subscription
    add: Callable[[Subscription, Item], None]

    @property
    def channel(self) -> Channel:
        """The channel of the subscription."""
        return self.subscription.channel

    def offer(self, item: Item) -> None:
        """Add an event, if the subscription wants events of this type."""
        if self.subscription.wants(item):
            self.add(self.subscription, item)


class ShardReader:
    """Reads one stream and offers its events to the sources that are registered with it."""

    def __init__(self, store: Store, shard: Shard | Meta, share: LoopShare) -> None:
        """Read nothing until ``run``. ``share`` limits the time of the event loop."""
        self.shard = shard
        self.users = 0
        """The number of feeds that need this reader."""
        self.position: Position = BEGIN
        """The last position whose events were offered."""
        self.ready = trio.Event()
        """Set when ``position`` is known."""
        self.ending = trio.CancelScope()
        self._store = store
        self._by_job: dict[str, dict[Source, None]] = {}
        self._by_queue: dict[str, dict[Source, None]] = {}
        self._all: dict[Source, None] = {}
        self._share = share

    def register(self, source: Source) -> None:
        """Offer events to a source from now on."""
        self._registered(source.channel)[source] = None

    def unregister(self, source: Source) -> None:
        """Offer no further events to a source."""
        channel = source.channel
        registered = self._registered(channel)
        registered.pop(source, None)
        if not registered and channel.kind != "all":
            by_value = self._by_job if channel.kind == "job" else self._by_queue
            by_value.pop(channel.value, None)

    def _registered(self, channel: Channel) -> dict[Source, None]:
        if channel.kind == "all":
            return self._all
        by_value = self._by_job if channel.kind == "job" else self._by_queue
        return by_value.setdefault(channel.value, {})

    async def run(self) -> None:
        """Read until ``ending`` is cancelled."""
        pause_s = BUSY_S
        with self.ending:
            while True:
                try:
                    pause_s = await self._read_once(pause_s)
                except (BackendUnavailable, RedisReplyError, ReplyTooLarge) as error:
                    log.debug("cannot read events of shard %d: %s", self.shard.index, error)
                    pause_s = _RETRY_S
                except Exception:  # the subscribers depend on this task
                    log.exception("cannot read events of shard %d", self.shard.index)
                    pause_s = _RETRY_S
                await trio.sleep(pause_s)

    async def _read_once(self, pause_s: float) -> float:
        """Read new entries, and return the pause after it in seconds, given the last pause."""
        if not self.ready.is_set():
            self.position = await self._newest()
            self.ready.set()
            return BUSY_S
        count = await self._read()
        if count:
            return 0 if count >= CHUNK else BUSY_S
        return min(IDLE_S, max(BUSY_S, pause_s) * _SLOWER)

    async def _newest(self) -> Position:
        entries: Any = await self._call("XREVRANGE", "+", "-", "COUNT", 1)
        return _entry_end(entries[0][0]) if entries else BEGIN

    async def _call(self, command: str, *args: Any) -> Any:
        shard = self.shard
        return await self._store.redis.call(
            shard.slot, command, shard.events, *args, idempotent=True
        )

    async def _read(self) -> int:
        """Offer the entries after ``position``; return their number.

        The read begins with the last entry that was read. If the stream does not have it any more,
        entries after it may be missing as well.
        """
        ms, sequence, _ = self.position
        entries: Any = await self._call("XRANGE", f"{ms}-{sequence}", "+", "COUNT", CHUNK + 1)
        if self.position == BEGIN:
            pass
        elif entries and entries[0][0] == b"%d-%d" % (ms, sequence):
            del entries[0]
        else:
            await self._tell_gap(entries)
        for raw_id, flat in entries:
            await self._offer(raw_id, flat)
        return len(entries)

    async def _tell_gap(self, entries: Any) -> None:
        start_ms = self.position[0]
        if entries:
            ms, sequence, _ = _entry_end(entries[0][0])
            self.position = ms, sequence, 0
        else:
            self.position = await self._newest()
        end_ms = max(start_ms, self.position[0])
        gap = Gap(self.shard.index, self.position, start_ms, end_ms)
        for registered in (self._all, *self._by_queue.values(), *self._by_job.values()):
            for source in registered:
                source.offer(gap)

    async def _offer(self, raw_id: bytes, flat: Any) -> None:
        """Offer the events of one entry. A damaged entry is left out."""
        began, end = perf_counter(), _entry_end(raw_id)
        try:
            items = iter(flat)
            fields = dict(zip(items, items, strict=True))
            self._offer_events(end, fields)
        except DAMAGE as error:
            log.warning("a damaged event of shard %d is left out: %r", self.shard.index, error)
        self.position = end
        # Only between entries: a source that is registered during the pause gets all later events,
        # and knows ``position`` as its start.
        await self._share.spend(perf_counter() - began)

    def _offer_events(self, end: Position, fields: dict[bytes, bytes]) -> None:
        ms, sequence, _ = end
        queue, tenant = fields[b"q"].decode(), fields.get(b"tn", b"").decode()
        listening = [*self._all, *(self._by_queue.get(queue, ()) if queue else ())]
        ids = fields.get(b"j", b"").split(b" ")
        for number, job_id in enumerate(ids, 1):
            after = (ms, sequence, number if number < len(ids) else None)
            wanted = listening
            if self._by_job:
                wanted = [*listening, *self._by_job.get(job_id.decode(), ())]
            wanted = [one for one in wanted if one.subscription.admits(queue, tenant)]
            if wanted:
                if len(ids) > 1:
                    fields[b"j"] = job_id
                event = new_event(self.shard.index, (ms, sequence, number - 1), after, fields)
                for source in wanted:
                    source.offer(event)
            self.position = after


def _entry_end(raw_id: bytes) -> Position:
    ms, _, sequence = raw_id.decode().partition("-")
    return int(ms), int(sequence), None
