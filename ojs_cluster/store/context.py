"""What every store function needs, and the checks made once before any of them runs."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.ids import OrderedIds
from ojs_cluster.keys import Keyspace, Shard
from ojs_cluster.redis.client import Client, open_client
from ojs_cluster.redis.rights import MissingRight
from ojs_cluster.redis.script import Script
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.store import coverage, rights
from ojs_cluster.store.away import AwayShards
from ojs_cluster.store.background import Background
from ojs_cluster.store.contacts import FetchContacts
from ojs_cluster.store.depths import QueueDepths
from ojs_cluster.store.hints import Hints, LimitedQueues
from ojs_cluster.store.limit_keys import LimitKeys
from ojs_cluster.store.lost_fetches import LostFetches
from ojs_cluster.store.partitions import Partitions
from ojs_cluster.store.registry import QueueRegistry
from ojs_cluster.store.schema import UnusableBackend, check_schema
from ojs_cluster.store.scripts import load_scripts

log = logging.getLogger("ojs.store")

_POLL_S = 0.01
_OPENING_S = 2.0
"""Longest wait in seconds of a starting process for a master that may be away."""
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
    max_queue_depth: most jobs that wait in a queue without a bound of its own, 0 for no bound.
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
    max_queue_depth: int = 0
    queue_partitions: int = 1
    allow_eviction: bool = False


Effect = Callable[["Store", Shard, bytes], Awaitable[None]]
"""Carries out one outbox effect of a shard, given its payload. Idempotent; raises when it could
not, and is then tried again (see ``outbox``)."""


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
    limit_keys: LimitKeys = field(default_factory=LimitKeys)
    bounded: LimitedQueues = field(default_factory=LimitedQueues)
    depths: QueueDepths = field(default_factory=QueueDepths)
    lost_fetches: LostFetches = field(default_factory=LostFetches)
    away: AwayShards = field(default_factory=AwayShards)
    background: Background = field(default_factory=Background)

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

    Masters that are away do not hold it up for longer than ``_OPENING_S`` each check: it serves the
    shards of the others. At least one must say how the data is laid out.

    Parameters
    ----------
    shards: how many logical shards to lay data out over; must match the data that is there.
    prelude: Lua put before every script, for tests.

    Raises
    ------
    UnusableBackend: another shard count or schema version, or an eviction policy that loses jobs.
    MissingRights: the Redis user may not do what this server does.
    BackendUnavailable: Redis did not answer in time.
    """
    settings = settings or StoreSettings()
    keys = Keyspace(shards)
    # Before there is a client, whose coarse clock would stand still: it takes a second of CPU time.
    scripts = load_scripts(prelude)
    failure: Exception | None = None
    async with (
        open_client(replace(redis, marks=keys.marks)) as client,
        trio.open_nursery() as nursery,
    ):
        # An exception of the block passes the nursery by, which would wrap it in a group.
        try:
            # Not at the top: these are themselves made of store functions.
            from ojs_cluster.store.effects import EFFECTS
            from ojs_cluster.store.nack import release_lost

            store = Store(
                *(client, keys, settings, scripts, EFFECTS, OrderedIds(shards)),
                background=Background(nursery),
            )
            await rights.check(store)
            await check_schema(store, shards)
            _note_idle_masters(store)
            silent = await check_eviction(store)
            if silent:
                log.warning("masters that do not answer: %s", ", ".join(map(str, silent)))
            await store.background.once("coverage", partial(coverage.check, store), 0)
            if client.answers(keys.meta.slot):
                with trio.move_on_after(_OPENING_S), suppress(BackendUnavailable):
                    await store.partitions.read(store)
            release = partial(release_lost, store)
            nursery.start_soon(store.lost_fetches.run, release)
            yield store
            await store.lost_fetches.finish(release)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _note_idle_masters(store: Store) -> None:
    """Log that some masters serve no shard: there are too few shards, or slots lie unevenly."""
    slots = sorted(shard.slot for shard in store.keys)
    topology = store.redis.topology
    masters = topology.masters
    serving = {
        item.master
        for item in topology.ranges
        if bisect_left(slots, item.first) < bisect_right(slots, item.last)
    }
    if len(serving) < len(masters):
        log.warning(
            "%d of %d Redis masters serve none of the %d shards: see docs/scaling.md",
            *(len(masters) - len(serving), len(masters), len(slots)),
        )


async def check_eviction(store: Store) -> list[Address]:
    """Look at every master's eviction policy; one that is allowed all the same is logged.

    Returns
    -------
    The masters that did not answer in time.

    Raises
    ------
    UnusableBackend: one may drop jobs.
    BackendUnavailable: no master answered in time.
    """
    replies: dict[Address, Any] = {}

    async def ask(address: Address) -> None:
        with suppress(BackendUnavailable):
            try:
                replies[address] = await store.redis.call_at(address, "INFO", "memory")
            except MissingRight as error:
                replies[address] = None
                _note_unchecked(str(error))

    masters = store.redis.topology.masters
    async with trio.open_nursery() as nursery:
        for address in masters:
            nursery.start_soon(ask, address)
        # One that answers may have been slow to do so; others may be away.
        with trio.move_on_after(_OPENING_S):
            while len(replies) < len(masters):  # noqa: ASYNC110 - they may never be all
                await trio.sleep(_POLL_S)
        while nursery.child_tasks and not replies:  # noqa: ASYNC110 - as above
            await trio.sleep(_POLL_S)
        nursery.cancel_scope.cancel()
    if not replies:
        raise BackendUnavailable("no Redis master answers", outcome="not_applied")
    for address, reply in replies.items():
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
    return [address for address in masters if address not in replies]


@lru_cache(maxsize=64)
def _note_unchecked(why: str) -> None:
    """Log once that a policy cannot be looked at; the scheduler tries every minute."""
    log.info("maxmemory-policy is not checked: %s", why)
