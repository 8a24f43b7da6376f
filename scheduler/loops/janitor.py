"""The janitor: remove finished jobs after their retention, and other records that are not needed.

The store's own deadlines pace the purge. The other steps have none: each runs again after its
loop's longest sleep. Their results carry no clock, so their ``next_ms`` counts from 0.
"""

from __future__ import annotations

from ojs_cluster.core.errors import BackendUnavailable
from ojs_cluster.store.context import Store
from ojs_cluster.store.open import check_eviction
from ojs_cluster.store.queues.partition_maintenance import advance_changes
from ojs_cluster.store.sweeps.retention import purge_due, remove_leftovers, retire_queues
from ojs_cluster.store.sweeps.sweep_result import SweepResult
from ojs_cluster.store.workflows.progress_check import WorkflowCheck
from ojs_cluster.store.workflows.workflows import purge_ended
from scheduler.pacing import Step, StepResult

# Queue names are one list under the meta tag. A sweep reads it in pages, with this pause in ms
# between two, so that 100 000 queues cause no burst.
_PAGE = 100
_PAGE_PAUSE_MS = 100
# Workflows without progress that one step checks: each may have a thousand jobs.
_MAX_CHECKED = 20
# Well before producers use the new partitions of a queue: see ``ojs_cluster.core.partitions``.
_CHANGES_MS = 3000


def purge_step(store: Store, batch: int) -> Step:
    """Return the step that removes at most ``batch`` finished jobs of one shard."""

    async def purge_shard(shard: int) -> StepResult:
        return await purge_due(store, store.keys.shard(shard), batch)

    return purge_shard


def workflows_step(store: Store, batch: int) -> Step:
    """Return the step that removes at most ``batch`` ended workflows of one shard.

    It also checks running workflows without progress.
    """
    workflow_check = WorkflowCheck()

    async def purge_and_check(index: int) -> StepResult:
        shard = store.keys.shard(index)
        ended = await purge_ended(store, shard, batch)
        checked = await workflow_check.check(store, shard, min(batch, _MAX_CHECKED))
        times_ms = [result.next_ms for result in (ended, checked) if result.next_ms is not None]
        return SweepResult(
            ended.done + checked.done,
            next_ms=min(times_ms, default=None),
            now_ms=ended.now_ms,
            more=ended.more or checked.more,
        )

    return purge_and_check


def tidy_step(store: Store, batch: int) -> Step:
    """Return the step that removes old worker records, flags and aliases of one shard."""

    async def tidy_shard(shard: int) -> StepResult:
        removed = await remove_leftovers(store, store.keys.shard(shard), batch)
        return SweepResult(removed, next_ms=None, now_ms=0, more=removed >= batch)

    return tidy_shard


def retire_step(store: Store) -> Step:
    """Return the step that removes the idle queues of one page of names, then of the next."""
    cursor = ""

    async def retire_page(_: int) -> StepResult:
        nonlocal cursor
        retired, cursor = await retire_queues(store, cursor, _PAGE)
        return SweepResult(
            retired, next_ms=_PAGE_PAUSE_MS if cursor else None, now_ms=0, more=False
        )

    return retire_page


def partitions_step(store: Store) -> Step:
    """Return the step that completes changes of the number of partitions."""

    async def advance(_: int) -> StepResult:
        done = await advance_changes(store)
        return SweepResult(done, next_ms=_CHANGES_MS, now_ms=0, more=False)

    return advance


def eviction_step(store: Store) -> Step:
    """Return the step that fails while a master may evict jobs. It belongs to no shard.

    Every process checks this at its start, and every scheduler repeats it. A check by one leader
    alone could wait for an unreachable master. The policy may change later, and a new master may
    have another one. Work continues while the step fails, because most of it is done before memory
    is short. The failure is logged and counted, so that an operator can change the policy.
    """

    async def check_policies(_: int) -> StepResult:
        if not store.settings.allow_eviction:
            silent = await check_eviction(store)
            if silent:
                raise BackendUnavailable(f"{silent[0]} does not answer", outcome="not_applied")
        return SweepResult(0, next_ms=None, now_ms=0, more=False)

    return check_policies
