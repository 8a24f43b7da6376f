"""The loops of a scheduler, a row each: what one step does, how often, and for which shards.

A step that is one function of the store is named in its row. Steps that do more are in ``loops/``.
Webhook deliveries (``loops/webhooks.py``) have two loops in one, so ``runner`` adds them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from ojs_cluster.keys import Shard
from ojs_cluster.store.context import Store
from ojs_cluster.store.engine.outbox.outbox import OnBlocked, drain, drain_blocked
from ojs_cluster.store.engine.queues.deadlines import promote, reap
from ojs_cluster.store.features.bulk.execution import run_due
from ojs_cluster.store.features.rate_limits.rate_limits import sweep_rate_limits
from ojs_cluster.store.features.retention.retention import purge_due
from ojs_cluster.store.ground.sweep_result import SweepResult
from ojs_cluster.store.operators.migrations.execution import migrate
from ojs_cluster.store.operators.pressure.pressure import check_due
from ojs_scheduler.loops import cron, dead_workers, janitor, statistics
from ojs_scheduler.pacing import Step, StepLimiter
from ojs_scheduler.settings import SchedulerSettings

OUTBOX_BLOCKED = "outbox_blocked"
"""The loop to which the loop ``outbox`` announces the next attempt at an unreachable shard."""


class Pacing(Enum):
    """How often a loop checks a shard without announced work, and how long a step may take."""

    TIMED = auto()
    """Often. The step is one script and fails after the call timeout."""
    UNLIMITED = auto()
    """Often. The step is many scripts, each of which has a timeout."""
    SLOW = auto()
    """At the interval of the janitor."""
    SLOWEST = auto()
    """At the interval for records that take little memory."""


@dataclass(frozen=True, slots=True)
class Row:
    """One loop.

    Attributes:
        name: its name in logs and metrics.
        step: one piece of its work.
        pacing: how often it runs.
        is_announced: whether other processes announce its deadlines, for which it wakes.
        concurrency: maximum number of simultaneous steps; None for the configured one.
    """

    name: str
    step: Step
    pacing: Pacing
    is_announced: bool = False
    concurrency: int | None = None


def shard_rows(store: Store, settings: SchedulerSettings, on_blocked: OnBlocked) -> tuple[Row, ...]:
    """Return the loops that work on each shard.

    Args:
        store: an open store.
        settings: the settings.
        on_blocked: called when outbox entries must wait for an unreachable shard.
    """
    timed, unlimited, slow, slowest = Pacing
    recover = dead_workers.step(
        dead_workers.RedisWorkerStore(store, settings.worker_batch),
        range(len(store.keys)),
        limiter=StepLimiter(settings.shard_concurrency),
        call_timeout_s=settings.call_timeout_ms / 1000,
    )

    def sweep(function: Callable[[Store, Shard, int], Awaitable[SweepResult]], batch: int) -> Step:
        return lambda index: function(store, store.keys.shard(index), batch)

    batch, few = settings.promote_batch, settings.janitor_batch
    drain_shard = partial(drain, on_blocked=on_blocked)
    return (
        # Makes due jobs available. A fetch also promotes those of its queues. Long polls, and
        # requests that show jobs or statistics, need the loop.
        Row("promote", sweep(promote, batch), timed, is_announced=True),
        Row("reap", sweep(reap, settings.reap_batch), timed, is_announced=True),
        # One step grants and revokes. The two sorted sets that it reads are nearly always empty.
        Row("rate_limits", sweep(sweep_rate_limits, batch), unlimited, is_announced=True),
        Row("outbox", sweep(drain_shard, settings.outbox_batch), unlimited, is_announced=True),
        # A loop of its own, because it waits for shards that may not answer.
        Row(OUTBOX_BLOCKED, sweep(drain_blocked, settings.outbox_batch), slow),
        Row("dead_workers", recover, unlimited),
        Row("purge", sweep(purge_due, few), slow, concurrency=1),
        Row("workflows", janitor.workflows_step(store, few), slow, concurrency=1),
        Row("tidy", janitor.tidy_step(store, few), slowest, concurrency=1),
    )


def cluster_rows(store: Store, settings: SchedulerSettings) -> tuple[Row, ...]:
    """Return the loops that only the leader of the meta tag runs, where their records are."""
    _, unlimited, slow, slowest = Pacing

    def whole(function: Callable[[Store], Awaitable[SweepResult]]) -> Step:
        return lambda _: function(store)

    migration = partial(migrate, may_begin=settings.migrate)
    return (
        Row("cron", cron.step(store, settings.cron_batch), unlimited, is_announced=True),
        # The position of an operation is stored after each slice, so the next leader continues.
        Row("bulk", whole(run_due), unlimited, is_announced=True, concurrency=1),
        # Announces that queues which were nearly full are not any more.
        Row("pressure", whole(check_due), unlimited, is_announced=True, concurrency=1),
        Row("retire", janitor.retire_step(store), slowest, concurrency=1),
        Row("partitions", janitor.partitions_step(store), unlimited, concurrency=1),
        Row("weights", janitor.weights_step(store), unlimited, concurrency=1),
        Row("statistics", statistics.step(store), slow, concurrency=1),
        Row("migrations", whole(migration), unlimited, concurrency=1),
    )


def eviction_row(store: Store) -> Row:
    """Return the loop that needs no leader."""
    return Row("eviction", janitor.eviction_step(store), Pacing.SLOW, concurrency=1)
