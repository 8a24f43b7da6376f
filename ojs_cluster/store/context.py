"""What every store function needs, and the checks made once before any of them runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import trio

from ojs_cluster.core.ids import OrderedIds
from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.client import Client, open_client
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import ClientSettings
from ojs_cluster.store.away import AwayShards
from ojs_cluster.store.contacts import FetchContacts
from ojs_cluster.store.hints import Hints, LimitedQueues
from ojs_cluster.store.lost_fetches import LostFetches, Release
from ojs_cluster.store.partitions import Partitions
from ojs_cluster.store.registry import QueueRegistry
from ojs_cluster.store.scripts import load_scripts

log = logging.getLogger("ojs.store")

SCHEMA_VERSION = 1
_MINUTE = 60_000
_DAY = 24 * 60 * _MINUTE

Arg = bytes | str | int | float


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Everything about jobs that an operator may decide. Times in ms, sizes in bytes.

    Parameters
    ----------
    visibility_timeout_ms: lease of a job when neither it nor its fetch names one.
    retention_completed_ms, retention_discarded_ms, retention_cancelled_ms, retention_dead_ms:
        how long finished jobs are kept (spec: ojs-queue-config, ojs-dead-letter).
    retention_workflow_ms: how long an ended workflow's record is kept.
    dead_letter_max: dead letters kept per queue; beyond it the oldest goes.
    worker_retention_ms: how long a silent worker's record is kept.
    heartbeat_interval_ms: three missed intervals make a watched worker dead, never less.
    errors_kept: entries of a job's error history, newest kept.
    result_max_bytes: largest result an ack may carry.
    events_per_shard: length of each shard's event stream; 0 switches events off.
    max_queues: most queue names; they come from clients.
    max_crons: most cron jobs.
    queue_partitions: partitions of each queue that has no number of its own.
    allow_eviction: serve although Redis may evict keys.
    """

    visibility_timeout_ms: int = 2 * _MINUTE
    retention_completed_ms: int = 7 * _DAY
    retention_discarded_ms: int = 30 * _DAY
    retention_cancelled_ms: int = 7 * _DAY
    retention_dead_ms: int = 180 * _DAY
    dead_letter_max: int = 10_000
    retention_workflow_ms: int = 7 * _DAY
    worker_retention_ms: int = 60 * _MINUTE
    heartbeat_interval_ms: int = 10_000
    errors_kept: int = 10
    result_max_bytes: int = 1024 * 1024
    events_per_shard: int = 1000
    max_queues: int = 100_000
    max_crons: int = 10_000
    queue_partitions: int = 1
    allow_eviction: bool = False


Effect = Callable[["Store", Shard, bytes], Awaitable[None]]
"""Carries out one outbox effect of a shard, given its payload. Idempotent; raises when it could
not, and is then tried again (see ``outbox``)."""


class UnusableBackend(Exception):
    """Redis answers, but must not be used as it is; the message says why and what to change."""


@dataclass(frozen=True, slots=True)
class Store:
    """The one door to the database: a Redis client, the key layout, the scripts, the settings."""

    redis: Client
    keys: Keyspace
    settings: StoreSettings
    scripts: Mapping[str, Script]
    effects: Mapping[str, Effect]
    ids: OrderedIds
    queues: QueueRegistry = field(default_factory=QueueRegistry)
    contacts: FetchContacts = field(default_factory=FetchContacts)
    partitions: Partitions = field(default_factory=Partitions)
    hints: Hints = field(default_factory=Hints)
    limited: LimitedQueues = field(default_factory=LimitedQueues)
    lost_fetches: LostFetches = field(default_factory=LostFetches)
    away: AwayShards = field(default_factory=AwayShards)

    async def run(
        self,
        shard: Shard,
        name: str,
        keys: Sequence[bytes],
        args: Sequence[Arg] = (),
        *,
        idempotent: bool = False,
    ) -> Any:
        """Run one transition on one shard.

        Parameters
        ----------
        name: file name of the script, without ``.lua``.
        keys, args: as the head of the script says.
        idempotent: whether running it twice is the same as once, so that a lost reply may be
            answered by running it again.

        Raises
        ------
        BackendUnavailable: Redis did not answer in time.
        """
        return await self.redis.script(
            shard.slot, self.scripts[name], keys, args, idempotent=idempotent
        )

    async def run_meta(
        self, name: str, keys: Sequence[bytes], args: Sequence[Arg], *, idempotent: bool = True
    ) -> Any:
        """Run one script on the keys of the whole cluster; otherwise as ``run``."""
        return await self.redis.script(
            self.keys.meta.slot, self.scripts[name], keys, args, idempotent=idempotent
        )


