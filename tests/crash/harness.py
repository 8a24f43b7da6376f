"""Test every operation over several shards by failing it at each Redis command in turn.

An operation (``Operation``) prepares its data, acts, and can tell whether it was applied. The
harness counts the commands itself. It fails the first command, then the second, until the operation
ends undisturbed. So a new command is covered without a change here. There are three kinds of
failure (``Mode``). Afterwards the surviving processes recover as the scheduler does. Time is
shifted instead of awaited. Then the harness checks:

* The operation was applied completely or not at all.
* After all jobs have ended and retention is over, no key is left: no lock, alias, reservation,
  outbox entry or record of a transaction. Keys that may stay are listed (``leftovers``), so a new
  kind of key fails the test until it is added there.
* If the operation was not applied, repeating it applies it. The harness first checks for leftovers
  without a repetition, because a repetition removes what the dead process has left.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ojs_cluster.core.errors import Conflict
from ojs_cluster.core.jobs.states import TERMINAL
from ojs_cluster.server.embedded.servers import Embedded
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.jobs.cancel import cancel
from ojs_cluster.store.features.cron.cron_store import RedisCronStore
from ojs_cluster.store.features.cron.firing import fire_due
from ojs_cluster.store.features.retention.retention import purge_due, remove_leftovers
from ojs_cluster.store.features.workflows.workflows import purge_ended
from ojs_cluster.store.ground import job_fields as f
from tests.store.shortcuts import HOUR, ack, take
from tests.store.unique_jobs import keys_there, recover
from tests.support.failing_process import Mode, fail_at
from tests.support.invariants import check_invariants
from tests.support.servers import hashes
from tests.support.timeshift import age_cron

SHARDS = 4
"""Enough for every operation to span several shards, and few enough to recover all of them hundreds
of times.
"""
YEAR = 366 * 24 * HOUR

_KEPT = re.compile(
    rb"ojs:\{meta\}:(schema|queues|events|cron_counts|partitions|partition_changes|history_minutes|history_hours|webhooks|job_schemas|pools|tenants|known_tenants)"
    rb"|ojs:\{meta\}:queue_defaults"
    rb"|ojs:\{[0-9.]+\}:(events|outbox|schema|workers|last_worker_check|c:.*|m:.*|w:.*|l:.*)"
    rb"|ojs:\{[0-9.]+\}:(rate_limits|rate_limit_checks|history_totals|s:.*|t:.*|ty:.*)"
    rb"|ojs:\{[0-9.]+\}:(error_groups|error_group_times)"
    rb"|ojs:\{[0-9.]+\}:webhook_(deliveries|delivered|counts)"
    rb"|ojs:\{[0-9.]+\}:(ik:.*|job_types|th:.*|ta:.*|iv:.*)"
)
"""Keys that stay for a bounded time: streams, outbox counters, and records of queues, their
partitions, workers, rate limit keys, tenants, idempotency keys, errors and types of jobs, and the
index of the search.
"""


class Operation(Protocol):
    """An operation of several commands that must be atomic."""

    least: int
    """Smallest number of commands, so that the operation cannot become trivial unnoticed."""

    async def prepare(self, world: World) -> Any:
        """Create the data that the operation needs."""
        ...

    async def act(self, store: Store, scene: Any) -> None:
        """Run the operation."""
        ...

    async def happened(self, world: World, scene: Any) -> bool:
        """Return whether the operation was applied.

        Raises:
            AssertionError: it was applied in part.
        """
        ...

    async def finish(self, world: World, scene: Any) -> None:
        """End what does not end with the jobs."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """The surviving process, and redis-py as an observer."""

    store: Store
    db: Any
    backend: Embedded

    def live(self) -> set[str]:
        """Return the visible jobs that have not ended."""
        found = set()
        for key, job in hashes(self.db, "ojs:*:j:*").items():
            if (
                f.STATE in job
                and f.TRANSACTION not in job
                and job[f.STATE].decode() not in TERMINAL
            ):
                found.add(key.rpartition(b":")[2].decode())
        return found

    def has_pending_work(self) -> bool:
        """Return whether an outbox entry or the firing of a cron job is pending."""
        crons = self.db.scan_iter(match="ojs:{meta}:cron:*", count=10_000)
        return self._outbox() or any(self.db.hexists(name, "firing") for name in crons)

    def _outbox(self) -> bool:
        there = keys_there(self.db)
        return any(
            shard.outbox_due in there or shard.outbox_blocked_shards in there
            for shard in self.store.keys
        )

    async def recover(self, ms: int = 0, store: Store | None = None) -> None:
        """Run what the scheduler runs ``ms`` after a crash, in the process of ``store``."""
        store = store or self.store
        await recover(store, self.db, ms)
        for _ in range(20):  # what is carried out may owe more
            if not self._outbox():
                break
            await recover(store, self.db)
        meta = self.store.keys.meta
        for name in self.db.zrange(meta.crons, 0, -1):
            age_cron(self.db, meta, name.decode(), 3000)
        while (await fire_due(RedisCronStore(store), 100)).more:
            pass

    async def end_all_jobs(self) -> None:
        """Run or cancel every job, then let retention end."""
        meta = self.store.keys.meta
        for _ in range(20):
            await self._end_isolations()
            names = [name.decode() for name in self.db.zrange(meta.queues, 0, -1)]
            if names:
                await take(self.store, *names, count=100)
            there = keys_there(self.db)
            for shard in self.store.keys:
                active, *waiting = (
                    self.db.zrange(index, 0, -1) if index in there else []
                    for index in (shard.active, shard.due, shard.pending)
                )
                for job_id in active:
                    await ack(self.store, job_id.decode(), result=b"1")
                for ids in waiting:
                    for job_id in ids:
                        with suppress(Conflict):
                            await cancel(self.store, job_id.decode())
            await self.recover()
            if not self.live():
                break
        assert self.live() == set()
        await self._end_isolations()
        await self.recover(HOUR)
        for shard in self.store.keys:
            for index in (shard.finished, shard.ended_workflows):
                for member in self.db.zrange(index, 0, -1):
                    self.db.zincrby(index, -YEAR, member)
            while (await purge_due(self.store, shard, 100)).more:
                pass
            while (await purge_ended(self.store, shard, 100)).more:
                pass
        await self.recover(HOUR)  # that aliases have gone is checked once more

    async def _end_isolations(self) -> None:
        """Let the time pass for which workers run suspects alone."""
        for shard in self.store.keys:
            for member in self.db.zrange(shard.quiet_workers, 0, -1):
                if b"\n" in member:  # see isolated_workers.lua
                    self.db.zincrby(shard.quiet_workers, -HOUR, member)
                    await remove_leftovers(self.store, shard)

    def leftovers(self) -> list[bytes]:
        """Return every key that should be gone."""
        left = [key for key in keys_there(self.db) if not _KEPT.fullmatch(key)]
        for shard in self.store.keys:
            left += [shard.outbox + b" " + number for number in self.db.hkeys(shard.outbox)]
        return [key for key in left if not key.endswith(b" seq")]

    def check_nothing_left(self, when: object) -> None:
        """Check that nothing is left and that the invariants hold."""
        left = self.leftovers()
        assert left == [], (when, left)
        assert check_invariants(self.backend, shards=SHARDS).problems == [], when


async def failing_at_every_command(world: World, operation: Operation, mode: Mode) -> None:
    """Fail at each command in turn, until the operation ends undisturbed."""
    at, failed = 0, True
    while failed:
        at += 1
        for again in (False, True):
            when = (mode, at, again)
            scene = await operation.prepare(world)
            failed, done = await fail_at(world.store, at, mode, lambda s: operation.act(s, scene))  # noqa: B023
            if await _settle(world, operation, scene, done, when, again):
                break
    assert at > operation.least, f"failed {at} times, at least {operation.least} were expected"


async def failing_twice_at_every_command(
    world: World, operation: Operation, mode: Mode, *, every: bool = False
) -> None:
    """Fail an operation so that work remains, then fail the recovery at each of its commands.

    Args:
        world: the surviving process.
        operation: the operation.
        mode: the kind of failure.
        every: fail the operation at every command, not only at the first that leaves work.
    """
    first, failed = 0, True
    tried = 0
    while failed:
        first += 1
        second, fails_again = 0, True
        while fails_again:
            second += 1
            for again in (False, True):
                when = (mode, first, second, again)
                scene = await operation.prepare(world)
                failed, done = await fail_at(
                    world.store,
                    first,
                    mode,
                    lambda s: operation.act(s, scene),  # noqa: B023 - awaited here
                )
                fails_again = failed and (every or world.has_pending_work())
                if fails_again:
                    fails_again, _ = await fail_at(
                        world.store, second, mode, lambda s: world.recover(HOUR, s)
                    )
                if await _settle(world, operation, scene, done, when, again):
                    break
        tried = max(tried, second)
        if second > 1 and not every:
            break
    assert tried > 2, "no failure left work to recover"


async def _settle(
    world: World, operation: Operation, scene: Any, done: bool, when: object, again: bool
) -> bool:
    """Recover and check everything; return whether the operation was applied without a repetition.

    Args:
        world: the surviving process.
        operation: the operation.
        scene: the data of the operation.
        done: whether the process reported success.
        when: names the failure in messages.
        again: whether to repeat an operation that was not applied.
    """
    await world.recover()
    happened = await operation.happened(world, scene)
    assert happened or not done, when
    if again and not happened:
        await world.recover(HOUR)
        await operation.act(world.store, scene)
        await world.recover()
        assert await operation.happened(world, scene), when
    await operation.finish(world, scene)
    await world.end_all_jobs()
    world.check_nothing_left(when)
    return happened
