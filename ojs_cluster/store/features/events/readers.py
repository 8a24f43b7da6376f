"""The shard readers of this process.

A reader starts with the first feed that needs its shard, and ends after the last one. So a process
without clients reads no events.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.keys import Meta, Shard
from ojs_cluster.redis.deadline import current_deadline
from ojs_cluster.store.context import Store
from ojs_cluster.store.features.events.loop_share import LoopShare
from ojs_cluster.store.features.events.positions import part_of
from ojs_cluster.store.features.events.shard_reader import ShardReader, Source

_READY_S: Final = 5.0
"""Longest time in seconds to wait for the positions of new readers."""
_LOOP_SHARE: Final = 0.08
"""Part of the time of the event loop that all readers together may use."""


class ReaderPool:
    """The readers of this process."""

    def __init__(self) -> None:
        """Begin without readers."""
        self._readers: dict[int, ShardReader] = {}
        self._share = LoopShare(_LOOP_SHARE)

    def __len__(self) -> int:
        """Return the number of shards that are read."""
        return len(self._readers)

    def use(self, store: Store, shard: Shard | Meta) -> ShardReader:
        """Return the reader of a shard, and add a user to it."""
        reader = self._readers.get(shard.index)
        if reader is None:
            reader = self._readers[shard.index] = ShardReader(store, shard, self._share)
            store.background.start(("events", shard.index), reader.run)
        reader.users += 1
        return reader

    def leave(self, reader: ShardReader) -> None:
        """Remove a user from a reader; end the reader if it was the last user."""
        reader.users -= 1
        if not reader.users:
            reader.ending.cancel()
            del self._readers[reader.shard.index]


class Readers:
    """The readers that one feed uses, and the sources that it has registered with them."""

    def __init__(self, pool: ReaderPool) -> None:
        """Begin without readers."""
        self._pool = pool
        self._readers: dict[int, ShardReader] = {}
        self._sources: list[Source] = []

    @property
    def shards(self) -> list[Shard | Meta]:
        """The shards that are read."""
        return [reader.shard for reader in self._readers.values()]

    @property
    def parts(self) -> dict[int, bytes]:
        """The present position of each reader, as a part of an event id, by index of the shard."""
        return {index: part_of(index, reader.position) for index, reader in self._readers.items()}

    def reader(self, index: int) -> ShardReader:
        """Return the reader of the shard with this index."""
        return self._readers[index]

    async def extend(self, store: Store, shards: Collection[Shard | Meta]) -> bool:
        """Add the readers of those shards that are not read yet; return whether there were any.

        Raises:
            BackendUnavailable: the position in one of the streams could not be read in time. No
                reader is added.
        """
        added = {
            shard.index: self._pool.use(store, shard)
            for shard in shards
            if shard.index not in self._readers
        }
        ready = False
        try:
            until = min(trio.current_time() + _READY_S, current_deadline().at)
            with trio.move_on_at(until):
                for reader in added.values():
                    await reader.ready.wait()
            ready = all(reader.ready.is_set() for reader in added.values())
        finally:
            if not ready:
                for reader in added.values():
                    self._pool.leave(reader)
        if not ready:
            raise BackendUnavailable(
                "the events of a shard cannot be read now", outcome="not_applied"
            )
        for index, reader in added.items():
            if index in self._readers:  # a concurrent call has added it
                self._pool.leave(reader)
                continue
            self._readers[index] = reader
            for source in self._sources:
                reader.register(source)
        return bool(added)

    def register(self, source: Source) -> None:
        """Offer new events of all these shards to a source from now on."""
        self._sources.append(source)
        for reader in self._readers.values():
            reader.register(source)

    def release(self) -> None:
        """Unregister all sources and leave all readers. May be called repeatedly."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            for source in self._sources:
                reader.unregister(source)
            self._pool.leave(reader)
