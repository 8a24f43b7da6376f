"""The store: the access to Redis, and the caches of this process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from ojs_cluster.core.jobs.ids import OrderedIds
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import Client
from ojs_cluster.store.fetch.depth_cache import LimitedQueues, QueueDepthCache
from ojs_cluster.store.fetch.depth_reader import DepthReader
from ojs_cluster.store.fetch.unanswered_fetches import UnansweredFetches
from ojs_cluster.store.limits.limit_keys import RateLimitKeyCounts
from ojs_cluster.store.outbox.unreachable_shards import EffectClient, UnreachableShards
from ojs_cluster.store.queues.partitions import PartitionTable
from ojs_cluster.store.queues.registry import QueueRegistry
from ojs_cluster.store.runtime import Runtime
from ojs_cluster.store.workers.touch import FetchTouches

Effect = Callable[["Store", Shard, bytes], Awaitable[None]]
"""Deliver one outbox effect of a shard, given its payload.

Idempotent: after an exception the outbox tries again later (see ``outbox``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store(Runtime):
    """The one entry point to the database. ``open.open_store`` creates it."""

    effects: Mapping[str, Effect]
    finish_transaction: Effect
    """Applies a committed cross-shard transaction.

    The store holds it to avoid an import cycle: a transaction cancels jobs by id, and a lookup by
    id may have to finish a transaction first."""
    ids: OrderedIds
    queues: QueueRegistry = field(default_factory=QueueRegistry)
    fetch_touches: FetchTouches = field(default_factory=FetchTouches)
    partitions: PartitionTable = field(default_factory=PartitionTable)
    depth_cache: QueueDepthCache = field(default_factory=QueueDepthCache)
    limited_queues: LimitedQueues = field(default_factory=LimitedQueues)
    limit_keys: RateLimitKeyCounts = field(default_factory=RateLimitKeyCounts)
    bounded_queues: LimitedQueues = field(default_factory=LimitedQueues)
    depth_reader: DepthReader = field(default_factory=DepthReader)
    unanswered_fetches: UnansweredFetches = field(default_factory=UnansweredFetches)
    unreachable_shards: UnreachableShards = field(default_factory=UnreachableShards)

    def for_effect(self, *, patient: bool, probed: int | None = None) -> tuple[Store, EffectClient]:
        """Return the store as one outbox effect uses it, and its client.

        Args:
            patient: as of ``EffectClient``.
            probed: as of ``EffectClient``.
        """
        client = EffectClient(self.redis, self.unreachable_shards, patient=patient, probed=probed)
        return replace(self, redis=cast("Client", client)), client
