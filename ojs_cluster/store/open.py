"""Open the store: connect to Redis, check that the data can be used, and create a ``Store``."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import trio

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.core.jobs.ids import OrderedIds
from ojs_cluster.keys import Keyspace
from ojs_cluster.redis.acl_errors import AclDenied
from ojs_cluster.redis.client import open_client
from ojs_cluster.redis.settings import Address, ClientSettings
from ojs_cluster.store.context import Store
from ojs_cluster.store.effects import EFFECTS
from ojs_cluster.store.engine.jobs.nack import release_unanswered
from ojs_cluster.store.engine.transactions import transactions
from ojs_cluster.store.ground.background import Background
from ojs_cluster.store.ground.process_state.migration import LAYOUTS, Layouts, LayoutState
from ojs_cluster.store.ground.process_state.noticed import NoticedPressure
from ojs_cluster.store.ground.scripts import load_scripts
from ojs_cluster.store.ground.settings import StoreSettings
from ojs_cluster.store.operators.migrations.layout import UnusableBackend, check_layout
from ojs_cluster.store.operators.operations import coverage, rights
from ojs_cluster.store.operators.pressure.pressure import check_pressure

log = logging.getLogger("ojs.store")

_POLL_S = 0.01
"""Interval in seconds at which a starting process checks for replies."""
_OPENING_S = 2.0
"""Maximum time in seconds that a starting process waits for a master that does not answer."""
_CLOCK_S = 10.0
"""Maximum time in seconds that a starting process waits until a master has told its time."""


@asynccontextmanager
async def open_store(
    redis: ClientSettings,
    settings: StoreSettings | None = None,
    *,
    shards: int = 64,
    prelude: str = "",
    layouts: Layouts = LAYOUTS,
) -> AsyncIterator[Store]:
    """Connect, check that the data can be used, and yield the store.

    Each check waits at most ``_OPENING_S`` for unreachable masters. The store then serves the
    shards of the other masters. At least one master must answer with the layout of the data, and
    one with its time.

    Args:
        redis: the settings of the client.
        settings: the settings of the store, None for the defaults.
        shards: number of shards; existing data must have the same number.
        prelude: Lua code put before every script, for tests.
        layouts: what this version can serve; tests pass their own.

    Raises:
        UnusableBackend: the data has another number of shards, or a layout that this version cannot
            serve, or an eviction policy may lose jobs.
        MissingRights: the Redis user lacks rights that this server needs.
        BackendUnavailable: Redis did not answer in time.
    """
    settings = settings or StoreSettings()
    keys = Keyspace(shards)
    # The scripts are loaded before the client starts. Loading takes a second of CPU time, in which
    # the client could not update its clock.
    scripts = load_scripts(prelude)
    failure: Exception | None = None
    async with (
        open_client(replace(redis, probe_keys=keys.wal_probes)) as client,
        trio.open_nursery() as nursery,
    ):
        # The nursery would wrap an exception in an exception group. So the exception is kept, and
        # raised after the nursery has ended.
        try:
            store = Store(
                redis=client,
                keys=keys,
                settings=settings,
                scripts=scripts,
                background=Background(nursery),
                effects=EFFECTS,
                finish_transaction=transactions.finish,
                ids=OrderedIds(shards),
                layout=LayoutState(layouts),
                pressure=NoticedPressure(check_pressure),
            )
            nursery.start_soon(store.clock.run, client)
            await rights.check(store)
            await check_layout(store, shards)
            _note_idle_masters(store)
            silent = await check_eviction(store)
            if silent:
                log.warning("masters that do not answer: %s", ", ".join(map(str, silent)))
            await _wait_for_clock(store)
            await store.background.once("coverage", partial(coverage.check, store), 0)
            if client.is_responsive(keys.meta.slot):
                with trio.move_on_after(_OPENING_S), suppress(BackendUnavailable):
                    await store.partitions.read(store)
            release = partial(release_unanswered, store)
            nursery.start_soon(store.unanswered_fetches.run, release)
            nursery.start_soon(store.job_counts.run, store)
            nursery.start_soon(store.pools.run, store)
            try:
                yield store
            finally:
                await store.schemas.process.close()
            await store.job_counts.finish(store)
            await store.pools.finish(store)
            await store.unanswered_fetches.finish(release)
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _wait_for_clock(store: Store) -> None:
    """Wait until the clock of Redis is known. That of this process may be wrong.

    Raises:
        BackendUnavailable: no master has told its time.
    """
    with trio.move_on_after(_CLOCK_S):
        await store.clock.measured.wait()
    if not store.clock.measured.is_set():
        raise BackendUnavailable("no Redis master tells its time", outcome="not_applied")


def _note_idle_masters(store: Store) -> None:
    """Warn when a master serves no shard: there are few shards, or slots are spread unevenly."""
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
    """Check every master's eviction policy.

    If the settings allow eviction, log a warning for a policy that may evict jobs.

    Returns:
        The masters that did not answer in time.

    Raises:
        UnusableBackend: a master may evict jobs.
        BackendUnavailable: no master answered in time.
    """
    replies: dict[Address, Any] = {}

    async def read_info(address: Address) -> None:
        with suppress(BackendUnavailable):
            try:
                replies[address] = await store.redis.call_node(address, "INFO", "memory")
            except AclDenied as error:
                replies[address] = None
                _note_unchecked(str(error))

    masters = store.redis.topology.masters
    async with trio.open_nursery() as nursery:
        for address in masters:
            nursery.start_soon(read_info, address)
        # Wait for slow masters, but not long for unreachable ones.
        with trio.move_on_after(_OPENING_S):
            while len(replies) < len(masters):  # noqa: ASYNC110 - some may never answer
                await trio.sleep(_POLL_S)
        while nursery.child_tasks and not replies:  # noqa: ASYNC110 - some may never answer
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
    """Log why a policy cannot be read. The cache prevents a repetition in each check."""
    log.info("cannot check maxmemory-policy: %s", why)