@asynccontextmanager
async def open_store(
    redis: ClientSettings,
    settings: StoreSettings | None = None,
    *,
    shards: int = 64,
    prelude: str = "",
) -> AsyncIterator[Store]:
    """Connect, check that the data can be used, and yield the store.

    Parameters
    ----------
    shards: how many logical shards to lay data out over; must match the data that is there.
    prelude: Lua put before every script, for tests.

    Raises
    ------
    UnusableBackend: another shard count or schema version, or an eviction policy that loses jobs.
    BackendUnavailable: Redis did not answer in time.
    """
    settings = settings or StoreSettings()
    keys = Keyspace(shards)
    async with open_client(replace(redis, marks=keys.marks)) as client:
        # Not at the top: these are themselves made of store functions.
        from ojs_cluster.store.effects import EFFECTS
        from ojs_cluster.store.nack import release_lost

        store = Store(client, keys, settings, load_scripts(prelude), EFFECTS, OrderedIds(shards))
        await _check_schema(store, shards)
        await check_eviction(store)
        await store.partitions.read(store)
        async with _releasing(store.lost_fetches, partial(release_lost, store)):
            yield store


@asynccontextmanager
async def _releasing(lost: LostFetches, release: Release) -> AsyncIterator[None]:
    """Release the jobs of lost fetches while the block runs, and once more at its end."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        # As in ``open_client``: what the block raises is carried past the nursery, unwrapped.
        try:
            nursery.start_soon(lost.run, release)
            yield
            await lost.finish(release)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _check_schema(store: Store, shards: int) -> None:
    version, found = await store.run_meta(
        "schema", [store.keys.meta.schema], [SCHEMA_VERSION, shards]
    )
    if int(version) != SCHEMA_VERSION:
        raise UnusableBackend(
            f"the data in Redis has schema version {int(version)}, this server needs "
            f"{SCHEMA_VERSION}: run the server version that wrote it, or use an empty Redis"
        )
    if int(found) != shards:
        raise UnusableBackend(
            f"the data in Redis is laid out over {int(found)} shards, but OJS_SHARDS is {shards}: "
            f"set OJS_SHARDS={int(found)} (the count is fixed when the cluster is first used)"
        )


async def check_eviction(store: Store) -> None:
    """Look at every master's eviction policy; one that is allowed all the same is logged.

    Raises
    ------
    UnusableBackend: one may drop jobs.
    BackendUnavailable: Redis did not answer in time.
    """
    for address, reply in (await store.redis.on_masters("INFO", "memory")).items():
        if not isinstance(reply, bytes):
            continue
        lines = dict(line.split(b":", 1) for line in reply.splitlines() if b":" in line)
        policy = lines.get(b"maxmemory_policy", b"noeviction").decode()
        if policy == "noeviction":
            continue
        if not store.settings.allow_eviction:
            raise UnusableBackend(
                f"Redis at {address} has maxmemory-policy {policy}, which loses jobs when memory "
                "is short: set it to noeviction, or set OJS_ALLOW_EVICTION=true to accept the loss"
            )
        log.warning("Redis at %s may evict jobs (maxmemory-policy %s)", address, policy)
