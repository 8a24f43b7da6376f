"""The store: the Redis client with all that functions of the store need, and the caches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from ojs_cluster.core.jobs.ids import OrderedIds
from ojs_cluster.keys import Shard
from ojs_cluster.redis.client import Client
from ojs_cluster.store.ground.process_state.busy_workers import BusyWorkers
from ojs_cluster.store.ground.process_state.depth_cache import LimitedQueues, QueueDepthCache
from ojs_cluster.store.ground.process_state.depth_reader import DepthReader
from ojs_cluster.store.ground.process_state.job_counts import JobCounts
from ojs_cluster.store.ground.process_state.limit_keys import RateLimitKeyCounts
from ojs_cluster.store.ground.process_state.migration import LayoutState
from ojs_cluster.store.ground.process_state.noticed import NoticedPressure
from ojs_cluster.store.ground.process_state.partitions import PartitionTable
from ojs_cluster.store.ground.process_state.pool_table import PoolTable
from ojs_cluster.store.ground.process_state.queue_defaults_table import QueueDefaultsTable
from ojs_cluster.store.ground.process_state.registry import QueueRegistry
from ojs_cluster.store.ground.process_state.rejections import Rejections
from ojs_cluster.store.ground.process_state.room_groups import RoomGroups
from ojs_cluster.store.ground.process_state.schema_table import SchemaTable
from ojs_cluster.store.ground.process_state.tenant_table import TenantTable
from ojs_cluster.store.ground.process_state.touch import FetchTouches
from ojs_cluster.store.ground.process_state.unanswered_fetches import UnansweredFetches
from ojs_cluster.store.ground.process_state.unreachable_shards import (
    EffectClient,
    UnreachableShards,
)
from ojs_cluster.store.ground.process_state.webhook_table import WebhookTable
from ojs_cluster.store.ground.runtime import Arg, Runtime

EffectHandler = Callable[["Store", Shard, bytes], Awaitable[None]]
"""Takes the store, the shard of the outbox, and the payload of the effect.

A handler is idempotent: after an exception the outbox calls it again later (see ``outbox``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store(Runtime):
    """What functions of the store take as their first argument. ``open.open_store`` creates it.

    Args:
        effects: the handler of each kind of outbox effect.
        finish_transaction: applies a committed cross-shard transaction. A transaction cancels jobs
            by id, and a look-up by id may have to finish a transaction first, so an import would be
            a cycle.
        ids: creates job ids.
        limited_queues: queues whose fetches need the full path.
        bounded_queues: queues whose enqueues need the full path.
        delivered_entries: by shard, numbers of outbox entries that are delivered and not removed
            yet (see ``outbox.RECORD_DELAY_S``).

    The other attributes are caches, described by their classes.
    """

    effects: Mapping[str, EffectHandler]
    finish_transaction: EffectHandler
    ids: OrderedIds
    queues: QueueRegistry = field(default_factory=QueueRegistry)
    fetch_touches: FetchTouches = field(default_factory=FetchTouches)
    partitions: PartitionTable = field(default_factory=PartitionTable)
    depth_cache: QueueDepthCache = field(default_factory=QueueDepthCache)
    limited_queues: LimitedQueues = field(default_factory=LimitedQueues)
    limit_keys: RateLimitKeyCounts = field(default_factory=RateLimitKeyCounts)
    busy_workers: BusyWorkers = field(default_factory=BusyWorkers)
    bounded_queues: LimitedQueues = field(default_factory=LimitedQueues)
    delivered_entries: dict[int, list[str]] = field(default_factory=dict)
    rejections: Rejections = field(default_factory=Rejections)
    pressure: NoticedPressure = field(default_factory=NoticedPressure)
    room_groups: RoomGroups = field(default_factory=RoomGroups)
    depth_reader: DepthReader = field(default_factory=DepthReader)
    job_counts: JobCounts = field(default_factory=JobCounts)
    unanswered_fetches: UnansweredFetches = field(default_factory=UnansweredFetches)
    unreachable_shards: UnreachableShards = field(default_factory=UnreachableShards)
    webhooks: WebhookTable = field(default_factory=WebhookTable)
    schemas: SchemaTable = field(default_factory=SchemaTable)
    queue_defaults: QueueDefaultsTable = field(default_factory=QueueDefaultsTable)
    pools: PoolTable = field(default_factory=PoolTable)
    tenants: TenantTable = field(default_factory=TenantTable)
    layout: LayoutState = field(default_factory=LayoutState)

    @property
    def events_arg(self) -> Arg:
        """ARGV[1] of scripts that append events (``store/include/base/append_event.lua``).

        Scripts of fast paths take ``settings.events_per_shard`` instead. They must not run when a
        webhook subscription selects their event.
        """
        packed = self.webhooks.packed
        if not packed:
            return self.settings.events_per_shard
        hooks = self.settings.webhooks
        numbers = self.settings.events_per_shard, hooks.max_pending, hooks.max_stored
        return b"%d %d %d %b" % (*numbers, packed)

    def for_effect(self, *, patient: bool, probed: int | None = None) -> tuple[Store, EffectClient]:
        """Return the store as one outbox effect uses it, and its client.

        Args:
            patient: see ``EffectClient``.
            probed: see ``EffectClient``.
        """
        client = EffectClient(self.redis, self.unreachable_shards, patient=patient, probed=probed)
        return replace(self, redis=cast("Client", client)), client
